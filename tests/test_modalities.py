"""Modalities given as vectors: read by item, checked, carried into the item space, and kept where items change."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.config import Paths
from pipelines.encode import AlignedShop, EncodedShop, align_shop, encode_shop
from pipelines.modalities import read_modalities
from pipelines.night_config import NightConfig, load_config
from recsys.alignment.carried import carried_to, load_carried, save_carried
from recsys.alignment.fusion import FUSIONS
from recsys.alignment.modality import Modality
from recsys.alignment.spaces import embedding_parts
from recsys.alignment.train import AlignmentConfig
from recsys.content import picture_file
from recsys.data.synthetic import Shop, ShopConfig, make_shop
from recsys.embedder import Content, Embedder, Review
from recsys.encoders import encode_texts
from recsys.encoders.text import item_text
from recsys.errors import ConfigError
from recsys.histories import read_interactions

ITEMS = ["a", "b", "c"]


def write(folder: Path, item_ids: list[str], vectors: list[list[float] | None]) -> str:
    path = folder / "audio.parquet"
    pl.DataFrame({"item_id": item_ids, "vector": vectors}).write_parquet(path)
    return str(path)


def test_vectors_find_their_items_and_lose_their_length(tmp_path: Path) -> None:
    path = write(tmp_path, ["c", "a", "gone"], [[0.0, 3.0], [4.0, 0.0], [1.0, 1.0]])
    audio = read_modalities({"audio": path}, ITEMS)["audio"]
    np.testing.assert_array_equal(audio.present, [True, False, True])
    np.testing.assert_allclose(audio.vectors, [[1, 0], [0, 0], [0, 1]])


def test_a_null_or_zero_vector_is_absent(tmp_path: Path) -> None:
    path = write(tmp_path, ["a", "b", "c"], [None, [0.0, 0.0], [1.0, 0.0]])
    assert read_modalities({"audio": path}, ITEMS)["audio"].present.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("item_ids", "vectors", "said"),
    [
        (["a", "b"], [[1.0], [1.0, 2.0]], r"one length, came the lengths \[1, 2\]"),
        (["a", "a"], [[1.0], [2.0]], "each item_id once, came 1 again"),
        (["a", "b"], [[1.0], [float("nan")]], "finite numbers, those of item 'b'"),
        (["a", "b"], [None, None], r"one length, came the lengths \[\]"),
    ],
)
def test_what_is_no_modality_is_said_to_be_none(
    tmp_path: Path, item_ids: list[str], vectors: list[list[float] | None], said: str
) -> None:
    schema = {"item_id": pl.String, "vector": pl.List(pl.Float64)}
    path = tmp_path / "audio.parquet"
    pl.DataFrame({"item_id": item_ids, "vector": vectors}, schema=schema).write_parquet(path)
    with pytest.raises(ConfigError, match=said):
        read_modalities({"audio": str(path)}, ITEMS)


def test_a_file_that_is_not_there_and_a_name_that_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"audio = '/nowhere/at/all'.*columns item_id and vector"):
        read_modalities({"audio": "/nowhere/at/all"}, ITEMS)
    path = write(tmp_path, ["a"], [[1.0]])
    for name in ("image", "a.b"):
        with pytest.raises(ConfigError, match="none of image, text, reviews"):
            read_modalities({name: path}, ITEMS)


def test_the_configuration_names_any(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text('[modalities]\naudio = "audio.parquet"\nvideo = "video.parquet"\n')
    config = load_config(path)
    assert config.modalities == {"audio": "audio.parquet", "video": "video.parquet"}
    assert config.for_manifest()["modalities"] == ["audio", "video"]
    path.write_text("[modalities]\naudio = 3\n")
    with pytest.raises(ConfigError, match="modalities: audio: expected str, came 3"):
        load_config(path)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, NightConfig, EncodedShop]:
    """A shop that gives vectors of audio, but for every fifth item."""
    folder = tmp_path_factory.mktemp("heard")
    shop = make_shop(folder, ShopConfig(n_items=60, n_users=80, picture_size=32))
    some = [item_id for row, item_id in enumerate(shop.items["item_id"].to_list()) if row % 5]
    night = NightConfig(
        paths=Paths(images=str(folder), cache=str(folder / "cache")),
        modalities={"audio": write(folder, some, np.random.default_rng(0).normal(size=(len(some), 6)).tolist())},
        alignment=AlignmentConfig(dim=16, members=1, hidden=16, epochs=2),
        threads=1,
    )
    return shop, night, encode_shop(shop.items, shop.reviews, shop.config.end, night, progress=False)


def align(heard: tuple[Shop, NightConfig, EncodedShop], fusion: str) -> AlignedShop:
    shop, night, encoded = heard
    night = replace(night, alignment=replace(night.alignment, fusion=fusion))
    interactions = read_interactions(shop.events, shop.items["item_id"].to_list())
    return align_shop(encoded, interactions, shop.config.end, night, progress=False)


def contents(heard: tuple[Shop, NightConfig, EncodedShop], rows: Sequence[int]) -> list[Content]:
    """Items as the service would find them in the database, nothing changed."""
    shop, night, _ = heard
    said: dict[str, list[Review]] = {}
    words = pl.concat_str("title", "text", separator=". ", ignore_nulls=True)
    columns = shop.reviews.select("item_id", words, "rating", "helpful_votes", "timestamp")
    for item_id, text, rating, votes, when in columns.iter_rows():
        age_days = (shop.config.end - when).total_seconds() / 86_400
        said.setdefault(item_id, []).append(Review(text, rating, votes, age_days))
    fields = ("item_id", "images", "title", "description", "category", "brand", "attributes")
    return [
        Content(item_text(*of), picture_file(images, Path(night.paths.images)), said.get(item_id, ()), row)
        for row, (item_id, images, *of) in zip(rows, shop.items.select(fields)[rows].iter_rows())
    ]


def test_the_night_carries_them_into_the_item_space(heard: tuple[Shop, NightConfig, EncodedShop]) -> None:
    """With the graph as fusion, so that what neighbours sound like comes along."""
    assert heard[2].counts["items with audio"] == 48
    aligned = align(heard, "graph")
    assert {"audio", "neighbours' audio"} <= set(aligned.aligner.shape.modalities)
    np.testing.assert_allclose(np.linalg.norm(aligned.vectors.fused, axis=1), 1, atol=1e-3)
    again = align(heard, "graph")
    np.testing.assert_array_equal(again.vectors.fused, aligned.vectors.fused)
    assert again.aligner.history == aligned.aligner.history


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_did_not_change_is_embedded_again_as_the_night_did(
    heard: tuple[Shop, NightConfig, EncodedShop], fusion: str, tmp_path: Path
) -> None:
    aligned = align(heard, fusion)
    aligned.save(tmp_path / "aligner")
    embedder = Embedder(tmp_path, heard[1].for_manifest())
    rows = range(0, 60, 7)  # of rows 0 and 35 there is no audio
    made = embedder.embed_items(contents(heard, rows))
    assert np.einsum("nd,nd->n", made.fused, aligned.vectors.fused[rows]).min() > 0.999
    of_the_night = embedding_parts(aligned.aligner, aligned.modalities)
    assert set(made.parts) == {"image", "text", "reviews", "audio"}
    for name, part in made.parts.items():
        np.testing.assert_allclose(part, of_the_night[name][rows], atol=1e-2)
    whole = sum(part.astype(np.float32) for part in of_the_night.values())
    np.testing.assert_allclose(whole, aligned.vectors.fused, atol=5e-3)


@pytest.mark.slow
def test_with_other_words_an_item_sounds_as_before_and_a_new_one_is_silent(
    heard: tuple[Shop, NightConfig, EncodedShop], tmp_path: Path
) -> None:
    aligned = align(heard, "mean")
    aligned.save(tmp_path / "aligner")
    embedder = Embedder(tmp_path, heard[1].for_manifest())
    made = embedder.embed_items([Content("A hat.", row=1), Content("A hat.", row=0), Content("A hat.")])
    audio = heard[2].modalities["audio"]
    expected = aligned.aligner.embed(
        {"text": encoded_words("A hat.", heard[1]), "audio": Modality(audio.vectors[1:2], np.ones(1, bool))}
    )
    assert (made.fused[0] @ expected[0]) > 0.999
    assert made.parts["audio"][0].any()
    assert not made.parts["audio"][1:].any()  # row 0 never had any
    np.testing.assert_allclose(made.fused[1], made.fused[2], atol=1e-3)


def test_a_release_carries_only_what_cannot_be_encoded_again(
    heard: tuple[Shop, NightConfig, EncodedShop], tmp_path: Path
) -> None:
    save_carried({name: each for name, each in heard[2].modalities.items() if name != "audio"}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    audio = heard[2].modalities["audio"]
    vectors = np.where(audio.present[:, None], audio.vectors, np.float32("nan"))  # what is absent is never read
    save_carried({"audio": Modality(vectors, audio.present)}, tmp_path)
    loaded = load_carried(tmp_path)["audio"]
    assert loaded.dtype == np.float16
    assert isinstance(loaded.base, np.memmap)
    back = carried_to(loaded, np.array([2, -1, 0, 1]))
    assert back.present.tolist() == [True, False, False, True]
    np.testing.assert_allclose(back.vectors, [audio.vectors[2], [0] * 6, [0] * 6, audio.vectors[1]], atol=1e-3)


def encoded_words(text: str, night: NightConfig) -> Modality:
    made = encode_texts([text], night.text_encoder, None, progress=False, threads=1)
    return Modality(made.vectors, made.present)
