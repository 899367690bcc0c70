"""The catalogue audit: ``recsys audit [--config FILE] [--release VERSION|live] [--out DIR]``

Which products are there twice, whose picture and words disagree, what has no picture or no words. It looks with the
encoders of a release; pictures and words come from the cache of encodings, block by block.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.audit_duplicates import (
    SAME_WORDS_TOO,
    Rows,
    groups_of,
    likely_pairs,
    same_pictures,
    same_words,
    shared_words,
)
from pipelines.audit_findings import DISAGREE, FINDINGS, MISSING, SAME_PICTURE, SAME_WORDS, TWICE, Audit
from pipelines.audit_fit import Disagreement, judge_fit, swapped_pairs
from pipelines.audit_page import audit_page
from pipelines.config import add_config_argument
from pipelines.encode import encode_shop
from pipelines.night_config import NightConfig, load_config
from recsys.artifacts import read_manifest
from recsys.content import picture_file
from recsys.data.database import current_database
from recsys.data.load import load_items
from recsys.data.releases import find_release, live_release
from recsys.encoders import ImageEncoderConfig, TextEncoderConfig
from recsys.encoders.text import item_text
from recsys.histories import Float32
from recsys.schema import REVIEWS

BLOCK = 32_768  # items encoded at once: about 0.4 GiB
AXES = 64  # principal components that are kept of an encoder's vectors

# Of the shipped encoders, the numbers that say what a thing is. What their earlier layers add (colours, names) varies
# most, and would fill the main axes: of twelve swapped products five were then found instead of eleven.
MEANING = {"efficientnet-lite0:layers": 1280, "minilm-l6:layers": 384}


@dataclass(frozen=True)
class Seen:
    """What the encoders see of each item, on the main axes of the catalogue: float32 [n, AXES], zero where absent."""

    pictures: Float32
    words: Float32


def look_at_items(items: pl.DataFrame, config: NightConfig, progress: bool = True) -> Seen:
    """Encode (from the cache, where it is there) a block of items at a time; what is kept of each is small.

    Args:
        items: ITEMS.
        config: encoders, cache folder, image root.
        progress: show bars on stderr.
    """
    parts: dict[str, list[Float32]] = {"image": [], "text": []}
    axes: dict[str, tuple[Float32, Float32]] = {}
    nothing = pl.DataFrame(schema=REVIEWS)
    networks = {"image": config.image_encoder.model, "text": config.text_encoder.model}
    meaning = {name: MEANING.get(network) for name, network in networks.items()}
    for start in range(0, len(items), BLOCK):
        block = items.slice(start, BLOCK)
        encoded = encode_shop(block, nothing, datetime.now(UTC), config, progress).modalities
        for name, blocks in parts.items():
            kept = np.zeros((len(block), AXES), np.float32)
            if name in encoded:
                there = encoded[name].present
                vectors = encoded[name].vectors[there][:, : meaning[name]]
                if name not in axes:
                    axes[name] = _main_axes(vectors)
                mean, turn = axes[name]
                components = (vectors - mean) @ turn
                components[np.linalg.norm(components, axis=1) < 1e-9, 0] = 1  # one alone is the mean: zero says absent
                components /= np.linalg.norm(components, axis=1, keepdims=True)
                kept[there, : components.shape[1]] = components
            blocks.append(kept)
    return Seen(*(np.concatenate(blocks) if blocks else np.zeros((0, AXES), np.float32) for blocks in parts.values()))


def _main_axes(vectors: Float32) -> tuple[Float32, Float32]:
    """Mean and principal axes [d, AXES] of an encoder's vectors; those of one block serve them all."""
    mean = vectors.mean(axis=0)
    centred = vectors[:16_384] - mean
    _, axes = np.linalg.eigh(centred.T @ centred)
    return mean, np.ascontiguousarray(axes[:, ::-1][:, :AXES])


def audit_items(items: pl.DataFrame, seen: Seen, images: Path, threads: int = 1, seed: int = 0) -> Audit:
    """Everything that is found; see the module.

    Args:
        items: ITEMS, in the order of ``seen``.
        seen: from look_at_items().
        images: root of relative picture paths.
        threads: of Faiss.
        seed: of the samples that the fit is judged against.
    """
    fit = judge_fit(seen.pictures, seen.words, seed)
    found = [*_duplicates(items, seen, images, threads), _disagreements(items, fit), _missing(items, seen)]
    return Audit(pl.concat(found), fit)


def _duplicates(items: pl.DataFrame, seen: Seen, images: Path, threads: int) -> list[pl.DataFrame]:
    paths, families = items["images"].to_list(), items["family"].to_list()
    pictures, differences = same_pictures(
        likely_pairs(seen.pictures, threads), lambda row: picture_file(paths[row], images)
    )
    texts = [
        item_text(*each) for each in items.select("title", "description", "category", "brand", "attributes").iter_rows()
    ]
    words, shares = same_words(likely_pairs(seen.words, threads), texts)
    seen_alike = set(map(tuple, pictures.tolist()))
    twice = np.array(
        [shared_words(texts[a] or "", texts[b] or "") >= SAME_WORDS_TOO for a, b in pictures.tolist()], np.bool_
    )
    # One design in several colours is described in the same words, and rightly so.
    copied = np.array(
        [(a, b) not in seen_alike and (families[a] is None or families[a] != families[b]) for a, b in words.tolist()],
        np.bool_,
    )
    return [
        _pairs(TWICE, items, pictures[twice], differences[twice], lambda score: f"pictures differ by {score:.1%}"),
        _pairs(SAME_PICTURE, items, pictures[~twice], differences[~twice], lambda score: f"they differ by {score:.1%}"),
        _pairs(SAME_WORDS, items, words[copied], shares[copied], lambda score: f"{score:.0%} of the words are shared"),
    ]


