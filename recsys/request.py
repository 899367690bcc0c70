"""What goes into :func:`recsys.recommend.recommend` and what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

PLACEMENTS = ("home", "product", "cart")
# The newest events of a shopper that a request holds: as many in training and in evaluation as the service reads.
LONGEST_HISTORY = 500

# The rungs of the ladder, best first. Every slate names the one that it came from.
RUNGS = (
    "full",  # candidates from the shopper's own history or the page's items, ordered by the ranker
    "without_ranker",  # the same candidates in the order of retrieval: the ranker is missing or failed
    "item_to_item",  # only the item-to-item tables answered: a release without a taste index, which no night saves
    "trending",  # nothing is known of the shopper or the page: what sells now
    "newest",  # nothing sells either: what came last
)
# Search has two more between the first and the last.
FALLBACKS = (
    *RUNGS,
    "without_encoder",  # by words alone: the encoders are missing, broken or still loading
    "without_words",  # by meaning alone: the release has no index of words
)


@dataclass(frozen=True, slots=True)
class Interaction:
    """One past event of a shopper with an item."""

    item_id: str
    event_type: str  # one of recsys.schema.EVENT_TYPES
    timestamp: datetime  # UTC


@dataclass(frozen=True, slots=True)
class Request:
    """One question: what to show to this shopper, here, now.

    Unknown ids are not errors: an item that the release does not know is passed over, a shopper that nobody knows has
    no history.
    """

    requested_at: datetime  # UTC; the request path reads no clock
    placement: str = "home"  # one of PLACEMENTS
    user_id: str | None = None
    session_id: str | None = None
    history: Sequence[Interaction] = ()  # before requested_at, oldest first
    item_ids: Sequence[str] = ()  # the page's item or the cart's items; never recommended themselves
    limit: int = 12
    exclude_item_ids: Sequence[str] = ()
    exclude_purchased: bool = False
    explain: bool = False  # fill in the reasons


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an item is in a slate.

    ``shares`` says how much of the item's own score is owed to what: they sum to 1 over what speaks for it. It is empty
    where there is nothing to share out.
    """

    source: str  # one of recsys.retrieval.retrieve.SOURCES; in search, words or embedding
    item_id: str | None = None  # the past or page item that brought it
    shares: dict[str, float] = field(
        default_factory=dict
    )  # image, text, reviews, attributes, behaviour; words in search
    text: str = ""  # one sentence for a person


@dataclass(frozen=True, slots=True)
class SlateItem:
    """One place of a slate; ``rank`` starts at 1. ``score`` orders items within one slate only."""

    item_id: str
    rank: int
    score: float
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Slate:
    """The answer to one request: at most ``limit`` distinct items, best first."""

    items: tuple[SlateItem, ...]
    fallback: str  # one of FALLBACKS
    release: str  # the version that answered
    n_candidates: int = 0  # how many distinct items retrieval brought before the rules
