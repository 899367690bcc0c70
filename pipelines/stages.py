"""Telling the night's stages apart: what runs, how long it took, how much memory it needed."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from recsys.evaluation.report import Stage

T = TypeVar("T")


class Stages:
    """Prints each stage as it starts and ends, and remembers it for the report.

    Attributes:
        done: finished stages, in order.
    """

    def __init__(self, progress: bool = True) -> None:
        self.done: list[Stage] = []
        self.progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """Time what happens inside; a stage that fails is not recorded. Yields a list for remarks on what happened."""
        notes: list[str] = []
        if self.progress:
            print(f"▸ {name}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        yield notes
        finished = Stage(name, time.perf_counter() - started, peak_mib(), "; ".join(notes))
        self.done.append(finished)
        if self.progress:
            cost = f"{finished.seconds:.1f} s, peak {finished.peak_mib:.0f} MiB"
            print(f"  {name}: " + "; ".join([cost, *notes]), file=sys.stderr, flush=True)

    def bar(self, steps: Iterable[T], label: str, total: int) -> Iterator[T]:
        """``steps``, ``total`` of them, with a progress bar."""
        yield from tqdm(steps, desc=label, total=total, leave=False, disable=not self.progress)


def peak_mib() -> float:
    """The most memory this process ever held, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
