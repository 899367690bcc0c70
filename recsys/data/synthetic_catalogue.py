"""Items and reviews of the demonstration shop: every design drawn from the tables of words, shapes and colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.data import synthetic_words as words
from recsys.data.synthetic_pictures import COLOURS, N_FITS, PATTERNS, Look
from recsys.data.synthetic_shapes import SHAPES
from recsys.schema import ITEMS, REVIEWS

KIND_NAMES = tuple(words.KINDS)
TRAITS: tuple[str, ...] = (
    *(f"kind={kind}" for kind in words.KINDS),
    *(f"colour={colour}" for colour in COLOURS),
    *(f"pattern={pattern}" for pattern in PATTERNS),
    *(f"style={style}" for style in words.STYLES),
    *(f"price={level}" for level in words.PRICE_LEVELS),
    *(f"review={trait}" for trait in words.REVIEW_TRAITS),
)


@dataclass(frozen=True)
class Design:
    """One item as its maker knows it: all of its traits, seen or not."""

    item_id: str
    family: str
    name: str
    look: Look
    style: str
    brand: words.Brand
    price_cents: int
    price_level: str
    material: str
    hidden: tuple[str, ...]  # keys of REVIEW_TRAITS
    created_at: datetime
    sold_out_at: datetime | None

    @property
    def traits(self) -> tuple[str, ...]:
        """Its entries of TRAITS."""
        return (
            f"kind={self.look.kind}",
            f"colour={self.look.colour}",
            f"pattern={self.look.pattern}",
            f"style={self.style}",
            f"price={self.price_level}",
            *(f"review={trait}" for trait in self.hidden),
        )


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def design_items(
    n_items: int, start: datetime, days: int, new_share: float, sold_out_share: float, rng: np.random.Generator
) -> list[Design]:
    """Return ``n_items`` designs, sorted by item_id. Families have one to five colours."""
    designs: list[Design] = []
    family = 0
    while len(designs) < n_items:
        designs += _design_family(family, start, days, new_share, sold_out_share, rng)
        family += 1
    return designs[:n_items]


def _design_family(
    number: int, start: datetime, days: int, new_share: float, sold_out_share: float, rng: np.random.Generator
) -> list[Design]:
    # Kinds take turns, so that even a small shop has some of each.
    kind = KIND_NAMES[number % len(KIND_NAMES)]
    spec = words.KINDS[kind]
    brand = words.BRANDS[int(rng.integers(len(words.BRANDS)))]
    style = brand.style if rng.random() < 0.8 else _pick(rng, tuple(words.STYLES))
    factor = brand.price_factor * float(np.exp(rng.normal(0, 0.12)))
    price_cents = max(490, round(spec.price_cents * factor / 100) * 100 - int(rng.choice([1, 5, 10])))
    level = words.PRICE_LEVELS[int(np.searchsorted([0.85, 1.3], factor))]
    pattern = PATTERNS[int(rng.choice(len(PATTERNS), p=[0.3, 0.16, 0.13, 0.14, 0.15, 0.12]))]
    pleasant = [t for t, trait in words.REVIEW_TRAITS.items() if kind in trait.kinds and trait.appeal > -1]
    unpleasant = [t for t, trait in words.REVIEW_TRAITS.items() if kind in trait.kinds and trait.appeal <= -1]
    hidden = [_pick(rng, pleasant)] if pleasant and rng.random() < 0.8 else []
    hidden += [_pick(rng, unpleasant)] if unpleasant and rng.random() < 0.25 else []
    first = words.DESIGN_FIRST[number % len(words.DESIGN_FIRST)]
    last = words.DESIGN_LAST[(number // len(words.DESIGN_FIRST) + 7 * number) % len(words.DESIGN_LAST)]
    is_new = rng.random() < new_share
    # Something created on day d is offered from the evening before, and so on the whole of day d.
    created_day = int(rng.integers(1, days)) if is_new else -int(rng.integers(1, 500))
    cut, fit, seed = (int(rng.integers(n)) for n in (len(SHAPES[kind]), N_FITS, 1_000_000))
    material = _pick(rng, spec.materials)
    colours = rng.choice(
        len(COLOURS), size=int(rng.choice([1, 2, 3, 4, 5], p=[0.2, 0.25, 0.25, 0.2, 0.1])), replace=False
    )
    members = []
    family = f"{100_000 + number}"
    for position, colour in enumerate(colours):
        # A colour that joins its family later is a new arrival with well-known siblings.
        later = int(rng.integers(1, days)) if position and rng.random() < 0.06 else created_day
        created_at = start + timedelta(days=max(created_day, later), hours=-3)
        sold_out_at = None
        if rng.random() < sold_out_share:
            first_day = max(days // 4, max(created_day, later) + 3)
            if first_day < days:
                sold_out_at = start + timedelta(days=int(rng.integers(first_day, days)))
        members.append(
            Design(
                item_id=f"{family}-{position + 1:02d}",
                family=family,
                name=first + last,
                look=Look(kind, tuple(COLOURS)[int(colour)], pattern, cut, fit, seed),
                style=style,
                brand=brand,
                price_cents=price_cents,
                price_level=level,
                material=material,
                hidden=tuple(hidden),
                created_at=created_at,
                sold_out_at=sold_out_at,
            )
        )
    return members


def trait_matrix(designs: Sequence[Design]) -> npt.NDArray[np.float32]:
    """Return float32 [n_items, len(TRAITS)], 1 where the item has the trait."""
    column = {trait: position for position, trait in enumerate(TRAITS)}
    matrix = np.zeros((len(designs), len(TRAITS)), dtype=np.float32)
    for row, design in enumerate(designs):
        matrix[row, [column[trait] for trait in design.traits]] = 1
    return matrix


# ── items ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def describe_items(
    designs: Sequence[Design],
    missing_picture: float,
    missing_text: float,
    missing_both: float,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Return ITEMS, one row per design in the same order.

    Args:
        designs: what to describe.
        missing_picture: share of items with words and no picture.
        missing_text: share of items with a picture and title, and no description; a third of them have no title either.
        missing_both: share of items with neither picture nor title nor description.
        rng: decides the wording.
    """
    rows = []
    lack = rng.random(len(designs))
    for design, drawn in zip(designs, lack):
        neither = drawn < missing_both
        no_picture = neither or drawn > 1 - missing_picture
        no_description = neither or drawn < missing_both + missing_text
        no_title = neither or drawn < missing_both + missing_text / 3
        title, description = _title(design, rng), _description(design, rng)
        rows.append(
            {
                "item_id": design.item_id,
                "title": None if no_title else title,
                "description": None if no_description else description,
                "category": words.KINDS[design.look.kind].category,
                "brand": design.brand.name,
                "family": design.family,
                "price_cents": design.price_cents,
                "in_stock": design.sold_out_at is None,
                "attributes": _attributes(design, rng),
                "images": [] if no_picture else _images(design, rng),
                "created_at": None if rng.random() < 0.01 else design.created_at,
            }
        )
    return pl.DataFrame(rows, schema=ITEMS)


