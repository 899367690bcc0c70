"""The audit finds what was planted in the demonstration shop, and calls little else."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from pipelines.audit_duplicates import groups_of, likely_pairs, picture_difference, shared_words, thumbnail
from pipelines.audit_findings import DISAGREE, MISSING, SAME_PICTURE, SAME_WORDS, TWICE, Audit
from pipelines.audit_fit import FALSE_SHARE, judge_fit, swapped_pairs
from pipelines.audit_page import audit_page
from pipelines.cli import main
from pipelines.config import Paths
from recsys.data.database import open_database
from recsys.data.importers import import_shop
from recsys.data.synthetic import ShopConfig, make_shop

SMALL = Path("pipelines/small.toml")
N_COPIES, N_SWAPS = 8, 6
RED = (200, 30, 40)


@dataclass(frozen=True)
class Planted:
    """A shop with known faults, audited: what was planted, what was found, and the page."""

    copies: set[frozenset[str]]
    swaps: dict[str, str]
    no_picture: set[str]
    findings: pl.DataFrame
    page: str
    status: int

    def found(self, *kinds: str) -> pl.DataFrame:
        return self.findings.filter(pl.col("kind").is_in(kinds))


def plant_copies(items: pl.DataFrame, folder: Path, rows: Sequence[int]) -> tuple[pl.DataFrame, set[frozenset[str]]]:
    """Products entered a second time: the picture smaller and compressed harder, one word of the description other."""
    copies, pairs = [], set()
    for number, row in enumerate(rows):
        item = items.row(row, named=True)
        item_id, image = f"copy-{number}", f"images/copy-{number}.jpg"
        with Image.open(folder / item["images"][0]) as picture:
            picture.resize((80, 80 * picture.height // picture.width)).save(folder / image, quality=70)
        words = (item["description"] or item["title"]).split()
        copies.append(item | {"item_id": item_id, "images": [image], "description": " ".join(["Lovely", *words[1:]])})
        pairs.add(frozenset((item["item_id"], item_id)))
    return pl.concat([items, pl.DataFrame(copies, schema=items.schema)]), pairs


def plant_swaps(items: pl.DataFrame, rows: Sequence[int]) -> tuple[pl.DataFrame, dict[str, str]]:
    """Pairs of products, of two kinds, with each other's pictures."""
    images, ids = items["images"].to_list(), items["item_id"].to_list()
    swapped = {}
    for a, b in zip(rows[::2], rows[1::2]):
        images[a], images[b] = images[b], images[a]
        swapped |= {ids[a]: ids[b], ids[b]: ids[a]}
    return items.with_columns(images=pl.Series(images, dtype=pl.List(pl.String))), swapped


