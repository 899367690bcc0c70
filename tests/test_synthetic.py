import dataclasses
import hashlib
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from PIL import Image

from recsys.data.synthetic import TINY, Shop, ShopConfig, make_shop, make_vectors
from recsys.data.synthetic_pictures import COLOURS, N_FITS, PATTERNS, Look, flatten, render
from recsys.data.synthetic_shapes import SHAPES
from recsys.data.synthetic_words import KINDS, REVIEW_TRAITS
from recsys.errors import ConfigError
from recsys.schema import EVENT_TYPES, EVENTS, ITEMS, REVIEWS

# Enough items and shoppers for the planted taste to stand out; no pictures, because only the events matter.
WITHOUT_PICTURES = ShopConfig(n_items=1_000, n_users=1_500, missing_picture=1.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory.mktemp("tiny"), TINY)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory.mktemp("shop"), WITHOUT_PICTURES)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def items_with(shop: Shop, trait: str) -> list[str]:
    taste = shop.taste
    return [taste.item_ids[row] for row in np.flatnonzero(taste.item_traits[:, taste.traits.index(trait)])]


# ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_same_configuration_same_bytes(tiny: Shop, tmp_path: Path) -> None:
    again = hashes(make_shop(tmp_path / "again", TINY).folder)
    assert again == hashes(tiny.folder)
    assert {"items.parquet", "reviews.parquet", "events.parquet", "shop.json"} <= set(again)
    other = hashes(make_shop(tmp_path / "other", dataclasses.replace(TINY, seed=1)).folder)
    assert other["events.parquet"] != again["events.parquet"]
    assert other["items.parquet"] != again["items.parquet"]


def test_files_hold_the_frames_in_their_schemas(tiny: Shop) -> None:
    for name, schema in (("items", ITEMS), ("reviews", REVIEWS), ("events", EVENTS)):
        frame = getattr(tiny, name)
        assert frame.schema == schema
        assert pl.read_parquet(tiny.folder / f"{name}.parquet").equals(frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_items": 3}, "n_items: expected at least 50, came 3"),
        ({"days": 0}, "days: expected at least 5, came 0"),
        ({"end": TINY.end.replace(tzinfo=None)}, "end: expected a time with a time zone"),
    ],
)
def test_impossible_configuration_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TINY, **change)  # type: ignore[arg-type]


# ── items ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_items_are_complete_where_they_should_be_and_lack_what_shops_lack(shop: Shop, tiny: Shop) -> None:
    items = tiny.items
    assert items["item_id"].is_sorted()
    assert items["item_id"].n_unique() == len(items) == TINY.n_items
    assert items["item_id"].to_list() == tiny.taste.item_ids
    assert set(items["category"]) == {kind.category for kind in KINDS.values()}
    assert 0 < shop.items["title"].null_count() < shop.items["description"].null_count() < 0.15 * len(shop.items)
    no_picture = tiny.items.filter(pl.col("images").list.len() == 0)
    assert 0 < len(no_picture) < 0.2 * len(items)
    both = shop.items.filter(pl.col("title").is_null() & pl.col("description").is_null())
    assert len(both)
    assert (items["images"].list.len() == 2).any()


def test_a_family_is_one_design_in_several_colours(shop: Shop) -> None:
    colours = shop.taste.item_traits[:, [t.startswith("colour=") for t in shop.taste.traits]].argmax(axis=1)
    families = shop.items.with_columns(colour=colours).group_by("family").agg(
        pl.col("brand", "price_cents", "category", "colour").n_unique(), size=pl.len()
    )  # fmt: skip
    assert (families["size"] > 1).any()
    assert families.select((pl.col("brand", "price_cents", "category") == 1).all()).row(0) == (True, True, True)
    assert (families["colour"] == families["size"]).all()


def test_every_picture_opens_and_has_the_declared_size(tiny: Shop) -> None:
    paths = tiny.items["images"].explode(empty_as_null=False).to_list()
    assert len(set(paths)) == len(paths)
    assert sorted(f"images/{path.name}" for path in (tiny.folder / "images").iterdir()) == sorted(paths)
    for path in paths:
        with Image.open(tiny.folder / path) as picture:
            assert (picture.size, picture.mode, picture.format) == ((96, 96), "RGB", "JPEG")
            picture.load()


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def pixels(look: Look, size: int = 96) -> npt.NDArray[np.float64]:
    return np.asarray(render(look, size), dtype=float) / 255