def _images(design: Design, rng: np.random.Generator) -> list[str]:
    """One picture, sometimes a close-up too."""
    detail = [f"images/{design.item_id}-detail.jpg"] if rng.random() < 0.08 else []
    return [f"images/{design.item_id}.jpg", *detail]


def _title(design: Design, rng: np.random.Generator) -> str:
    noun = _pick(rng, words.KINDS[design.look.kind].nouns)
    pattern = _pick(rng, words.PATTERN_WORDS[design.look.pattern]) + " "
    pattern = "" if (design.look.pattern == "plain" and rng.random() < 0.7) or rng.random() < 0.3 else pattern
    colour = f", {_pick(rng, words.COLOUR_WORDS[design.look.colour])}" if rng.random() < 0.45 else ""
    return f"{design.name} {pattern}{noun}{colour}"


def _description(design: Design, rng: np.random.Generator) -> str:
    spec = words.KINDS[design.look.kind]
    noun = _pick(rng, spec.nouns)
    style = _pick(rng, words.STYLES[design.style])
    sentences = [f"{style.capitalize()} {noun} {spec.details[design.look.cut]}."]
    if rng.random() < 0.6:
        colour = _pick(rng, words.COLOUR_WORDS[design.look.colour])
        sentence = _pick(rng, words.PATTERN_SENTENCES[design.look.pattern])
        sentences.append(sentence.format(colour=colour, Colour=colour.capitalize()))
    sentences.append(f"Made of {design.material} by {design.brand.name}.")
    if rng.random() < 0.5:
        sentences.append(_pick(rng, words.USES[spec.department]))
    return " ".join(sentences)