def _pairs(
    kind: str, items: pl.DataFrame, pairs: Rows, scores: NDArray[np.float64], say: Callable[[float], str]
) -> pl.DataFrame:
    ids = items["item_id"]
    return _frame(
        kind,
        ids.gather(pairs[:, 0]).to_list(),
        ids.gather(pairs[:, 1]).to_list(),
        groups_of(pairs, len(items)).tolist(),
        scores.tolist(),
        [say(score) for score in scores.tolist()],
    ).sort(_sureness(kind).min().over("group"), "group", "item_id", "other_id")


def _sureness(kind: str) -> pl.Expr:
    """What sorts the surest pair first: pictures that differ least, or texts that share most."""
    return -pl.col("score") if kind == SAME_WORDS else pl.col("score")


def _disagreements(items: pl.DataFrame, fit: Disagreement) -> pl.DataFrame:
    called = fit.called
    swapped = swapped_pairs(fit.image, fit.text, called)
    ids = items["item_id"].to_list()
    others = [ids[swapped[row]] if row in swapped else None for row in called.tolist()]
    misfits = fit.misfit[called].tolist()
    return _frame(
        DISAGREE,
        [ids[row] for row in called.tolist()],
        others,
        list(range(len(called))),
        misfits,
        [
            f"{misfit:.0%} of the catalogue fit better" + (f"; looks swapped with {other}" if other else "")
            for misfit, other in zip(misfits, others)
        ],
    )


def _missing(items: pl.DataFrame, seen: Seen) -> pl.DataFrame:
    pictured, worded = seen.pictures.any(axis=1), seen.words.any(axis=1)
    rows = np.flatnonzero(~pictured | ~worded)
    given = [picture_file(paths, Path()) is not None for paths in items["images"].to_list()]
    notes = []
    for row in rows.tolist():
        picture = "" if pictured[row] else "a picture that cannot be read" if given[row] else "no picture"
        notes.append(" and ".join(filter(None, [picture, "" if worded[row] else "no words"])))
    ids = items["item_id"].gather(rows).to_list()
    return _frame(MISSING, ids, [None] * len(rows), list(range(len(rows))), [1.0] * len(rows), notes).sort(
        "note", "item_id"
    )


def _frame(
    kind: str,
    item_ids: Sequence[str],
    other_ids: Sequence[str | None],
    groups: Sequence[int],
    scores: Sequence[float],
    notes: Sequence[str],
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "kind": [kind] * len(item_ids),
            "item_id": item_ids,
            "other_id": other_ids,
            "group": groups,
            "score": scores,
            "note": notes,
        },
        schema=FINDINGS,
    )


def audit_shop(config: NightConfig, release: str = "live", progress: bool = True) -> tuple[Audit, pl.DataFrame]:
    """Audit the catalogue in the database with the encoders of a release: what it encoded is in the cache.

    Returns:
        The audit, and the ITEMS frame that it speaks of.

    Raises:
        ReleaseError: no such release. Where none is live yet, the encoders are those of the configuration.
    """
    with current_database(config.paths.database) as engine:
        recorded = live_release(engine) if release == "live" else find_release(engine, release)
        items = load_items(engine)
    if recorded is not None:
        made_with = read_manifest(Path(recorded.path)).config
        config = replace(
            config,
            image_encoder=ImageEncoderConfig(**made_with["image_encoder"]),
            text_encoder=TextEncoderConfig(**made_with["text_encoder"]),
        )
    seen = look_at_items(items, config, progress)
    return audit_items(items, seen, Path(config.paths.images), config.threads, config.seed), items


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``recsys audit``."""
    add_config_argument(parser)
    parser.add_argument("--release", default="live", metavar="VERSION", help="whose encoders look (default: live)")
    parser.add_argument("--out", type=Path, default=Path("var/audit"), help="folder to write (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """``recsys audit``: 0 when nothing was found, 1 when something was.

    Raises:
        RecsysError: there is no such release, or the configuration is wrong.
    """
    config = load_config(args.config)
    audit, items = audit_shop(config, args.release, not args.quiet)
    args.out.mkdir(parents=True, exist_ok=True)
    audit.findings.write_parquet(args.out / "findings.parquet")
    audit.findings.write_csv(args.out / "findings.csv")
    page = args.out / "audit.html"
    page.write_text(audit_page(audit, items, Path(config.paths.images)), encoding="utf-8")
    for kind, count in audit.findings.group_by("kind", maintain_order=True).len().iter_rows():
        print(f"{count:>8,}  {kind}")
    if audit.fit.unjudged:
        print(f"not judged  {DISAGREE}: {audit.fit.unjudged}")
    print(page)
    return int(len(audit.findings) > 0)
