"""What a release holds for search and for items that come after it, below ``search/``.

    words/, reviews/        BM25 over what the shop says of an item, and over what its reviewers say
    parts.<modality>.npy    float16 [n, d]: what each modality adds to each item's embedding
    hubs.<kind>.npy         float32 [n]: how near each item lies to questions of that kind at all
    content.npy             uint64 [n, 2]: keys of what each item said and looked like, to tell a changed one
    <name>.*.npy            the names behind the codes of category, brand, family and attributes

A release of before has none of it, and answers all the same: by meaning alone.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.encoders.pictures import read_bytes
from recsys.errors import UnreadableImage
from recsys.words import Vocabulary, WordIndex, load_vocabulary, load_words

CODES = ("category", "brand", "family", "attributes")


@dataclass(frozen=True)
class SearchIndex:
    """See the module.

    Attributes:
        words, reviews: BM25.
        parts: modality → float16 [n, d]; see embedding_parts().
        hubs: "image" and "text", what may be asked with → float32 [n]; see recsys/alignment/hubs.py.
        content: uint64 [n, 2]; see content_keys().
        codes: for each of CODES the names, ascending; the position of a name is its code.
    """

    words: WordIndex
    reviews: WordIndex
    parts: Mapping[str, npt.NDArray[Any]]
    content: npt.NDArray[np.uint64]
    codes: Mapping[str, Vocabulary]
    hubs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write into ``folder``."""
        self.words.save(folder / "words")
        self.reviews.save(folder / "reviews")
        for kind, arrays in (("parts", self.parts), ("hubs", self.hubs)):
            for name, array in arrays.items():
                np.save(folder / f"{kind}.{name}.npy", array)
        np.save(folder / "content.npy", self.content)
        for name, names in self.codes.items():
            names.save(folder, name)


def load_search_index(folder: Path) -> SearchIndex | None:
    """Open what :meth:`SearchIndex.save` wrote, memory-mapped; None where a release has none.

    Raises:
        ReleaseError: it is incomplete.
    """
    if not (folder / "content.npy").is_file():
        return None
    parts, hubs = (
        {
            file.name.removeprefix(f"{kind}.").removesuffix(".npy"): np.asarray(np.load(file, mmap_mode="r"))
            for file in sorted(folder.glob(f"{kind}.*.npy"))
        }
        for kind in ("parts", "hubs")
    )
    return SearchIndex(
        words=load_words(folder / "words"),
        reviews=load_words(folder / "reviews"),
        parts=parts,
        content=np.asarray(np.load(folder / "content.npy", mmap_mode="r")),
        codes={name: load_vocabulary(folder, name) for name in CODES},
        hubs=hubs,
    )


def content_keys(text: str | None, picture: Path | None) -> tuple[int, int]:
    """Tell whether an item still reads and looks as it did: hashes of its text, and of its first picture's bytes.

    The second is 0 where the picture's file is not there: whether it changed is unknown. The bytes and not the file's
    time: the same shop on another machine gives the same release, and a picture exported anew is not embedded anew.
    They cost the night at most what its first step costs, which reads every picture too: a minute or four a million.
    """
    said = _key((text or "").encode("utf-8", "replace"))
    try:
        return said, _key(read_bytes(picture) if picture is not None else b"")
    except UnreadableImage:
        return said, 0


def _key(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())
