"""A demonstration shop, made up and deterministic: pictures, words, reviews, and shoppers whose taste is known.

Everything a real shop has is there: families in several colours, new arrivals, sell-outs, seasons, items without
picture or words, misleading reviews, anonymous visitors. Because the taste is planted, a test can ask whether a
recommender found it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from tqdm import tqdm

from recsys.data import synthetic_shoppers as shoppers
from recsys.data.synthetic_catalogue import TRAITS, Design, describe_items, design_items, trait_matrix, write_reviews
from recsys.data.synthetic_pictures import save_picture
from recsys.errors import ConfigError, require_at_least
from recsys.schema import EVENTS, ITEMS, REVIEWS, validate

_APPEAL = 0.5  # standard deviation of what everybody sees in an item


@dataclass(frozen=True)
class ShopConfig:
    """What shop to make. The same configuration gives the same bytes."""

    n_items: int = 1_500
    n_users: int = 3_000  # shoppers with an account
    anonymous: float = 0.2  # visitors without one, as a share of n_users
    visits_per_user: float = 6.0  # after the first one, mean of those who come again
    days: int = 60
    end: datetime = datetime(2026, 3, 1, tzinfo=UTC)  # the first moment that nothing is known of
    seed: int = 0
    picture_size: int = 256  # pixels
    new_share: float = 0.2  # families that arrive during the period
    sold_out_share: float = 0.08  # items that sell out during the period
    missing_picture: float = 0.04
    missing_text: float = 0.06
    missing_both: float = 0.015
    reviewed: float = 0.25  # purchases that lead to a review
    earlier_reviews: float = 1.5  # per item that was there before the period, mean

    def __post_init__(self) -> None:
        require_at_least("ShopConfig", self, n_items=50, n_users=2, days=5, picture_size=32)
        if self.end.tzinfo is None:
            raise ConfigError(f"ShopConfig.end: expected a time with a time zone (UTC), came {self.end!r}")


TINY = ShopConfig(n_items=120, n_users=200, picture_size=96)  # for tests


@dataclass(frozen=True)
class Taste:
    """The planted truth. Rows of items are as in the items frame, rows of users as in ``user_ids``."""

    user_ids: list[str]
    item_ids: list[str]
    traits: tuple[str, ...]  # "kind=mug", "colour=red", …, "review=squeaks": the columns
    item_traits: npt.NDArray[np.float32]  # [n_items, n_traits], 0 or 1
    user_weights: npt.NDArray[np.float32]  # [n_users, n_traits], what each user thinks of each trait
    item_appeal: npt.NDArray[np.float32]  # [n_items], what everybody sees in it; the time of year included, at the end
    complements: npt.NDArray[np.int32]  # [n_items, 4], rows of what is bought after it; -1 pads
    complement_share: float  # how often the next purchase is one of those


@dataclass(frozen=True)
class Shop:
    """The shop as frames, and the truth behind them."""

    folder: Path
    config: ShopConfig
    items: pl.DataFrame  # ITEMS, sorted by item_id; images are paths relative to folder
    reviews: pl.DataFrame  # REVIEWS, oldest first
    events: pl.DataFrame  # EVENTS, oldest first
    taste: Taste
    offered_from: npt.NDArray[np.datetime64]  # [n_items], UTC, true also where created_at is null
    offered_until: npt.NDArray[np.datetime64]  # [n_items], UTC; far in the future while in stock

    def relevance(self, user_id: str, after: str | None = None) -> npt.NDArray[np.float64]:
        """Return the user's true purchase propensity, float64 [n_items], summing to 1.

        Knows nothing of stock and of what the user owns: mask with :meth:`available` and the user's purchases.

        Args:
            user_id: one of ``taste.user_ids``.
            after: item_id of the user's last purchase, where what goes with it should count.

        Raises:
            ValueError: the user or the item is not of this shop.
        """
        taste = self.taste
        if user_id not in taste.user_ids:
            raise ValueError(f"user_id: expected one of {taste.user_ids[0]} to {taste.user_ids[-1]}, came {user_id!r}")
        utility = taste.item_traits @ taste.user_weights[taste.user_ids.index(user_id)] + taste.item_appeal
        propensity = np.exp(utility.astype(np.float64) - utility.max())
        propensity = propensity / propensity.sum()
        if after is not None:
            partners = taste.complements[taste.item_ids.index(after)]
            partners = partners[partners >= 0]
            if len(partners):
                propensity *= 1 - taste.complement_share
                np.add.at(propensity, partners, taste.complement_share / len(partners))
        return np.asarray(propensity)

    def available(self, at: datetime) -> npt.NDArray[np.bool_]:
        """Return bool [n_items]: what the shop offers at that time, on stock."""
        moment = np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us")
        return np.asarray((self.offered_from <= moment) & (moment < self.offered_until))


def make_shop(folder: Path, config: ShopConfig | None = None, progress: bool = False) -> Shop:
    """Make the shop and write it below ``folder`` in the generic import form.

    Writes items.parquet, reviews.parquet, events.parquet, images/ITEM_ID.jpg, and shop.json with the configuration.
    Running it again writes the same bytes.
    """
    config = config or ShopConfig()
    start = config.end - timedelta(days=config.days)
    design_rng, word_rng, taste_rng, visit_rng, review_rng = (np.random.default_rng([config.seed, k]) for k in range(5))
    designs = design_items(
        config.n_items, start, config.days, config.new_share, config.sold_out_share, design_rng
    )  # fmt: skip
    items = describe_items(designs, config.missing_picture, config.missing_text, config.missing_both, word_rng)

    n_shoppers = config.n_users + round(config.n_users * config.anonymous)
    market = _open_market(designs, n_shoppers, start, config, taste_rng)
    shopper, when = shoppers.plan_visits(
        config.n_users, n_shoppers, start, config.days, config.visits_per_user, visit_rng
    )  # fmt: skip
    visits = shoppers.simulate_visits(market, shopper, when, visit_rng, progress)
    events = shoppers.record_events(visits, designs, config.n_users, start, config.days, visit_rng)
    user_ids = [f"u{user:06d}" for user in range(config.n_users)]
    reviews = write_reviews(designs, _plan_reviews(events, designs, market, user_ids, config, review_rng), review_rng)

    folder.mkdir(parents=True, exist_ok=True)
    shop = Shop(
        folder=folder,
        config=config,
        items=validate(items, ITEMS, "items"),
        reviews=validate(reviews, REVIEWS, "reviews"),
        events=validate(events, EVENTS, "events"),
        taste=Taste(
            user_ids=user_ids,
            item_ids=items["item_id"].to_list(),
            traits=TRAITS,
            item_traits=market.item_traits,
            user_weights=market.weights[: config.n_users],
            item_appeal=market.appeal + market.season[-1],
            complements=market.complements,
            complement_share=market.complement_share,
        ),
        offered_from=np.datetime64(start.replace(tzinfo=None), "us") + market.offered_from.astype("timedelta64[s]"),
        offered_until=np.datetime64(start.replace(tzinfo=None), "us") + market.offered_until.astype("timedelta64[s]"),
    )
    for name in ("items", "reviews", "events"):
        getattr(shop, name).write_parquet(folder / f"{name}.parquet")
    (folder / "shop.json").write_text(json.dumps(asdict(config), default=str, indent=2) + "\n")
    _photograph(designs, items, folder, config.picture_size, progress)
    return shop


def _open_market(
    designs: list[Design], n_shoppers: int, start: datetime, config: ShopConfig, rng: np.random.Generator
) -> shoppers.Market:
    def seconds(moment: datetime | None) -> int:
        return 10 * 365 * 86_400 if moment is None else round((moment - start).total_seconds())

    return shoppers.Market(
        item_traits=trait_matrix(designs),
        weights=shoppers.plant_taste(n_shoppers, rng),
        appeal=rng.normal(0, _APPEAL, size=len(designs)).astype(np.float32),
        complements=shoppers.choose_complements(designs, rng),
        complement_share=0.35,
        offered_from=np.array([seconds(design.created_at) for design in designs]),
        offered_until=np.array([seconds(design.sold_out_at) for design in designs]),
        season=shoppers.season_of(designs, start, config.days),
    )


def _plan_reviews(
    events: pl.DataFrame,
    designs: list[Design],
    market: shoppers.Market,
    user_ids: list[str],
    config: ShopConfig,
    rng: np.random.Generator,
) -> list[tuple[int, str, datetime]]:
    """Decide who reviews what and when: some of the period's buyers, and earlier ones of older items."""
    row_of = {design.item_id: row for row, design in enumerate(designs)}
    start = config.end - timedelta(days=config.days)
    written: list[tuple[int, str, datetime]] = []
    bought = events.filter((pl.col("event_type") == "purchase") & pl.col("user_id").is_not_null())
    for user_id, item_id, timestamp in bought.select("user_id", "item_id", "timestamp").iter_rows():
        when = timestamp + timedelta(days=float(rng.uniform(2, 15)))
        if rng.random() < config.reviewed and when < config.end:
            written.append((row_of[item_id], user_id, when.replace(microsecond=0)))
    for row, design in enumerate(designs):
        if design.created_at >= start:
            continue
        for _ in range(int(rng.poisson(config.earlier_reviews * float(np.exp(market.appeal[row]))))):
            when = design.created_at + (start - design.created_at) * float(rng.random())
            user_id = user_ids[int(rng.integers(len(user_ids)))]
            written.append((row, user_id, when.replace(microsecond=0)))
    return written


