"""What the night leaves in a release for search and for items that come after it: see recsys/search_index.py."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.catalogue import attribute_names
from recsys.alignment.modality import Modality
from recsys.alignment.model import Aligner
from recsys.alignment.spaces import embedding_parts
from recsys.content import picture_file, reviewed_text, searched_text
from recsys.encoders.text import item_text
from recsys.histories import Float32
from recsys.search_index import SearchIndex, content_keys
from recsys.words import build_vocabulary, build_words

_SAID = ("item_id", "title", "description", "category", "brand", "family", "attributes")


def build_search(
    items: pl.DataFrame,
    reviews: pl.DataFrame,
    aligner: Aligner,
    modalities: Mapping[str, Modality],
    vectors: Float32,
    images_root: Path,
    threads: int,
) -> SearchIndex:
    """Index the words, split the embeddings, and note what each item looked like and said.

    Args:
        items, reviews: ITEMS and REVIEWS frames; rows of ``items`` are rows of the release.
        aligner, modalities: what made the embeddings.
        vectors: the embeddings, float32 [n, d].
        images_root: of relative picture paths.
        threads: of torch, and pictures read at a time.
    """
    texts = (item_text(*each) for each in items.select(*_SAID[1:5], "attributes").iter_rows())
    pictures = (picture_file(images, images_root) for images in items["images"].to_list())
    with ThreadPoolExecutor(threads) as pool:
        keys = list(pool.map(content_keys, texts, pictures))
    names = {name: build_vocabulary(items[name].drop_nulls().unique()) for name in ("category", "brand", "family")}
    return SearchIndex(
        words=build_words(searched_text(*each) for each in items.select(_SAID).iter_rows()),
        reviews=build_words(_reviews_by_row(items, reviews)),
        parts=embedding_parts(aligner, modalities, threads),
        hubs=aligner.hubness(vectors),
        content=np.array(keys, np.uint64),
        codes=names | {"attributes": build_vocabulary(attribute_names(items))},
    )


def _reviews_by_row(items: pl.DataFrame, reviews: pl.DataFrame) -> list[str]:
    said: dict[str, list[tuple[str | None, int]]] = {}
    words = pl.concat_str("title", "text", separator=". ", ignore_nulls=True)
    for item_id, text, votes in reviews.select("item_id", words, "helpful_votes").iter_rows():
        said.setdefault(item_id, []).append((text, votes))
    return [reviewed_text(said.get(item_id, ())) for item_id in items["item_id"].to_list()]
