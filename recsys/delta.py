"""Items that came or changed after the night, beside a release that is never edited: ``extend(release, late)``.

What comes out is a Release again, so there is one request path and one search: a new item gets a row behind the last
one, a changed item keeps its row and with it all that its shoppers' behaviour says. Arrays of the night stay where they
are, memory-mapped; a release without late items is not touched, and pays nothing.

    release ──┐
    late    ──┴─► extend() ─► Release: rows of the night │ rows that came later
                                       (some answered from `late`)
"""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.artifacts import Release
from recsys.histories import Float32, Int32
from recsys.late_words import late_words
from recsys.ranking.features import SPACES, FeatureTables
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.items import ItemTable
from recsys.retrieval.retrieve import Retrieval
from recsys.retrieval.users import taste_content
from recsys.search_index import SearchIndex


@dataclass(frozen=True)
class LateItem:
    """One item as it is now, whole. See make_late_items().

    Attributes:
        item_id, title: title "" where there is none.
        in_stock: now.
        created_at_days: days since 1970 UTC, NaN where unknown; never after the moment that requests are made for.
        features: float32 [len(ITEM_FEATURES)].
        codes: "category", "brand" and "family" → code, -1 where unknown or new to the release.
        attributes: int32 [a], as in FeatureTables.
        spaces: for each of SPACES a vector, zero where unknown.
        parts: modality → what it adds to the embedding.
        hubs: what may be asked with → how near the item lies to such questions at all.
        neighbours: rows and likeness of the items nearest to it, int32 [k] and float32 [k].
        said, reviewed: word → how often the shop, or its reviewers, say it.
    """

    item_id: str
    title: str
    in_stock: bool
    created_at_days: float
    features: Float32
    codes: Mapping[str, int]
    attributes: Int32
    spaces: Mapping[str, npt.NDArray[Any]]
    parts: Mapping[str, npt.NDArray[Any]]
    hubs: Mapping[str, float]
    neighbours: tuple[Int32, Float32]
    said: Mapping[str, int]
    reviewed: Mapping[str, int]


class Stacked:
    """An array by row, of which some rows are answered from elsewhere, those behind its end among them.

    Reads like the array: ``stacked[rows]``, ``stacked[row]``, ``stacked[a:b]``, ``stacked[:, column]``,
    ``stacked[row, column]``.

    Args:
        base: [n, …].
        place: int32 [n + new], the position in ``late`` of each row, -1 where ``base`` answers.
        late: [m, …].
    """

    def __init__(self, base: npt.NDArray[Any], place: Int32, late: npt.NDArray[Any]) -> None:
        self.base = base
        self.place = place
        self.late = late.astype(base.dtype, copy=False)
        self.dtype = base.dtype
        self.shape = (len(place), *base.shape[1:])
        self.ndim = base.ndim

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, key: Any) -> Any:
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if isinstance(rows, slice) and rows == slice(None) and rest:
            return Stacked(self.base[key], self.place, self.late[key])
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        wanted = np.asarray(rows)
        if wanted.dtype == bool:
            wanted = np.flatnonzero(wanted)
        elif wanted.size == 0:
            wanted = wanted.astype(np.intp)  # an empty list has no type
        place = self.place[wanted]
        if wanted.ndim == 0:
            return self.base[(int(wanted), *rest)] if place < 0 else self.late[(int(place), *rest)]
        late = place >= 0
        if not late.any():
            return self.base[(wanted, *rest)]
        out = np.array(self.base[np.where(late, 0, wanted)])
        out[late] = self.late[place[late]]
        return out[(slice(None), *rest)] if rest else out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype)


class Joined(Sequence[str]):
    """A list and what follows it, some of it replaced, without a copy."""

    def __init__(self, base: Sequence[str], replaced: Mapping[int, str], more: Sequence[str]) -> None:
        self.base, self.replaced, self.more = base, replaced, more

    def __len__(self) -> int:
        return len(self.base) + len(self.more)

    def __getitem__(self, row: Any) -> Any:
        row = int(row)
        if row in self.replaced:
            return self.replaced[row]
        return self.base[row] if row < len(self.base) else self.more[row - len(self.base)]


@dataclass(frozen=True)
class LateIndex(ItemIndex):
    """The night's index, less the vectors that changed, and an exact scan over what came later.

    Attributes:
        base: of the night.
        rows: int32 [m], of the late vectors.
        vectors: float32 [m, d]; a zero row is found by nobody.
        unchanged: bool [n], the rows that ``base`` still speaks for; None where it does for all.
    """

    base: ItemIndex
    rows: Int32
    vectors: Float32
    unchanged: npt.NDArray[np.bool_] | None

    def search(self, queries: Float32, k: int, allowed: npt.NDArray[np.bool_] | None = None) -> tuple[Int32, Float32]:
        """See ItemIndex; a query gets the same bits alone and in any batch."""
        of_base = self.unchanged
        if allowed is not None:
            of_base = allowed[: len(self.base.item_ids)]
            of_base = of_base & self.unchanged if self.unchanged is not None else of_base
        found, scores = self.base.search(queries, k, of_base)
        mine = self.vectors.any(axis=1)
        if allowed is not None:
            mine &= allowed[self.rows]
        late, rows = self.vectors[mine], self.rows[mine]
        if len(rows) == 0:
            return found, scores
        likeness = np.stack([late @ query for query in queries]).astype(np.float32)
        likeness = np.concatenate([np.where(found < 0, -np.inf, scores), likeness], axis=1)
        everything = np.concatenate([found, np.broadcast_to(rows, (len(queries), len(rows)))], axis=1)
        best = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
        rows_found = np.take_along_axis(everything, best, axis=1).astype(np.int32)
        return rows_found, np.where(rows_found < 0, 0, np.take_along_axis(likeness, best, axis=1)).astype(np.float32)


def extend(release: Release, late: Sequence[LateItem]) -> Release:
    """``release`` as it would answer if it knew the ``late`` items; itself where there are none.

    A new item can be found by its likeness to a history, as an arrival, and in search; what sells with it is only known
    after the next night. Its row is behind the last one, in the order of ``late``.

    Args:
        release: of the night, not an extended one.
        late: each item once.
    """
    if not late:
        return release
    n_items = len(release.item_ids)
    new = [item for item in late if item.item_id not in release.rows]
    row_of = {item.item_id: n_items + number for number, item in enumerate(new)}
    rows = np.array([row_of.get(item.item_id, release.rows.get(item.item_id, -1)) for item in late], np.int32)
    place = np.full(n_items + len(new), -1, np.int32)
    place[rows] = np.arange(len(late))
    tables = _late_features(release.tables, place, late)
    extended = replace(
        release,
        item_ids=Joined(release.item_ids, {}, [item.item_id for item in new]),
        titles=Joined(
            release.titles,
            {int(row): item.title for row, item in zip(rows, late) if row < n_items},
            [item.title for item in new],
        ),
        in_stock=np.asarray(_stacked(release.in_stock, place, [item.in_stock for item in late])),
        retrieval=_late_retrieval(release.retrieval, tables, rows, place, late),
        tables=tables,
        search=release.search and _late_search(release.search, rows, place, late),
    )
    # What the cached property would compute, without copying a million ids.
    vars(extended)["rows"] = ChainMap(
        row_of, dict(release.rows) if not isinstance(release.rows, dict) else release.rows
    )
    return extended


def _stacked(base: Any, place: Int32, values: Sequence[Any] | npt.NDArray[Any]) -> Any:
    """``base`` with the late items' ``values``, one each; typed as the array that it reads like."""
    return Stacked(base, place, np.array(values).reshape(len(values), *base.shape[1:]))


def _late_features(tables: FeatureTables, place: Int32, late: Sequence[LateItem]) -> FeatureTables:
    def of_codes(name: str) -> Any:
        return _stacked(getattr(tables, name), place, [item.codes[name] for item in late])

    return replace(
        tables,
        items=_stacked(tables.items, place, [item.features for item in late]),
        created_at_days=_stacked(tables.created_at_days, place, [item.created_at_days for item in late]),
        category=of_codes("category"),
        brand=of_codes("brand"),
        family=of_codes("family"),
        attributes=_stacked(tables.attributes, place, [item.attributes for item in late]),
        spaces={name: _stacked(tables.spaces[name], place, [item.spaces[name] for item in late]) for name in SPACES},
    )


def _late_retrieval(
    retrieval: Retrieval, tables: FeatureTables, rows: Int32, place: Int32, late: Sequence[LateItem]
) -> Retrieval:
    """``tables`` are the extended ones."""
    n_items, known = len(retrieval.trending), rows < len(retrieval.trending)
    fused = _stacked(retrieval.embeddings, place, [item.spaces["fused"] for item in late])
    content = taste_content([np.stack([item.spaces[name] for item in late]) for name in SPACES])
    # A changed item keeps the place that its shoppers gave it; a new one lies where its content puts it.
    taste = retrieval.tower.item_vectors(content)
    taste[known] = retrieval.taste[rows[known]]
    return replace(
        retrieval,
        index=_late_index(retrieval.index, rows, fused.late, n_items),
        embeddings=fused,
        taste=_stacked(retrieval.taste, place, taste),
        taste_index=_late_index(retrieval.taste_index, rows[~known], taste[~known], n_items),
        tables={
            name: _late_content(table, rows, place, late) if name == "content" else _late_table(table, place, late)
            for name, table in retrieval.tables.items()
        },
        trending=_stacked(retrieval.trending, place, retrieval.trending[np.minimum(rows, n_items - 1)] * known),
        newest=_with_arrivals(retrieval.newest, tables.created_at_days, n_items),
    )


def _late_search(search: SearchIndex, rows: Int32, place: Int32, late: Sequence[LateItem]) -> SearchIndex:
    return replace(
        search,
        words=late_words(search.words, place, rows, [item.said for item in late]),
        reviews=late_words(search.reviews, place, rows, [item.reviewed for item in late]),
        parts={
            name: _stacked(part, place, [item.parts.get(name, np.zeros(part.shape[1])) for item in late])
            for name, part in search.parts.items()
        },
        hubs={
            name: _stacked(hub, place, [item.hubs.get(name, 0.0) for item in late]) for name, hub in search.hubs.items()
        },
    )


def _late_index(index: ItemIndex | None, rows: Int32, vectors: Float32, n_items: int) -> ItemIndex | None:
    if index is None:
        return None
    unchanged = None
    if (rows < n_items).any():
        unchanged = np.ones(n_items, bool)
        unchanged[rows[rows < n_items]] = False
    return LateIndex(index.item_ids, index.index, index.kind, index.recall, index, rows, vectors, unchanged)


def _late_table(table: ItemTable, place: Int32, late: Sequence[LateItem]) -> ItemTable:
    """What behaviour says of a changed item stays; a new one has no links yet."""
    width = table.neighbours.shape[1]
    neighbours = np.full((len(late), width), -1, np.int32)
    weights = np.zeros((len(late), width), np.float32)
    known = np.flatnonzero(place[: len(table)] >= 0)
    neighbours[place[known]] = table.neighbours[known]
    weights[place[known]] = table.weights[known]
    return _stacked_table(table, place, neighbours, weights)


def _late_content(table: ItemTable, rows: Int32, place: Int32, late: Sequence[LateItem]) -> ItemTable:
    """The likeness of late items to others, and of others to them: as if the night had compared them all."""
    width = table.neighbours.shape[1]
    sources = np.repeat(rows, [len(item.neighbours[0]) for item in late])
    targets = np.concatenate([item.neighbours[0] for item in late]).astype(np.int32)
    likeness = np.concatenate([item.neighbours[1] for item in late]).astype(np.float32)
    # Each link both ways, beside the links that the others have already, less those of what changed.
    late_rows = np.flatnonzero(place >= 0)
    touched = np.setdiff1d(targets, late_rows)
    old, old_weights = table.neighbours[touched].ravel(), table.weights[touched].ravel()
    kept = (old >= 0) & (place[np.maximum(old, 0)] < 0)
    back = np.isin(targets, touched)
    of = np.concatenate([sources, targets[back], np.repeat(touched, width)[kept]])
    to = np.concatenate([targets, sources[back], old[kept]])
    weights = np.concatenate([likeness, likeness[back], old_weights[kept]])
    order = np.lexsort((to, -weights, of))
    of, to, weights = of[order], to[order], weights[order]

    answered = np.union1d(late_rows, touched).astype(np.int32)
    own = np.full(len(place), -1, np.int32)
    own[answered] = np.arange(len(answered))
    starts = np.searchsorted(of, of, side="left")
    rank = np.arange(len(of)) - starts
    first = rank < width
    out = np.full((len(answered), width), -1, np.int32)
    out_weights = np.zeros((len(answered), width), np.float32)
    out[own[of[first]], rank[first]] = to[first]
    out_weights[own[of[first]], rank[first]] = weights[first]
    return _stacked_table(table, own, out, out_weights)


def _stacked_table(table: ItemTable, place: Int32, neighbours: Int32, weights: Float32) -> ItemTable:
    return ItemTable(
        Stacked(table.neighbours, place, neighbours),  # type: ignore[arg-type]
        Stacked(table.weights, place, weights),  # type: ignore[arg-type]
    )


def _with_arrivals(newest: Int32, created: Any, n_items: int) -> Int32:
    """``newest`` with the new rows of known arrival where they belong; a changed item's place is that of the night.

    ``created`` is the extended array, see Stacked.
    """
    new = np.arange(n_items, len(created), dtype=np.int32)
    days = created[new] if len(new) else np.zeros(0)
    new, days = new[~np.isnan(days)], days[~np.isnan(days)]
    order = np.argsort(-days, kind="stable")
    new, days = new[order], days[order]
    # The night's order is newest first; each new one stands before what came at the same time.
    before = np.asarray(created.base[newest])
    return np.insert(newest, np.searchsorted(-before, -days, side="left"), new).astype(np.int32)