@pytest.mark.parametrize("kind", SHAPES)
def test_outline_stands_whole_before_the_backdrop(kind: str) -> None:
    for cut in range(len(SHAPES[kind])):
        for fit in range(N_FITS):
            red, green = (pixels(Look(kind, colour, "plain", cut, fit)) for colour in ("red", "green"))
            product = np.abs(red - green).max(axis=2) > 0.08
            edge = np.ones_like(product)
            edge[2:-2, 2:-2] = False
            assert not product[edge].any(), f"{kind}, cut {cut}, fit {fit} is cut off"
            assert 0.03 < product.mean() < 0.75
            assert red[edge].min() > 0.7


def test_colour_and_pattern_can_be_seen() -> None:
    for name, colour in COLOURS.items():
        seen = np.median(pixels(Look("cushion", name, "plain"))[30:66, 30:66], axis=(0, 1))
        nearest = min(COLOURS, key=lambda other: float(np.abs(np.array(COLOURS[other]) - seen).sum()))
        assert nearest == name, f"{name} {colour} looks like {nearest} {seen}"
    faces = {pattern: pixels(Look("cushion", "navy", pattern))[30:66, 30:66] for pattern in PATTERNS}
    for pattern, face in faces.items():
        assert (face.std(axis=(0, 1)).max() > 0.1) == (pattern != "plain")
        assert all(np.abs(face - other).mean() > 0.05 for name, other in faces.items() if name != pattern)


def test_unknown_pattern_is_named() -> None:
    with pytest.raises(ValueError, match=r"expected one of .*, came 'paisley'"):
        render(Look("mug", "red", "paisley"))


def test_paths_are_flattened_exactly_at_their_ends() -> None:
    square, curve = flatten("M0 0 L10 0 L10 -10 Z M1 1 Q2 3 4 5 C4 6 5 7 8 9.5")
    assert square.tolist() == [[0, 0], [10, 0], [10, -10]]
    np.testing.assert_allclose(curve[[0, 14, -1]], [[1, 1], [4, 5], [8, 9.5]])
    np.testing.assert_allclose(curve[7], [2.25, 3])  # a quadratic curve at its half: (start + 2 × handle + end) / 4


# ── reviews ─────────────────────────────────────────────────────────────────────────────────────────────────────────

STEMS = {
    "soft": "soft",
    "runs small": "small",
    "keeps warm": "warm",
    "roomy": "room|hold",
    "waterproof": "waterproof|rain|dry",
    "featherlight": "feather|weigh",
    "gets compliments": "compliment|guest",
    "squeaks": "squeak",
    "wobbles": "wobbl",
    "fades": "fade",
}


@pytest.mark.parametrize("trait", REVIEW_TRAITS)
def test_some_traits_are_known_from_reviews_alone(shop: Shop, trait: str) -> None:
    said = rf"(?i)\b({STEMS[trait]})"
    words = pl.concat_str(
        "title", "description", "brand", pl.col("attributes").list.join(" "), separator=" ", ignore_nulls=True
    )
    told = shop.items.select(words.str.contains(said).any())
    assert not told.item(), "the catalogue gives away what only reviews should tell"
    having = pl.col("item_id").is_in(items_with(shop, f"review={trait}"))
    kinds = [KINDS[kind].category for kind in REVIEW_TRAITS[trait].kinds]
    reviews = shop.reviews.filter(pl.col("text").is_not_null()).join(
        shop.items.select("item_id", "category"), "item_id"
    )
    mentions = reviews.select(
        "item_id", "category", having.alias("has"), pl.col("text").str.contains(said).alias("says")
    )
    assert mentions.filter("has")["says"].mean() > 0.5  # type: ignore[operator]
    others = mentions.filter(~pl.col("has") & pl.col("category").is_in(kinds))
    assert 0 < others["says"].mean() < 0.1  # type: ignore[operator]


def test_reviews_are_as_uneven_as_real_ones(shop: Shop) -> None:
    reviews = shop.reviews
    assert reviews["review_id"].n_unique() == len(reviews)
    assert reviews["timestamp"].is_sorted()
    assert reviews["timestamp"].max() < shop.config.end  # type: ignore[operator]
    assert set(reviews["rating"].drop_nulls()) == {1, 2, 3, 4, 5}
    for column in ("rating", "text", "title"):
        assert 0 < reviews[column].null_count() < 0.5 * len(reviews)
    assert (reviews["helpful_votes"] == 0).any()
    assert reviews["helpful_votes"].max() > 5  # type: ignore[operator]
    assert reviews["item_id"].n_unique() < len(shop.items)
    stars = reviews.with_columns(bad=pl.col("item_id").is_in(items_with(shop, "review=squeaks")))
    mean = dict(stars.group_by("bad").agg(pl.col("rating").mean()).iter_rows())
    assert mean[True] < mean[False] - 0.5


# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_events_obey_the_shop(shop: Shop) -> None:
    events, config = shop.events, shop.config
    assert events["event_id"].n_unique() == len(events)
    assert events["timestamp"].is_sorted()
    assert events["timestamp"].min() >= config.end - timedelta(days=config.days)  # type: ignore[operator]
    assert events["timestamp"].max() < config.end  # type: ignore[operator]
    assert set(events["event_type"]) == set(EVENT_TYPES)
    assert (events["item_id"].is_null() == (events["event_type"] == "search")).all()
    known = events.join(shop.items, on="item_id", how="inner")
    assert len(known) == events["item_id"].count()
    bought = known.filter(pl.col("event_type") == "purchase")
    assert (bought["value"] == bought["price_cents"]).all()
    assert bought.filter(pl.col("user_id").is_not_null()).select("user_id", "item_id").is_duplicated().sum() == 0
    carts = events.filter(pl.col("event_type") == "add-to-cart")
    before = bought.join(carts, on=["session_id", "item_id"], how="left")
    assert (before["timestamp_right"] < before["timestamp"]).all()
    impressions = events.filter(pl.col("event_type") == "impression")
    assert set(impressions["position"]) == set(range(1, 7))
    assert events.filter(pl.col("event_type") != "impression")["position"].null_count() == len(events) - len(
        impressions
    )


def test_nothing_is_looked_at_before_it_arrives_or_after_it_sold_out(shop: Shop) -> None:
    row = {item_id: row for row, item_id in enumerate(shop.taste.item_ids)}
    looks = shop.events.filter(pl.col("event_type").is_in(["detail-page-view", "impression", "purchase"]))
    rows = np.array([row[item_id] for item_id in looks["item_id"]])
    when = looks["timestamp"].dt.replace_time_zone(None).to_numpy()
    assert (shop.offered_from[rows] <= when).all()
    assert (when < shop.offered_until[rows]).all()
    assert (shop.available(shop.config.end) == shop.items["in_stock"].to_numpy()).all()
    assert 0.02 < 1 - shop.items["in_stock"].mean() < 0.15  # type: ignore[operator]
    start = shop.config.end - timedelta(days=shop.config.days)
    arrived = shop.items.filter(pl.col("created_at") > start)["item_id"]
    assert 0.1 * len(shop.items) < len(arrived) < 0.4 * len(shop.items)
    assert looks["item_id"].is_in(arrived.implode()).any()


def test_visitors_come_once_or_often_with_and_without_account(shop: Shop) -> None:
    sessions = shop.events.group_by("session_id").agg(
        pl.col("user_id").n_unique(), pl.col("user_id").first().alias("who")
    )
    assert (sessions["user_id"] == 1).all()
    assert 0.02 < sessions["who"].is_null().mean() < 0.2  # type: ignore[operator]
    visits = sessions.drop_nulls("who").group_by("who").len()["len"]
    assert 0.1 < (visits == 1).mean() < 0.5  # type: ignore[operator]
    assert visits.max() > 10  # type: ignore[operator]


