"""The bodies that go in and come out. Anything not named here is refused, never passed over in silence."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from recsys.request import FALLBACKS, PLACEMENTS
from recsys.schema import EARLIEST, EVENT_TYPES, LONGEST_ID
from service.problems import field_errors, sentence

LONGEST_SLATE = 100  # items
LONGEST_LIST = 1_000  # item ids in one request
MOST_EVENTS = 1_000  # in one request
MOST_ITEMS = 1_000  # in one request
LARGEST_INT32 = 2**31 - 1
LARGEST_INT = 2**53 - 1  # what JSON carries exactly
CLOCK_SKEW = timedelta(minutes=10)  # how far ahead of ours a storefront's clock may be


def _storable(text: str) -> str:
    """PostgreSQL stores no NUL, and half a surrogate pair has no UTF-8."""
    if "\x00" in text:
        raise ValueError("expected text without the NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected Unicode text, this has half a surrogate pair") from None
    return text


def _within(path: str) -> str:
    """A picture's place: the night opens the file, so it must not climb out of the shop's images folder."""
    if path.lower().startswith("file:") or ".." in path.replace("\\", "/").split("/"):
        raise ValueError("expected an address (https://…), or the path of a file without '..'")
    return path


Text = Annotated[str, StringConstraints(max_length=100_000), AfterValidator(_storable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_storable)]
SearchText = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500), AfterValidator(_storable)
]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID), AfterValidator(_storable)]
Picture = Annotated[Name, AfterValidator(_within)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Scalar = bool | Annotated[int, Field(ge=-LARGEST_INT, le=LARGEST_INT)] | Finite | Name | None

Attributes = Annotated[dict[Name, Name | Annotated[list[Name], Field(max_length=100)]], Field(max_length=200)]
Images = Annotated[list[Picture], Field(max_length=50)]

Placement = Literal[PLACEMENTS]  # type: ignore[valid-type]
Fallback = Literal[FALLBACKS]  # type: ignore[valid-type]
EventType = Literal[EVENT_TYPES]  # type: ignore[valid-type]


class Body(BaseModel):
    """What a caller sends: strict about types (an id is a string, not a number), and about names."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _utc(value: object) -> datetime:
    """ISO 8601 with an offset, and nothing else: 1738318500 could be seconds, milliseconds or a mistake."""
    if not isinstance(value, str):
        raise ValueError("expected a time as ISO 8601 text with an offset, as 2026-01-31T10:15:00Z")
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None or time < EARLIEST:
            raise ValueError
        return time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            "expected a time as ISO 8601 with an offset, as 2026-01-31T10:15:00Z, not before 1970"
        ) from None


Time = Annotated[datetime, BeforeValidator(_utc)]


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

    source: str = Field(description="the candidate source that brought it")
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


class EventIn(Body):
    """One thing that a shopper did."""

    event_id: Identifier = Field(description="the storefront's own; the same id twice is stored once")
    event_type: EventType
    user_id: Identifier | None = None
    session_id: Identifier | None = None
    item_id: Identifier | None = Field(None, description="expected with every type except search")
    value: Finite | None = Field(None, ge=0, description="purchase: price in cents; rating: stars, 1 to 5")
    quantity: int | None = Field(None, ge=1, le=LARGEST_INT32)
    recommendation_id: Identifier | None = Field(None, description="of the answer that showed the item")
    position: int | None = Field(None, ge=0, le=LARGEST_INT32, description="its rank in that answer")
    timestamp: Time | None = Field(None, description="ISO 8601 with an offset; when absent, the time of arrival")
    properties: dict[Name, Scalar] = Field({}, max_length=100, description="anything else worth keeping")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.user_id is None and self.session_id is None:
            raise ValueError("expected user_id or session_id")
        if self.item_id is None and self.event_type != "search":
            raise ValueError(f"expected item_id with {self.event_type}")
        if self.event_type == "rating" and (self.value is None or not 1 <= self.value <= 5):
            raise ValueError("expected value between 1 and 5 with rating")
        return self


class RejectedEvent(BaseModel):
    """An event that was not stored."""

    index: int = Field(description="its position in the request, from 0")
    error: str = Field(description="the field, what was expected and what came")


