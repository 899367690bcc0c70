"""The bodies of what a shop tells the service: events and items; read as strictly as those of schemas.py."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from recsys.schema import CLOCK_SKEW, EVENT_TYPES
from service.fields import LARGEST_INT, Body, Finite, Identifier, Name, Time, storable
from service.problems import field_errors, sentence

MOST_EVENTS = 1_000  # in one request
MOST_ITEMS = 1_000  # in one request
LARGEST_INT32 = 2**31 - 1
EVENT_CLOCK_SKEW = timedelta(minutes=10)  # how far ahead of ours a storefront's clock may be


def _within(path: str) -> str:
    """A picture's place: the night opens the file, so it must not climb out of the shop's images folder."""
    if path.lower().startswith("file:") or ".." in path.replace("\\", "/").split("/"):
        raise ValueError("expected an address (https://…), or the path of a file without '..'")
    return path


def _arrived(time: datetime) -> datetime:
    """The rule of the importers: what comes next year is not on sale."""
    if time > datetime.now(UTC) + CLOCK_SKEW:
        raise ValueError("expected a time that is not in the future")
    return time


Text = Annotated[str, StringConstraints(max_length=100_000), AfterValidator(storable)]
Picture = Annotated[Name, AfterValidator(_within)]
Arrival = Annotated[Time, AfterValidator(_arrived)]
Scalar = bool | Annotated[int, Field(ge=-LARGEST_INT, le=LARGEST_INT)] | Finite | Name | None

Attributes = Annotated[dict[Name, Name | Annotated[list[Name], Field(max_length=100)]], Field(max_length=200)]
Images = Annotated[list[Picture], Field(max_length=50)]

EXAMPLE_ITEM = {
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

EventType = Literal[EVENT_TYPES]  # type: ignore[valid-type]


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
    """An item, whole: a field left out is unknown from now on, but `created_at` stays and `in_stock` becomes true."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_ITEM]})

    title: Name | None = None
    description: Text | None = None
    category: Name | None = Field(None, description="a path, general to special: `Women > Dresses`")
    brand: Name | None = None
    family: Name | None = Field(None, description="one design in several colours or sizes shares it")
    price_cents: int | None = Field(None, ge=0, le=LARGEST_INT)
    in_stock: bool = True
    attributes: Attributes = Field({}, description="name → value, or name → values")
    images: Images = Field([], description="paths or URLs; the first path is the one compared")
    created_at: Arrival | None = Field(None, description="when the shop first offered it; ISO 8601 with an offset")


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
    created_at: Arrival | None = None

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
            "examples": [{"id": "sku-58", **EXAMPLE_ITEM, "updated_at": "2026-01-31T10:00:00Z", "in_release": True}]
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