@pytest.fixture(scope="module", params=[0, 1], ids=["shop 0", "shop 1"])
def planted(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Planted:
    """The limits were chosen on shop 0; shop 1 says whether they hold elsewhere."""
    home = tmp_path_factory.mktemp("audit")
    shop = make_shop(home / "shop", ShopConfig(n_items=300, n_users=150, picture_size=96, seed=request.param))
    items = shop.items
    whole = items.with_row_index("row").filter(pl.col("images").list.len() > 0, pl.col("description").is_not_null())
    drawn = np.random.default_rng(5 + request.param).permutation(whole["row"].to_numpy()).tolist()
    items, copies = plant_copies(items, home / "shop", drawn[:N_COPIES])
    # Across categories: neighbours in this order are of different ones.
    rest = items[drawn[N_COPIES:]].with_columns(row=pl.Series(drawn[N_COPIES:]))
    by_kind = [group["row"].to_list() for _, group in rest.group_by("category", maintain_order=True)]
    swap_rows = [row for a, b in zip(by_kind[::2], by_kind[1::2]) for row in (a[0], b[0])][: 2 * N_SWAPS]
    items, swaps = plant_swaps(items, swap_rows)
    items.write_parquet(home / "shop" / "items.parquet")
    status = audit_folder(home)
    return Planted(
        copies,
        swaps,
        set(items.filter(pl.col("images").list.len() == 0)["item_id"]),
        pl.read_parquet(home / "audit" / "findings.parquet"),
        (home / "audit" / "audit.html").read_text(),
        status,
    )


def audit_folder(home: Path) -> int:
    """Import ``home/shop`` and audit it into ``home/audit``; the command's status."""
    paths = Paths(
        f"sqlite:///{home / 'shop.db'}", *(str(home / name) for name in ("events", "cache", "releases", "shop"))
    )
    engine = open_database(paths.database)
    import_shop(engine, home / "shop", "generic", rejects=home / "rejects", images_root=home / "shop", progress=False)
    engine.dispose()
    written = home / "night.toml"
    general, _, tables = SMALL.read_text().partition("[paths]")
    named = [f"{name} = {json.dumps(value)}" for name, value in vars(paths).items()]
    written.write_text("\n".join([general, "[paths]", *named, tables[tables.index("[") :]]))
    return main(["audit", "--config", str(written), "--out", str(home / "audit"), "--quiet"])


def pairs_of(findings: pl.DataFrame) -> set[frozenset[str]]:
    return {frozenset(pair) for pair in findings.select("item_id", "other_id").iter_rows()}


@pytest.mark.slow
def test_products_entered_twice_are_found_and_few_others(planted: Planted) -> None:
    called = pairs_of(planted.found(TWICE))
    assert len(called & planted.copies) >= N_COPIES - 1
    assert len(called - planted.copies) <= 1
    assert len(pairs_of(planted.found(SAME_PICTURE, SAME_WORDS)) - planted.copies) <= 5


@pytest.mark.slow
def test_swapped_pictures_are_found_and_few_others(planted: Planted) -> None:
    called = planted.found(DISAGREE)
    right = set(called["item_id"]) & planted.swaps.keys()
    assert len(right) >= 2 / 3 * len(planted.swaps)
    assert len(called) - len(right) <= 6  # of about 270
    named = {a: b for a, b in called.select("item_id", "other_id").iter_rows() if b is not None}
    assert named.items() <= planted.swaps.items()


@pytest.mark.slow
def test_what_lacks_a_picture_is_named_and_the_page_shows_it_all(planted: Planted) -> None:
    missing = planted.found(MISSING)
    without = missing.filter(pl.col("note").str.contains("no picture"))
    assert set(without["item_id"]) == planted.no_picture
    assert planted.status == 1
    assert planted.page.count("data:image/jpeg;base64,") >= 2 * len(planted.found(TWICE))
    assert sum(f"copy-{number}" in planted.page for number in range(N_COPIES)) >= N_COPIES - 1
    assert "http" not in planted.page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")


@pytest.mark.slow
def test_a_small_catalogue_says_what_was_not_judged_and_a_picture_alone_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = make_shop(tmp_path / "shop", ShopConfig(n_items=50, n_users=2, days=5, picture_size=96)).items
    pictured = items.filter(pl.col("images").list.len() > 0, pl.col("description").is_not_null()).head(3)
    bare = pictured.with_columns(images=pl.Series([pictured["images"][0].to_list(), [], []], dtype=pl.List(pl.String)))
    bare.write_parquet(tmp_path / "shop" / "items.parquet")
    assert audit_folder(tmp_path) == 1
    findings = pl.read_parquet(tmp_path / "audit" / "findings.parquet")
    assert dict(findings.select("item_id", "note").iter_rows()) == dict.fromkeys(bare["item_id"][1:], "no picture")
    reason = "1 product has a picture and words, of at least 50"
    assert f"not judged  {DISAGREE}: {reason}" in capsys.readouterr().out
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert f"Not judged: {reason}" in page
    nothing = Audit(findings.clear(), judge_fit(np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)))
    page = audit_page(nothing, bare, tmp_path)
    assert "Nothing found, not all judged" in page
    assert "Nothing to correct" not in page


def test_a_release_that_is_not_recorded_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "night.toml").write_text(f'[paths]\ndatabase = "sqlite:///{tmp_path / "shop.db"}"\n')
    asked = ["audit", "--config", str(tmp_path / "night.toml"), "--release", "none", "--out", str(tmp_path / "audit")]
    assert main(asked) == 2
    assert "of which there is none yet, came 'none'" in capsys.readouterr().err