def test_weekends_are_busier_and_the_season_moves_on(shop: Shop) -> None:
    views = shop.events.filter(pl.col("event_type") == "detail-page-view").join(shop.items, on="item_id")
    by_day = views.group_by(pl.col("timestamp").dt.weekday().alias("weekday")).len().sort("weekday")["len"]
    assert by_day[5] + by_day[6] > 1.25 * (by_day[0] + by_day[1])  # Saturday and Sunday against Monday and Tuesday
    # From New Year to March: what is for summer gains on what is for winter.
    late = pl.col("timestamp") >= shop.config.end - timedelta(days=shop.config.days // 2)
    share = (
        views.with_columns(late=late).group_by("category", "late").len().pivot("late", index="category", values="len")
    )
    growth = {
        category: later / before for category, later, before in share.select("category", "true", "false").iter_rows()
    }
    assert growth["Clothing > Dresses"] > 1.2 * growth["Clothing > Coats"]
    assert growth["Clothing > Tops > T-shirts"] > 1.2 * growth["Clothing > Tops > Sweaters"]


# ── taste ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def ndcg_at_10(scores: npt.NDArray[np.float64], wanted: set[int]) -> float:
    discount = 1 / np.log2(np.arange(2, 12))
    top = np.argsort(-scores, kind="stable")[:10]
    return float(discount[[int(row) in wanted for row in top]].sum() / discount[: len(wanted)].sum())


def test_true_taste_beats_popularity_many_times(shop: Shop) -> None:
    row = {item_id: row for row, item_id in enumerate(shop.taste.item_ids)}
    cutoff = shop.config.end - timedelta(days=5)
    purchases = shop.events.filter((pl.col("event_type") == "purchase") & pl.col("user_id").is_not_null())
    purchases = purchases.with_columns(row=pl.col("item_id").replace_strict(row, return_dtype=pl.Int64))
    earlier, later = purchases.filter(pl.col("timestamp") < cutoff), purchases.filter(pl.col("timestamp") >= cutoff)
    popularity = np.bincount(earlier["row"].to_numpy(), minlength=len(row)).astype(float)
    owned = dict(earlier.group_by("user_id").agg("row").iter_rows())
    by_popularity, by_taste = [], []
    for user_id, bought in later.group_by("user_id", maintain_order=True).agg("row").iter_rows():
        hidden = np.where(shop.available(cutoff), 0.0, -np.inf)
        hidden[owned.get(user_id, [])] = -np.inf
        by_popularity.append(ndcg_at_10(popularity + hidden, set(bought)))
        by_taste.append(ndcg_at_10(shop.relevance(user_id) + hidden, set(bought)))
    assert len(by_taste) > 200
    assert np.mean(by_taste) > 10 * np.mean(by_popularity)
    assert np.mean(by_taste) > 0.2


def test_what_goes_with_a_purchase_is_often_bought_next(shop: Shop) -> None:
    row = {item_id: row for row, item_id in enumerate(shop.taste.item_ids)}
    bought = shop.events.filter((pl.col("event_type") == "purchase") & pl.col("user_id").is_not_null())
    orders = bought.group_by("user_id", maintain_order=True).agg("item_id")["item_id"]
    pairs = [(row[a], row[b]) for order in orders for a, b in pairwise(order.to_list())]
    forth = np.mean([b in shop.taste.complements[a] for a, b in pairs])
    back = np.mean([a in shop.taste.complements[b] for a, b in pairs])
    assert forth > 0.15
    assert back < forth / 4


def test_relevance_is_a_distribution_that_the_last_purchase_shifts(tiny: Shop) -> None:
    taste = tiny.taste
    plain = tiny.relevance(taste.user_ids[0])
    assert plain.shape == (TINY.n_items,)
    assert plain.sum() == pytest.approx(1)
    row = int(np.flatnonzero((taste.complements >= 0).all(axis=1))[0])
    shifted = tiny.relevance(taste.user_ids[0], after=taste.item_ids[row])
    assert shifted.sum() == pytest.approx(1)
    partners = taste.complements[row]
    expected = plain[partners] * (1 - taste.complement_share) + taste.complement_share / len(partners)
    np.testing.assert_allclose(shifted[partners], expected)
    with pytest.raises(ValueError, match="user_id: expected one of u000000 to u000199, came 'nobody'"):
        tiny.relevance("nobody")


def test_taste_follows_traits(shop: Shop) -> None:
    squeaking = shop.taste.traits.index("review=squeaks")
    assert (shop.taste.user_weights[:, squeaking] < -1).all()
    assert set(np.unique(shop.taste.item_traits)) == {0.0, 1.0}
    kind = [trait.startswith("kind=") for trait in shop.taste.traits]
    assert (shop.taste.item_traits[:, kind].sum(axis=1) == 1).all()


# ── vectors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_vectors_are_unit_norm_in_clusters_and_repeatable() -> None:
    vectors = make_vectors(70_000, 32, seed=3, clusters=20)
    assert (vectors.shape, vectors.dtype) == ((70_000, 32), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors, make_vectors(70_000, 32, seed=3, clusters=20))
    cosine = vectors[:500] @ vectors[-2_000:].T
    together = cosine > 0.4
    # Twenty clusters: an item is near to the few percent of its own cluster and far from the rest.
    assert 0.02 < together.mean() < 0.15
    assert abs(cosine[~together].mean()) < 0.1
    assert cosine[together].mean() == pytest.approx(0.64, abs=0.05)  # 0.8 × 0.8: two items about one centre