def _keep_error(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """One bad event must not cost the others: in its place stands its error, a str."""
    try:
        return validate(value)
    except ValidationError as error:
        return sentence(field_errors(error.errors()))


class EventsRequest(Body):
    """A batch of events. The good ones are stored, the others come back with their errors."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {
                            "event_id": "e-9001",
                            "event_type": "detail-page-view",
                            "user_id": "u-1042",
                            "session_id": "s-77",
                            "item_id": "sku-58",
                            "recommendation_id": "b2c1f0d47f5e4f0ea3c4a54be1d4a3d8",
                            "position": 1,
                            "timestamp": "2026-01-31T10:15:00Z",
                        },
                        {
                            "event_id": "e-9002",
                            "event_type": "purchase",
                            "user_id": "u-1042",
                            "item_id": "sku-58",
                            "value": 4990,
                            "quantity": 1,
                            "timestamp": "2026-01-31T10:21:30Z",
                            "properties": {"voucher": "JAN10"},
                        },
                    ]
                }
            ]
        }
    )

    events: list[Annotated[EventIn, WrapValidator(_keep_error)]] = Field(max_length=MOST_EVENTS)


class EventsAnswer(BaseModel):
    """What became of each event; the three add up to what was sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "accepted": 2,
                    "duplicates": 0,
                    "rejected": [{"index": 2, "error": "item_id: expected text, came 310"}],
                }
            ]
        }
    )

    accepted: int
    duplicates: int = Field(description="already stored under the same event_id")
    rejected: list[RejectedEvent]


class ItemBody(Body):
    """An item, whole: a field left out is unknown from now on, except `created_at`, which stays."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "title": "Red wrap dress",
                    "description": "Knee-length wrap dress in soft viscose.",
                    "category": "Women > Dresses",
                    "brand": "Alba",
                    "family": "alba-wrap",
                    "price_cents": 4990,
                    "in_stock": True,
                    "attributes": {"colour": "red", "size": ["S", "M", "L"]},
                    "images": ["images/sku-58.jpg"],
                    "created_at": "2026-01-12T00:00:00Z",
                }
            ]
        }
    )

    title: Name | None = None
    description: Text | None = None
    category: Name | None = Field(None, description="a path, general to special: `Women > Dresses`")
    brand: Name | None = None
    family: Name | None = Field(None, description="one design in several colours or sizes shares it")
    price_cents: int | None = Field(None, ge=0, le=LARGEST_INT)
    in_stock: bool = True
    attributes: Attributes = Field({}, description="name → value, or name → values")
    images: Images = Field([], description="paths or URLs; the first is the one compared")
    created_at: Time | None = Field(None, description="when the shop first offered it; ISO 8601 with an offset")


class ItemPatch(Body):
    """The fields of an item to change; one left out stays as it is, one that is null becomes unknown."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"price_cents": 3990}, {"in_stock": False, "attributes": {"colour": "red"}}]}
    )

    title: Name | None = None
    description: Text | None = None
    category: Name | None = None
    brand: Name | None = None
    family: Name | None = None
    price_cents: int | None = Field(None, ge=0, le=LARGEST_INT)
    in_stock: bool = True
    attributes: Attributes | None = None
    images: Images | None = None
    created_at: Time | None = None

    def changes(self) -> dict[str, Any]:
        """Only what was sent."""
        return self.model_dump(exclude_unset=True)


class BatchItem(ItemBody):
    """An item of a batch."""

    model_config = ConfigDict(json_schema_extra={"examples": []})

    id: Identifier


class ItemsBatch(Body):
    """Items, each whole; all are stored or, where one is not as expected, none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {"id": "sku-58", "title": "Red wrap dress", "brand": "Alba", "price_cents": 4990},
                        {"id": "sku-59", "title": "Blue wrap dress", "brand": "Alba", "price_cents": 4990},
                    ]
                }
            ]
        }
    )

    items: list[BatchItem] = Field(min_length=1, max_length=MOST_ITEMS)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({item.id for item in self.items}) < len(self.items):
            raise ValueError("expected each id once")
        return self


class ItemsAnswer(BaseModel):
    """What became of a batch of items; the three add up to what was sent."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"created": 1, "changed": 1, "unchanged": 0}]})

    created: int
    changed: int
    unchanged: int


class ItemOut(BaseModel):
    """An item as the catalogue holds it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "sku-58",
                    "title": "Red wrap dress",
                    "description": "Knee-length wrap dress in soft viscose.",
                    "category": "Women > Dresses",
                    "brand": "Alba",
                    "family": "alba-wrap",
                    "price_cents": 4990,
                    "in_stock": True,
                    "attributes": {"colour": "red", "size": ["S", "M", "L"]},
                    "images": ["images/sku-58.jpg"],
                    "created_at": "2026-01-12T00:00:00Z",
                    "updated_at": "2026-01-31T10:00:00Z",
                    "in_release": True,
                }
            ]
        }
    )

    id: str
    title: str | None
    description: str | None
    category: str | None
    brand: str | None
    family: str | None
    price_cents: int | None
    in_stock: bool
    attributes: dict[str, Any]
    images: list[str]
    created_at: datetime | None
    updated_at: datetime
    in_release: bool = Field(
        description="whether it can be found and recommended now; a new one can seconds after it was put"
    )


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