def pairs_in_one_space(n: int, wrong: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """n pictures and their words, near each other; the first ``wrong`` have the words of the next."""
    rng = np.random.default_rng(0)
    meant = rng.normal(size=(n, 24))
    sides = []
    for _ in range(2):
        side = meant + rng.normal(0, noise, meant.shape)
        sides.append((side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32))
    image, text = sides
    text[:wrong] = np.roll(text[:wrong], 1, axis=0)
    return image, text


def test_wrong_pairs_are_called_as_often_as_there_are() -> None:
    image, text = pairs_in_one_space(3000, wrong=60, noise=0.6)
    text[100] = 0  # without words: neither right nor wrong
    fit = judge_fit(image, text)
    right = np.isin(fit.called, np.arange(60))
    assert right.sum() >= 50
    assert (~right).mean() <= FALSE_SHARE
    assert np.isnan(fit.misfit[100])
    assert fit.wrong_share == pytest.approx(60 / 3000, rel=0.3)


def test_a_catalogue_without_fault_is_left_alone() -> None:
    image, text = pairs_in_one_space(3000, wrong=0, noise=0.6)
    assert len(judge_fit(image, text).called) <= 3
    few = judge_fit(image[:49], text[:49])
    assert len(few.called) == 0
    assert few.unjudged == "49 products have a picture and words, of at least 50"


@pytest.mark.parametrize("alike", [70, 100])
def test_where_any_words_fit_any_picture_none_is_called(alike: int) -> None:
    image, text = pairs_in_one_space(100, wrong=0, noise=0.6)
    image[:alike], text[:alike] = image[0], text[0]  # one placeholder, and one text
    fit = judge_fit(image, text)
    assert len(fit.called) == 0
    assert fit.wrong_share == 0
    assert fit.unjudged == "most words fit most pictures equally well"


def test_two_that_changed_pictures_are_named_to_each_other() -> None:
    image, text = pairs_in_one_space(200, wrong=2, noise=0.2)
    assert swapped_pairs(image, text, np.array([0, 1, 7])) == {0: 1, 1: 0}


def test_neighbours_are_pairs_once_and_hang_together() -> None:
    vectors = np.eye(6, 8, dtype=np.float32)
    vectors[3], vectors[5] = vectors[0], vectors[1]
    vectors[4] = 0
    pairs = likely_pairs(vectors, threads=1)
    assert pairs.tolist() == [[0, 3], [1, 5]]
    assert groups_of(np.array([[0, 3], [1, 5], [2, 3]]), 6).tolist() == [0, 1, 0]


def test_a_picture_is_itself_at_another_size_and_not_another(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, ShopConfig(n_items=50, n_users=2, days=5, picture_size=96))
    paths = [tmp_path / images[0] for images in shop.items["images"].to_list() if len(images)]
    with Image.open(paths[0]) as picture:
        picture.resize((61, 61)).save(tmp_path / "small.jpg", quality=60)
    seen = [thumbnail(path) for path in paths]
    same = picture_difference(seen[0], thumbnail(tmp_path / "small.jpg"))
    others = [picture_difference(seen[0], other) for other in seen[1:]]
    assert same < 0.5 * min(others)
    (tmp_path / "none.jpg").write_bytes(b"no picture")
    assert thumbnail(tmp_path / "none.jpg") is None
    assert picture_difference(seen[0], None) == np.inf


def test_thumbnails_see_pictures_as_the_encoders_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = [np.kron(rng.integers(300, 65_536, (4, 4)), np.ones((12, 12))).astype(np.uint16) for _ in range(2)]
    cut_out = Image.new("RGBA", (48, 48), (*RED, 0))
    cut_out.paste((*RED, 255), (12, 12, 36, 36))
    on_white = Image.new("RGB", (48, 48), (255, 255, 255))
    on_white.paste(RED, (12, 12, 36, 36))
    drawn = (Image.fromarray(grey[0]), Image.fromarray(grey[1]), cut_out, on_white)
    seen = []
    for number, picture in enumerate(drawn):
        picture.save(tmp_path / f"{number}.png")
        seen.append(thumbnail(tmp_path / f"{number}.png"))
    assert picture_difference(seen[0], seen[1]) > 0.5  # 16 bits of grey; clipped to 8 both would be white
    assert picture_difference(seen[2], seen[3]) < 0.01


def test_texts_share_words_however_often_they_come() -> None:
    assert shared_words("a b c d", "a b c d") == 1.0
    assert shared_words("a a a a", "a b c d") == 0.25
    assert shared_words("red mug", "red mug") == 0.0  # too short to be evidence