def _attributes(design: Design, rng: np.random.Generator) -> list[str]:
    known = {
        "colour": design.look.colour,
        "material": design.material,
        "pattern": design.look.pattern,
        "style": design.style,
    }
    return sorted(f"{name}={value}" for name, value in known.items() if rng.random() < 0.7)


# ── reviews ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_reviews(
    designs: Sequence[Design],
    written: Sequence[tuple[int, str, datetime]],
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Return REVIEWS, oldest first.

    Most speak of what the item is like. Some are off topic, some claim a trait that the item has not, some clicked the
    wrong stars, some gave no stars or wrote nothing; readers find the misleading ones less helpful.

    Args:
        designs: the items.
        written: (row of the item, user_id, when) per review.
        rng: decides the wording.
    """
    rows = []
    for row, user_id, timestamp in written:
        design = designs[row]
        bad = any(words.REVIEW_TRAITS[trait].appeal < -1 for trait in design.hidden)
        stars = int(np.clip(round(4.3 - 1.6 * bad + rng.normal(0, 0.8)), 1, 5))
        text, honest = _review_text(design, stars, rng)
        noun = _pick(rng, words.KINDS[design.look.kind].nouns)
        title = _pick(rng, words.REVIEW_TITLES[stars]).format(noun=noun) if rng.random() < 0.7 else None
        rating = None if rng.random() < 0.08 else float(6 - stars if rng.random() < 0.03 else stars)
        votes = int(rng.geometric(0.3)) - 1 if honest else int(rng.random() < 0.2)
        rows.append((user_id, design.item_id, rating, title, text, votes, timestamp))
    rows.sort(key=lambda entry: (entry[6], entry[0], entry[1]))
    columns = ("user_id", "item_id", "rating", "title", "text", "helpful_votes", "timestamp")
    named = [{"review_id": f"r{n:07d}", **dict(zip(columns, entry))} for n, entry in enumerate(rows, start=1)]
    return pl.DataFrame(named, schema=REVIEWS)


def _review_text(design: Design, stars: int, rng: np.random.Generator) -> tuple[str | None, bool]:
    kind = design.look.kind
    noun = _pick(rng, words.KINDS[kind].nouns)
    drawn = rng.random()
    if drawn < 0.03:
        return None, True
    this = "these" if noun.endswith("s") and noun != "dress" else "this"
    opening = _pick(rng, words.REVIEW_OPENINGS[stars]).format(this=this, noun=noun)
    if drawn < 0.10:
        return f"{opening} {_pick(rng, words.REVIEW_OFF_TOPIC)}", False
    sentences = [opening]
    claimed = [trait for trait in design.hidden if rng.random() < 0.75]
    honest = drawn >= 0.16
    if not honest:
        others = [t for t, trait in words.REVIEW_TRAITS.items() if kind in trait.kinds and t not in design.hidden]
        claimed = [_pick(rng, others)] if others else []
    for trait in claimed:
        said = words.REVIEW_TRAITS[trait].sentences
        sentences.append(_pick(rng, said.get(kind, said[""])))
    if rng.random() < 0.4:
        colour = _pick(rng, words.COLOUR_WORDS[design.look.colour])
        pattern = _pick(rng, words.PATTERN_WORDS[design.look.pattern])
        sentence = _pick(rng, words.REVIEW_SEEN)
        sentences.append(sentence.format(colour=colour, Colour=colour.capitalize(), pattern=pattern))
    return " ".join(sentences), honest
