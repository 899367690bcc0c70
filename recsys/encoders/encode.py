"""What pictures and texts share: names of networks, fingerprints, and encoding through the cache."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from recsys.encoders.cache import VectorCache
from recsys.errors import ConfigError, EncoderError

ARITHMETIC = 1  # part of every fingerprint: raise it when fuse.py rounds otherwise, so that no old vector is mixed in


@dataclass(frozen=True)
class Encoded:
    """One row an input, in its order.

    Args:
        vectors: float32 [n, dim], unit norm; zero where absent.
        present: bool [n]; False where the input was None, empty or unreadable.
        norms: float32 [n], what the vectors were divided by: ``vectors * norms[:, None]`` is the network's own output.
        n_encoded: distinct inputs that the network computed now.
        n_cached: distinct inputs that were found in the cache.
        failures: (position, message) of inputs that were given but could not be read, by position.
    """

    vectors: npt.NDArray[np.float32]
    present: npt.NDArray[np.bool_]
    norms: npt.NDArray[np.float32]
    n_encoded: int
    n_cached: int
    failures: list[tuple[int, str]]


@dataclass(frozen=True)
class EncodedBatch:
    """Rows that came out of the network: raw float32 [len(positions), dim], and the inputs that proved unreadable."""

    positions: Sequence[int]
    vectors: npt.NDArray[np.float32]
    failures: dict[int, str] = field(default_factory=dict)


Job = Callable[[], EncodedBatch]


def parse_model_name(model: str, schemes: Sequence[str], otherwise: str) -> tuple[str, str]:
    """Which loader a model's name asks for, and the name that it gets.

    "SCHEME" or "SCHEME:NAME" ask for themselves; a directory for what its config.json was written by (timm says
    ``architecture``, transformers ``model_type``); any other name for ``otherwise``.

    Raises:
        ConfigError: an empty name or an unknown scheme.
        EncoderError: a path where no model is.
    """
    scheme, colon, rest = model.partition(":")
    if scheme in schemes and bool(colon) == bool(rest):
        return scheme, rest
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        file = folder / "config.json"
        if not file.is_file():
            raise EncoderError(f"{folder}: expected a model's directory with a config.json")
        form = "timm" if "architecture" in json.loads(file.read_text()) else "hf"
        if form not in schemes:
            raise EncoderError(f"{folder}: expected a model of {', '.join(schemes)}, came one of {form}")
        return form, str(folder)
    if model.startswith(("/", ".", "~")):
        raise EncoderError(f"{folder}: expected a model's directory, found none")
    if not model or colon:
        raise ConfigError(f"model: expected one of {', '.join(schemes)} (NAME after a colon), came {model!r}")
    return ("hf" if "/" in model else otherwise), model


def fingerprint_of(description: dict[str, object]) -> str:
    """sha256 of a description and of ARITHMETIC, hexadecimal."""
    return hashlib.sha256(json.dumps([ARITHMETIC, description], sort_keys=True).encode()).hexdigest()


def encode_cached(
    keys: Sequence[bytes | None],
    plan: Callable[[Sequence[int]], Iterator[Job]],
    cache: VectorCache,
    failures: dict[int, str],
    threads: int | None,
    progress: str | None,
) -> Encoded:
    """Give every key its vector: from the cache, or from the jobs that ``plan`` makes of the missing positions.

    Each job runs on one thread with torch's own threads set to one: batches side by side scale with the cores, where
    several threads inside one small convolution mostly wait for one another, above all on a busy machine. It also
    makes a vector independent of the number of threads, bit for bit.

    Args:
        keys: sha256 digests, None where absent.
        plan: positions of distinct missing keys → jobs; drawn lazily.
        cache: of this encoder.
        failures: by position, those met so far; more are added.
        threads: jobs at a time; None is one a core.
        progress: label of a bar, None for none.
    """
    first: dict[bytes, int] = {}
    for position, key in enumerate(keys):
        if key is not None:
            first.setdefault(key, position)
    distinct = list(first)
    rows, found = cache.load(distinct)
    row_of = {key: row for row, key in enumerate(distinct)}
    missing = [first[key] for key, there in zip(distinct, found) if not there]
    with tqdm(total=len(distinct), initial=int(found.sum()), desc=progress, disable=progress is None, unit="") as bar:
        try:
            for batch in _run(plan(missing), threads or usable_cores()):
                vectors = batch.vectors.astype(np.float16)
                failures.update(batch.failures)
                kept = []
                for row, position in enumerate(batch.positions):
                    if position in batch.failures:
                        continue
                    if not np.isfinite(vectors[row]).all():
                        failures[position] = "the network gave a vector that is not finite"
                        continue
                    kept.append(row)
                kept_keys = [keys[batch.positions[row]] or b"" for row in kept]
                cache.add(kept_keys, vectors[kept])
                targets = [row_of[key] for key in kept_keys]
                rows[targets] = vectors[kept]
                found[targets] = True
                bar.update(len(batch.positions))
        finally:
            cache.flush()
    return _spread(keys, rows, found, row_of, len(missing), first, failures)


def _spread(
    keys: Sequence[bytes | None],
    rows: npt.NDArray[np.float16],
    found: npt.NDArray[np.bool_],
    row_of: dict[bytes, int],
    n_missing: int,
    first: dict[bytes, int],
    failures: dict[int, str],
) -> Encoded:
    """From distinct keys to positions, at unit norm."""
    present = np.zeros(len(keys), np.bool_)
    vectors = np.zeros((len(keys), rows.shape[1]), np.float32)
    for position, key in enumerate(keys):
        if key is None:
            continue
        if found[row_of[key]]:
            present[position] = True
            vectors[position] = rows[row_of[key]]
        else:
            failures[position] = failures[first[key]]
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    vectors /= np.where(norms > 0, norms, 1)[:, None]
    n_found = int(found.sum())
    n_cached = len(row_of) - n_missing
    return Encoded(vectors, present, norms, n_found - n_cached, n_cached, sorted(failures.items()))


def _run(jobs: Iterator[Job], threads: int) -> Iterator[EncodedBatch]:
    """Results of the jobs in their order, a few ahead of the one that is waited for."""
    import torch

    from recsys.encoders.weights import one_thread

    pool = ThreadPoolExecutor(threads, "encode", initializer=lambda: torch.set_num_threads(1))
    running: deque[Future[EncodedBatch]] = deque()
    with one_thread():
        try:
            for job in jobs:
                running.append(pool.submit(job))
                if len(running) > 2 * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
