"""The bodies of questions and their answers: recommendations, likeness, search, probes.

What a shop tells the service, events and items, is in ``schemas_shop.py``. Anything not named here is refused, never
passed over in silence.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from recsys.request import FALLBACKS, PLACEMENTS
from service.fields import LARGEST_INT, Body, Finite, Identifier, Name, storable

LONGEST_SLATE = 100  # items
LONGEST_LIST = 1_000  # item ids in one request

SearchText = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500), AfterValidator(storable)
]

Placement = Literal[PLACEMENTS]  # type: ignore[valid-type]
Fallback = Literal[FALLBACKS]  # type: ignore[valid-type]


class RecommendationsRequest(Body):
    """Which items to show this shopper, here, now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"placement": "home", "user_id": "u-1042", "session_id": "s-77", "limit": 12, "return_items": True},
                {"placement": "product", "session_id": "s-77", "item_ids": ["sku-310"], "limit": 6, "explain": True},
                {
                    "placement": "cart",
                    "user_id": "u-1042",
                    "item_ids": ["sku-310", "sku-7"],
                    "exclude_item_ids": ["sku-9"],
                    "exclude_purchased": True,
                },
            ]
        }
    )

    placement: Placement = Field("home", description="where the slate is shown")
    user_id: Identifier | None = Field(None, description="the shop's id of a known shopper")
    session_id: Identifier | None = Field(None, description="one visit; alone it identifies an anonymous shopper")
    item_ids: list[Identifier] = Field([], max_length=LONGEST_LIST, description="the page's item or the cart's items")
    limit: int = Field(12, ge=1, le=LONGEST_SLATE, description="how many items at most")
    exclude_item_ids: list[Identifier] = Field([], max_length=LONGEST_LIST, description="never show these")
    exclude_purchased: bool = Field(False, description="never show what this shopper has bought")
    explain: bool = Field(False, description="say why each item is there")
    return_items: bool = Field(False, description="add title, price, brand, image, category and stock of each item")

    @model_validator(mode="after")
    def _page_has_an_item(self) -> Self:
        if self.placement == "product" and not self.item_ids:
            raise ValueError("placement product expects the page's item in item_ids")
        return self


class SimilarityWeights(Body):
    """How much each kind of likeness counts; one left out counts nothing. Only their ratios matter."""

    image: Finite = Field(0.0, ge=0, le=1_000, description="looks alike")
    text: Finite = Field(0.0, ge=0, le=1_000, description="is described and reviewed alike")
    behaviour: Finite = Field(0.0, ge=0, le=1_000, description="is bought together")

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.image + self.text + self.behaviour == 0:
            raise ValueError("expected at least one of image, text and behaviour above zero")
        return self


class SimilarItemsRequest(Body):
    """Which items are like this one."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"item_id": "sku-310", "limit": 6},
                {"item_id": "sku-310", "weights": {"image": 2, "text": 1}, "return_items": True},
            ]
        }
    )

    item_id: Identifier
    limit: int = Field(12, ge=1, le=LONGEST_SLATE)
    weights: SimilarityWeights | None = Field(None, description="left out: the blend that the release learned")
    exclude_item_ids: list[Identifier] = Field([], max_length=LONGEST_LIST)
    explain: bool = Field(False, description="say why each item is there")
    return_items: bool = False


class SearchFilter(Body):
    """Which items may be found; every condition must hold."""

    category: Name | None = Field(None, description="a path: items of `Women > Dresses` and of what is below it")
    brand: Annotated[list[Name], Field(max_length=100)] = Field([], description="of one of these; empty for any")
    price_from_cents: int | None = Field(None, ge=0, le=LARGEST_INT, description="included")
    price_to_cents: int | None = Field(None, ge=0, le=LARGEST_INT, description="included")
    in_stock: bool = Field(True, description="false shows what is sold out too")

    @model_validator(mode="after")
    def _some_price(self) -> Self:
        if None not in (self.price_from_cents, self.price_to_cents) and self.price_from_cents > self.price_to_cents:  # type: ignore[operator]
            raise ValueError("expected price_from_cents at or below price_to_cents")
        return self


class SearchRequest(Body):
    """What somebody looks for, in words. With a picture the same fields come as a form: see the call."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "red wool scarf", "limit": 12},
                {
                    "text": "something for rainy days",
                    "filter": {"category": "Clothing > Coats", "brand": ["Alba"], "price_to_cents": 15000},
                    "session_id": "s-77",
                    "explain": True,
                    "return_items": True,
                },
            ]
        }
    )

    text: SearchText | None = Field(None, description="in the shopper's words; product codes and brand names too")
    limit: int = Field(24, ge=1, le=LONGEST_SLATE, description="how many items at most")
    filter: SearchFilter = SearchFilter()
    user_id: Identifier | None = Field(None, description="for the log alone")
    session_id: Identifier | None = Field(None, description="for the log alone")
    explain: bool = Field(False, description="say why each item is there")
    return_items: bool = Field(False, description="add title, price, brand, image, category and stock of each item")


class ReasonOut(BaseModel):
    """Why an item is in the slate."""

    source: str = Field(description="the candidate source that speaks most for it; in search, words or embedding")
    item_id: str | None = Field(description="the past item, or the page's or cart's, that brought it")
    shares: dict[str, float] = Field(
        description="how much of the item's score is owed to image, text, reviews, attributes, behaviour, or words"
    )
    text: str = Field(description="one sentence for a person")


class SlateItemOut(BaseModel):
    """One place of the slate."""

    id: str
    rank: int = Field(description="1 is the first place")
    score: float | None = Field(description="orders the items of this answer; not comparable between answers")
    reasons: list[ReasonOut] = Field(description="empty unless `explain` asked for them")


class ItemSummary(BaseModel):
    """What a storefront needs to draw an item, as it stands in the catalogue now."""

    title: str | None
    price_cents: int | None
    brand: str | None
    image: str | None
    category: str | None
    in_stock: bool


class SlateItemWithSummary(ItemSummary, SlateItemOut):  # this order writes the id first
    """One place of the slate, with what a storefront needs to draw it."""


class Recommendations(BaseModel):
    """A slate. Send ``recommendation_id`` back with the events that follow from it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "recommendation_id": "b2c1f0d47f5e4f0ea3c4a54be1d4a3d8",
                    "release": "20260131T235959-5f2c9a1b04de",
                    "variant": "default",
                    "fallback": "full",
                    "items": [
                        {
                            "id": "sku-58",
                            "rank": 1,
                            "score": 2.41,
                            "reasons": [
                                {
                                    "source": "content",
                                    "item_id": "sku-310",
                                    "shares": {"image": 0.5, "text": 0.2, "behaviour": 0.3},
                                    "text": "Resembles “Red dress”",
                                }
                            ],
                            "title": "Red wrap dress",
                            "price_cents": 4990,
                            "brand": "Alba",
                            "image": "images/sku-58.jpg",
                            "category": "Women > Dresses",
                            "in_stock": True,
                        }
                    ],
                    "took_ms": 3.2,
                }
            ]
        }
    )

    recommendation_id: str
    release: str | None = Field(description="the version that answered; null when none is live yet")
    variant: str = Field(description="the arm of an experiment; `default` when none runs")
    fallback: Fallback = Field(description="the rung of the ladder that answered; `full` is the best")
    items: list[SlateItemWithSummary | SlateItemOut]
    took_ms: float = Field(description="time inside the service, milliseconds")


class Alive(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "alive"}]})

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """The service answers with a release."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "ready", "release": "20260131T235959-5f2c9a1b04de"}]}
    )

    status: Literal["ready"] = "ready"
    release: str