def _photograph(designs: Sequence[Design], items: pl.DataFrame, folder: Path, size: int, progress: bool) -> None:
    (folder / "images").mkdir(exist_ok=True)
    wanted = sorted(  # like after like, because an outline is computed once and kept for the next picture
        ((design.look, images) for design, images in zip(designs, items["images"]) if len(images)),
        key=lambda pair: (pair[0].kind, pair[0].cut, pair[0].fit),
    )
    for look, images in tqdm(wanted, desc="pictures", unit="item", disable=not progress):
        for image, close_up in zip(images, (False, True)):
            save_picture(look, folder / image, size, close_up)


def make_vectors(n_items: int, dim: int, seed: int, clusters: int) -> npt.NDArray[np.float32]:
    """Return unit-norm item vectors in clusters, float32 [n_items, dim]: a catalogue for speed work.

    Clusters differ in size (a few large, many small), as kinds of product do; the cosine of an item to its centre is
    about 0.8. Works in blocks, so that memory is the result and little more.
    """
    rng = np.random.default_rng([seed, 11])
    centres = rng.standard_normal((clusters, dim), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    sizes = 1 / (np.arange(clusters) + 10)
    vectors = np.empty((n_items, dim), dtype=np.float32)
    noise = np.float32(0.75 / np.sqrt(dim))
    for begin in range(0, n_items, 65_536):
        block = vectors[begin : begin + 65_536]
        rng.standard_normal(out=block, dtype=np.float32)
        block *= noise
        block += centres[rng.choice(clusters, size=len(block), p=sizes / sizes.sum())]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors
