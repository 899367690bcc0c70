"""A release: one immutable directory that holds all that a recommendation needs, and nothing that can run.

    <releases>/<version>/
        manifest.json           what it is: cut-off, configuration, metrics, checksum of every file below
        items.parquet           item_id by row, title, codes, stock
        embeddings/<space>.npy  fused and taste float32, the others float16, [n, d]
        features/items.npy      ITEM_FEATURES of every item; attributes.npy beside it
        tables/<name>.*.npy     item→item neighbours and weights
        index.faiss  taste.faiss  tower.safetensors  ranker.txt
        aligner/                what embeds a query, and items that came or changed later
        search/                 words and more for search, see recsys/search_index.py

Formats without code in them: nothing is unpickled. Arrays are memory-mapped, so workers share them.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.embedder import Embedder
from recsys.errors import ReleaseError
from recsys.ranking.features import FEATURES, SPACES, FeatureTables
from recsys.ranking.ranker import Ranker, load_ranker
from recsys.retrieval.index import load_index
from recsys.retrieval.items import ItemTable
from recsys.retrieval.retrieve import SOURCES, TABLES, Retrieval, RetrievalConfig
from recsys.retrieval.users import load_user_tower
from recsys.search_index import SearchIndex, load_search_index

FORMAT = 1  # raised whenever a file of the directory changes its meaning


@dataclass(frozen=True)
class Manifest:
    """What a release is.

    Attributes:
        version: "<cut-off>-<hash>"; the hash covers files, configuration, libraries and cut-off, so the same input
            gives the same.
        data_cutoff: UTC; every event it has seen is before this.
        embedding_cutoff: UTC; the aligner saw behaviour and reviews before this only. The items of a published release
            are embedded with their reviews up to ``data_cutoff``.
        code_commit: git commit it was made by, "" outside a checkout.
        config: every stage's configuration, with the numbers that the night chose for itself.
        tuning: how it chose: see Workshop.tuning_record(); {} where nothing was tuned.
        metrics: of the same recipe fitted up to the test window; see "evaluated_from" in it. "feature_shift" are the
            largest of feature_shift().
        features, sources: names in order; a release of other names is refused.
        index_kind, index_recall: see ItemIndex; of the aligned space.
        taste_index_kind, taste_index_recall: the same of the taste space.
        n_items, dim: of the embeddings.
        files: relative path → sha256.
        libraries: versions that made it.
        format: see FORMAT.
        catalogue_seen: UTC; when the newest item that it knows was last written; what was written later may be news to
            it. No part of the version: two nights on the same shop make the same release.
    """

    version: str
    data_cutoff: datetime
    embedding_cutoff: datetime
    code_commit: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    index_kind: str
    index_recall: float
    taste_index_kind: str
    taste_index_recall: float
    n_items: int
    dim: int
    features: tuple[str, ...] = FEATURES
    sources: tuple[str, ...] = SOURCES
    tuning: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT
    catalogue_seen: datetime | None = None


@dataclass(frozen=True)
class Release:
    """One night's result, whole. A night in progress holds one too, before it is saved.

    Attributes:
        manifest: what it is.
        item_ids, titles: of each row; an item without a title has "".
        in_stock: bool [n], when the release was made.
        retrieval: candidate sources.
        tables: of the features.
        ranker: None where train_ranker() found none that is worth it; the order of retrieval then stands.
        search: words and more; None in a release of before there was any.
        embedder: of queries and of new items; None for a release that is not on disk, and where it has no aligner.
    """

    manifest: Manifest
    item_ids: Sequence[str]
    titles: Sequence[str]
    in_stock: npt.NDArray[np.bool_]
    retrieval: Retrieval
    tables: FeatureTables
    ranker: Ranker | None
    search: SearchIndex | None = None
    embedder: Embedder | None = None

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """item_id → row."""
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    def row_of(self, item_id: str) -> int | None:
        """The row of an item; None for one that this release does not know."""
        return self.rows.get(item_id)

    def similar(
        self,
        item_ids: list[str],
        limit: int,
        weights: Mapping[str, float] | None = None,
        available: npt.NDArray[np.bool_] | None = None,
    ) -> list[tuple[str, float]]:
        """The items nearest to the given ones, by a weighted sum of likenesses.

        Args:
            item_ids: unknown ones are passed over.
            limit: at most this many.
            weights: of "image", "text" and "behaviour" (co-purchase); None: the fused embedding.
            available: bool [n]; None: what was in stock when the release was made.
        Returns:
            (item_id, score), best first, the given items excluded; empty when none of them is known.
        """
        known = [self.rows[item_id] for item_id in item_ids if item_id in self.rows]
        if not known:
            return []
        total = np.zeros(len(self.item_ids), np.float32)
        for name, weight in (weights or {"fused": 1.0}).items():
            total += np.float32(weight) * self._likeness(name, known)
        total[~(self.in_stock if available is None else available)] = -np.inf
        total[known] = -np.inf
        # Nothing in common is not "similar": an item needs a score above zero.
        order = np.argsort(-total, kind="stable")[:limit]
        return [(self.item_ids[row], float(total[row])) for row in order.tolist() if total[row] > 0]

    def likeness_of(self, name: str, rows: Sequence[int], row: int) -> float:
        """The likeness of one item to given ones, as :meth:`similar` has it."""
        if name == "behaviour":
            table = self.retrieval.tables["copurchase"]
            return float(table.weights[list(rows)][table.neighbours[list(rows)] == row].sum() / len(rows))
        vectors = self.tables.spaces[name]
        query = np.asarray(vectors[list(rows)], np.float32).mean(axis=0)
        return float(np.asarray(vectors[row], np.float32) @ query)

    def _likeness(self, name: str, known: list[int]) -> npt.NDArray[np.float32]:
        if name == "behaviour":
            table = self.retrieval.tables["copurchase"]
            neighbours, links = table.neighbours[known].ravel(), table.weights[known].ravel()
            real = neighbours >= 0
            summed = np.bincount(neighbours[real], weights=links[real], minlength=len(self.item_ids))
            return (summed / len(known)).astype(np.float32)
        vectors = self.tables.spaces[name]
        query = np.asarray(vectors[known], np.float32).mean(axis=0)
        # Block by block: a float16 catalogue is never copied whole to float32.
        blocks = [np.asarray(vectors[i : i + 65_536], np.float32) @ query for i in range(0, len(vectors), 65_536)]
        return np.concatenate(blocks)


def save_release(release: Release, releases: Path, save_aligner: Callable[[Path], None] | None = None) -> Release:
    """Write ``release`` below ``releases`` and return it with its version and checksums filled in.

    ``save_aligner`` writes the aligner into the folder that it is given; recommending from the night's items does not
    need it, search and new items do.

    It appears whole or not at all: written beside its place, then renamed. The same content saved twice is one
    directory.
    """
    releases.mkdir(parents=True, exist_ok=True)
    draft = releases / f".draft-{uuid.uuid4().hex}"
    try:
        _write_files(release, draft)
        if save_aligner is not None:
            save_aligner(draft / "aligner")
        manifest = _sealed(release.manifest, draft)
        (draft / "manifest.json").write_text(_to_json(asdict(manifest)))
        target = releases / manifest.version
        if not target.exists():
            _flush_to_disk(draft)
            os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return replace(release, manifest=manifest)


def load_release(path: str | Path, *, verify: bool = True) -> Release:
    """Open a release directory; arrays stay on disk until they are touched.

    Args:
        path: the directory.
        verify: read every file once and compare its checksum.

    Raises:
        ReleaseError: a file is missing or altered, or the release was made for other features, sources or format.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if verify:
        _verify(manifest, folder)
    try:
        return _read_files(manifest, folder)
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise ReleaseError(f"{folder}: expected the files of a release: {type(error).__name__}: {error}") from error


def _verify(manifest: Manifest, folder: Path) -> None:
    for name, expected in manifest.files.items():
        came = _sha256(folder / name) if (folder / name).is_file() else "nothing"
        if came != expected:
            raise ReleaseError(f"{folder / name}: expected sha256 {expected[:16]}…, came {came[:16]}")
    # The manifest itself is in no list of checksums: its version is one.
    if manifest.version != _version(manifest):
        raise ReleaseError(
            f"{folder / 'manifest.json'}: expected version {_version(manifest)} as its content says, "
            f"came {manifest.version}"
        )


def _read_files(manifest: Manifest, folder: Path) -> Release:
    items = pl.read_parquet(folder / "items.parquet")
    item_ids = items["item_id"].to_list()
    spaces = {space: _map(folder / "embeddings" / f"{space}.npy") for space in SPACES}
    features = np.load(folder / "features" / "state.npy")
    taste = _map(folder / "embeddings" / "taste.npy")
    retrieval = Retrieval(
        index=load_index(folder / "index.faiss", item_ids, manifest.index_kind, manifest.index_recall, spaces["fused"]),
        embeddings=spaces["fused"],
        tower=load_user_tower(folder / "tower.safetensors"),
        taste=taste,
        taste_index=load_index(
            folder / "taste.faiss", item_ids, manifest.taste_index_kind, manifest.taste_index_recall, taste
        ),
        tables={name: _load_table(folder / "tables", name) for name in TABLES},
        trending=np.load(folder / "features" / "trending.npy"),
        trending_rows=np.load(folder / "features" / "trending_rows.npy"),
        newest=np.load(folder / "features" / "newest.npy"),
        config=RetrievalConfig(**manifest.config["retrieval"]),
    )
    tables = FeatureTables(
        as_of_days=float(features[0]),
        items=_map(folder / "features" / "items.npy"),
        created_at_days=items["created_at_days"].to_numpy(),
        category=items["category_code"].to_numpy(),
        brand=items["brand_code"].to_numpy(),
        family=items["family_code"].to_numpy(),
        attributes=_map(folder / "features" / "attributes.npy"),
        spaces=spaces,
    )
    ranker_path, aligner = folder / "ranker.txt", folder / "aligner"
    return Release(
        manifest=manifest,
        item_ids=item_ids,
        titles=items["title"].to_list(),
        in_stock=items["in_stock"].to_numpy(),
        retrieval=retrieval,
        tables=tables,
        ranker=load_ranker(ranker_path, FEATURES) if "ranker.txt" in manifest.files else None,
        search=load_search_index(folder / "search"),
        embedder=Embedder(folder, manifest.config) if aligner.is_dir() else None,
    )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a release directory, checked against this code.

    Raises:
        ReleaseError: absent, not JSON, or made for other features, sources or format.
    """
    try:
        raw = json.loads((folder / "manifest.json").read_text())
        raw["features"], raw["sources"] = tuple(raw["features"]), tuple(raw["sources"])
        for moment in ("data_cutoff", "embedding_cutoff", "catalogue_seen"):
            if moment != "catalogue_seen" or raw.get(moment) is not None:
                raw[moment] = datetime.fromisoformat(raw[moment])
        manifest = Manifest(**raw)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{folder}: expected a release with a manifest.json: {error!r}") from error
    for name, expected, came in (
        ("format", FORMAT, manifest.format),
        ("features", FEATURES, manifest.features),
        ("sources", SOURCES, manifest.sources),
    ):
        if came != expected:
            raise ReleaseError(f"{folder}: {name}: expected {expected}, came {came}")
    return manifest


def _write_files(release: Release, folder: Path) -> None:
    for name in ("embeddings", "features", "tables"):
        (folder / name).mkdir(parents=True)
    retrieval, tables = release.retrieval, release.tables
    pl.DataFrame(
        {
            "item_id": release.item_ids,
            "title": release.titles,
            "created_at_days": tables.created_at_days,
            "category_code": tables.category,
            "brand_code": tables.brand,
            "family_code": tables.family,
            "in_stock": release.in_stock,
        }
    ).write_parquet(folder / "items.parquet")
    for space in SPACES:
        np.save(folder / "embeddings" / f"{space}.npy", tables.spaces[space])
    np.save(folder / "features" / "items.npy", tables.items)
    np.save(folder / "features" / "attributes.npy", tables.attributes)
    np.save(folder / "features" / "state.npy", np.array([tables.as_of_days]))
    np.save(folder / "features" / "trending.npy", retrieval.trending)
    np.save(folder / "features" / "trending_rows.npy", retrieval.trending_rows)
    np.save(folder / "features" / "newest.npy", retrieval.newest)
    for name, table in retrieval.tables.items():
        np.save(folder / "tables" / f"{name}.neighbours.npy", table.neighbours)
        np.save(folder / "tables" / f"{name}.weights.npy", table.weights)
    if retrieval.index is None or retrieval.taste_index is None:
        raise ReleaseError("expected a release with its indexes, came one without: it cannot be saved")
    retrieval.index.save(folder / "index.faiss")
    np.save(folder / "embeddings" / "taste.npy", retrieval.taste)
    retrieval.taste_index.save(folder / "taste.faiss")
    retrieval.tower.save(folder / "tower.safetensors")
    if release.ranker is not None:
        release.ranker.save(folder / "ranker.txt")
    if release.search is not None:
        release.search.save(folder / "search")


def _load_table(folder: Path, name: str) -> ItemTable:
    return ItemTable(_map(folder / f"{name}.neighbours.npy"), _map(folder / f"{name}.weights.npy"))


def _map(path: Path) -> npt.NDArray[Any]:
    """A memory-mapped array, seen as a plain one: numpy's memmap class makes each small operation slower."""
    return np.asarray(np.load(path, mmap_mode="r"))


def _sealed(manifest: Manifest, folder: Path) -> Manifest:
    files = {str(path.relative_to(folder)): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    sealed = replace(manifest, files=files)
    return replace(sealed, version=_version(sealed))


def _version(manifest: Manifest) -> str:
    identity = asdict(replace(manifest, version="", metrics={}, code_commit=""))
    del identity["catalogue_seen"]
    return f"{manifest.data_cutoff:%Y%m%dT%H%M%S}-{hashlib.sha256(_to_json(identity).encode()).hexdigest()[:12]}"


def _to_json(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2, sort_keys=True, default=lambda value: value.isoformat())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_to_disk(folder: Path) -> None:
    """A rename must not reach the disk before what it names."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
