"""The page of the catalogue audit: what was found, with the pictures side by side."""

from pathlib import Path

import numpy as np
import polars as pl

from pipelines.audit_findings import DISAGREE, MISSING, SAME_PICTURE, SAME_WORDS, TWICE, Audit
from pipelines.sheets import ItemCards, item_cards
from recsys.evaluation import plots
from recsys.evaluation.page import Html, folded, page, plot, section, shelf, side_by_side, table, tiles
from recsys.evaluation.sheet import SheetItem

SHOWN = 60  # findings of a kind with their pictures; the tables beside the page hold all
LISTED = 500  # products without a picture or words that are named
TOGETHER = 8  # products of one group that are shown
SUGGESTED = 3  # pictures that a product's words would fit

INTROS = {
    TWICE: "One picture and one text under several ids: most likely one product that was entered twice.",
    SAME_PICTURE: "One picture, different words: a placeholder, a copy, or variants that nobody photographed.",
    SAME_WORDS: "The same words but for one or two, with different pictures and not of one family.",
}


def audit_page(audit: Audit, items: pl.DataFrame, images: Path) -> str:
    """One HTML document without outside resources; pictures are embedded as small JPEGs.

    Args:
        audit: from audit_items().
        items: ITEMS, in its order.
        images: root of relative picture paths.
    """
    cards = item_cards(items)
    found = {str(kind): frame for (kind,), frame in audit.findings.group_by("kind", maintain_order=True)}
    groups = {kind: found[kind]["group"].n_unique() if kind in found else 0 for kind in INTROS}
    n_called, n_missing = (len(found[kind]) if kind in found else 0 for kind in (DISAGREE, MISSING))
    unjudged = audit.fit.unjudged
    facts = [
        ("products", f"{len(items):,}", "in the catalogue"),
        ("there twice", f"{groups[TWICE]:,}", "groups of the same picture and words"),
        ("one picture", f"{groups[SAME_PICTURE]:,}", "groups with other words"),
        ("one text", f"{groups[SAME_WORDS]:,}", "groups with other pictures"),
        ("disagree", "?" if unjudged else f"{n_called:,}", "products whose picture and words do not fit"),
        ("missing", f"{n_missing:,}", "products without a picture or without words"),
    ]
    said = [
        f"{groups[TWICE]:,} there more than once" if groups[TWICE] else "",
        f"{n_called:,} whose picture and words disagree" if n_called else "",
        f"{n_missing:,} without picture or words" if n_missing else "",
    ]
    headline = ", ".join(filter(None, said)) or ("Nothing found, not all judged" if unjudged else "Nothing to correct")
    blocks = [
        tiles(facts),
        *(_pairs(kind, found[kind], cards, images) for kind in (TWICE, SAME_PICTURE) if kind in found),
        _disagreements(found.get(DISAGREE), audit, items, cards, images),
        *(_pairs(kind, found[kind], cards, images) for kind in (SAME_WORDS,) if kind in found),
        _missing(found.get(MISSING), cards),
    ]
    lead = f"Of {len(items):,} products. Every finding is in findings.csv and findings.parquet beside this page."
    tone = "bad" if groups[TWICE] or n_called else ""
    return page("Catalogue audit", "Catalogue audit", headline, lead, blocks, tone)


def _pairs(kind: str, found: pl.DataFrame, cards: ItemCards, images: Path) -> Html:
    blocks: list[Html] = []
    for _, group in found.group_by("group", maintain_order=True):
        if len(blocks) == SHOWN:
            break
        ids = list(dict.fromkeys([*group["item_id"].to_list(), *group["other_id"].to_list()]))
        more = f", {len(ids) - TOGETHER} more" if len(ids) > TOGETHER else ""
        label = f"{len(ids)} products{more} · {group['note'][0]}"
        blocks.append(shelf(label, [_card(each, cards, images) for each in ids[:TOGETHER]], ranked=False))
    return section(kind.capitalize(), INTROS[kind] + _only(found["group"].n_unique()), side_by_side(blocks))


def _disagreements(
    found: pl.DataFrame | None, audit: Audit, items: pl.DataFrame, cards: ItemCards, images: Path
) -> Html:
    fit = audit.fit
    if fit.unjudged:
        return section(DISAGREE.capitalize(), f"Not judged: {fit.unjudged}.")
    own = fit.misfit[~np.isnan(fit.misfit)]
    grid = np.linspace(0, 0.6, 61)
    svg = plots.curves(
        {
            "picture beside its own words": [(100 * x, 100 * float((own >= x).mean())) for x in grid],
            "beside another product's": [(100 * x, 100 * float((fit.shuffled >= x).mean())) for x in grid],
        },
        "share of the catalogue that fits better, %",
        "products at least there, %",
        from_zero=True,
    )
    note = f"By this catalogue's own measure about {fit.wrong_share:.1%} of the products are wrong"
    if len(fit.called):
        note += f", and of those called, from {fit.threshold:.0%} on, about {fit.false_share:.0%} are right after all."
    else:
        note += "; none is called."
    intro = (
        "Each product's picture is compared with its own words and with the words of a sample of the catalogue, and "
        "its words with other pictures. Where many others fit better, one of the two is of something else. Beside "
        "each: pictures that its words would fit." + _only(0 if found is None else len(found))
    )
    blocks = [plot(svg, "How well pictures fit their words", note)]
    if found is not None:
        blocks.append(side_by_side(_suspects(found.head(SHOWN), audit, items, cards, images)))
    return section(DISAGREE.capitalize(), intro, *blocks)


def _suspects(found: pl.DataFrame, audit: Audit, items: pl.DataFrame, cards: ItemCards, images: Path) -> list[Html]:
    ids = items["item_id"].to_list()
    rows = {item_id: row for row, item_id in enumerate(ids)}
    blocks = []
    for item_id, note in found.select("item_id", "note").iter_rows():
        fit = audit.fit.image @ audit.fit.text[rows[item_id]]
        better = [row for row in np.argsort(-fit, kind="stable")[: SUGGESTED + 1].tolist() if ids[row] != item_id]
        shown = [_card(item_id, cards, images, "this product")]
        shown += [_card(ids[row], cards, images, "fits the words") for row in better[:SUGGESTED]]
        blocks.append(shelf(f"{item_id} · {note}", shown, ranked=False))
    return blocks


def _missing(found: pl.DataFrame | None, cards: ItemCards) -> Html:
    if found is None:
        return Html()
    counts = found.group_by("note", maintain_order=True).len().iter_rows()
    rows = [
        (item_id, cards[item_id]["title"] or "", note)
        for item_id, note in found.head(LISTED).select("item_id", "note").iter_rows()
    ]
    named = folded(f"which: the first {len(rows):,}", table(["product", "title", "has"], rows, numbers_from=3))
    intro = "What has neither picture nor words can only be recommended by what shoppers do."
    return section("Missing", intro, table(["has", "products"], [(note, f"{n:,}") for note, n in counts]), named)


def _card(item_id: str, cards: ItemCards, images: Path, caption: str = "") -> SheetItem:
    row = cards[item_id]
    picture = row["picture"]
    return SheetItem(
        item_id=item_id,
        title=row["title"] or item_id,
        subtitle=item_id,
        image_path=images / picture if picture else None,
        caption=caption,
    )


def _only(n: int) -> str:
    return f" The first {SHOWN} of {n:,} are shown." if n > SHOWN else ""
