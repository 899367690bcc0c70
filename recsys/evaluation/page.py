"""The pieces of an HTML report: one file without any outside resource, readable on a phone, in light and in dark.

Text goes in plain and comes out escaped; what is already HTML is an :class:`Html` and stays as it is.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from recsys.evaluation.sheet import SheetItem, card_colours, open_picture

THUMBNAIL = (168, 224)  # pixels, twice what a page shows
_CSS = Path(__file__).with_name("page.css")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Html:
    """Anything as HTML: escaped, unless it is HTML already."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def join(parts: Iterable[Html]) -> Html:
    """Pieces one after the other."""
    return Html("\n".join(parts))


def page(title: str, eyebrow: str, headline: str, lead: str, blocks: Iterable[Html], tone: str = "") -> Html:
    """A whole document. ``headline`` is the answer in words; ``tone`` (good, bad or "") colours its edge."""
    return Html(
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>
{_CSS.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<header class="{text(tone)}">
<p class="eyebrow">{text(eyebrow)}</p>
<h1>{text(headline)}</h1>
<p class="lead">{text(lead)}</p>
</header>
{join(blocks)}
</main>
</body>
</html>
"""
    )


def section(title: str, intro: str, *blocks: Html) -> Html:
    """A titled part; ``intro`` says how to read it."""
    lead = f"<p>{text(intro)}</p>" if intro else ""
    return Html(f"<section><h2>{text(title)}</h2>{lead}{join(blocks)}</section>")


def tiles(facts: Sequence[tuple[str, str, str]]) -> Html:
    """A few large figures: (label, figure, note) each."""
    inside = "".join(
        f'<div><dt>{text(label)}</dt><dd>{text(figure)}</dd><dd class="note">{text(note)}</dd></div>'
        for label, figure, note in facts
    )
    return Html(f'<dl class="tiles">{inside}</dl>')


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], numbers_from: int = 1) -> Html:
    """A table that scrolls sideways where it must; columns from ``numbers_from`` on are set as figures."""
    kinds = ["" if place < numbers_from else ' class="n"' for place in range(len(columns))]
    head = "".join(f"<th{kind}>{text(column)}</th>" for kind, column in zip(kinds, columns))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{text(cell)}</td>" for kind, cell in zip(kinds, row)) + "</tr>" for row in rows
    )
    return Html(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def tag(word: str, tone: str = "") -> Html:
    """A word on a coloured ground: good, bad or neutral."""
    return Html(f'<span class="tag {text(tone)}">{text(word)}</span>')


def plot(svg: str, title: str, caption: str = "") -> Html:
    """A figure from :mod:`recsys.evaluation.plots`."""
    note = f"<small>{text(caption)}</small>" if caption else ""
    return Html(f"<figure><figcaption>{text(title)}{note}</figcaption>{svg}</figure>")


def side_by_side(blocks: Iterable[Html]) -> Html:
    """Blocks in as many columns as fit; under one another on a phone."""
    return Html(f'<div class="grid">{join(blocks)}</div>')


def folded(summary: str, block: Html) -> Html:
    """What few readers want: behind a line to click."""
    return Html(f"<details><summary>{text(summary)}</summary>{block}</details>")


def shelf(label: str, items: Sequence[SheetItem], *, ranked: bool, empty: str = "nothing") -> Html:
    """Items in one row of pictures that scrolls sideways: a history, or a slate with its ranks."""
    cards = "".join(_card(item, rank if ranked else 0) for rank, item in enumerate(items, start=1))
    inside = f"<ol>{cards}</ol>" if items else f'<p class="note">{text(empty)}</p>'
    return Html(f'<div class="shelf"><h4>{text(label)}</h4>{inside}</div>')


def _card(item: SheetItem, rank: int) -> Html:
    title = item.title or item.item_id
    picture = _thumbnail(item.image_path)
    if picture is None:
        ground, ink = card_colours(title)
        face = f'<div class="face" style="background:{ground};color:{ink}">{text(title)}</div>'
    else:
        face = f'<img class="face" alt="{text(title)}" src="{picture}" loading="lazy">'
    badge = f"<b>{rank}</b>" if rank else ""
    bought = "<i>then bought</i>" if item.bought else ""
    lines = "".join(
        f'<span class="{kind}">{text(line)}</span>'
        for kind, line in (("title", title), ("note", item.subtitle), ("why" if rank else "note", item.caption))
        if line
    )
    return Html(f'<li><div class="frame">{face}{badge}{bought}</div>{lines}</li>')


def _thumbnail(path: str | Path | None) -> str | None:
    picture = open_picture(path, *THUMBNAIL)
    if picture is None:
        return None
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
