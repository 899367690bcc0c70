"""Modalities given as vectors: read by item, checked, and carried into the item space by the night."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.config import Paths
from pipelines.encode import align_shop, encode_shop
from pipelines.modalities import read_modalities
from pipelines.night_config import NightConfig, load_config
from recsys.alignment.train import AlignmentConfig
from recsys.alignment.users import UserTowerConfig
from recsys.data.synthetic import ShopConfig, make_shop
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


def test_the_night_carries_them_into_the_item_space(tmp_path: Path) -> None:
    """With the graph as fusion, so that what neighbours sound like comes along; pictures are left out to save time."""
    shop = make_shop(tmp_path, ShopConfig(n_items=60, n_users=80, picture_size=32))
    mute = shop.items.filter(pl.col("title").is_null())["item_id"].to_list()
    assert mute
    heard = shop.items["item_id"].to_list()
    path = write(tmp_path, heard, np.random.default_rng(0).normal(size=(len(heard), 6)).tolist())
    night = NightConfig(
        paths=Paths(images=str(tmp_path / "none"), cache=str(tmp_path / "cache")),
        modalities={"audio": path},
        alignment=AlignmentConfig(dim=16, members=1, hidden=16, epochs=2, fusion="graph"),
        users=UserTowerConfig(epochs=1),
        threads=1,
    )
    encoded = encode_shop(shop.items, shop.reviews, shop.config.end, night, progress=False)
    assert encoded.counts["items with audio"] == len(heard)
    interactions = read_interactions(shop.events, heard)
    aligner, vectors = align_shop(encoded, interactions, shop.config.end, night, progress=False)
    assert {"audio", "neighbours' audio"} <= set(aligner.shape.modalities)
    rows = [heard.index(item_id) for item_id in mute]
    np.testing.assert_allclose(np.linalg.norm(vectors.fused[rows], axis=1), 1, atol=1e-3)
    again, same = align_shop(encoded, interactions, shop.config.end, night, progress=False)
    np.testing.assert_array_equal(same.fused, vectors.fused)
    assert again.history == aligner.history
