"""Modalities that only a night can make, carried by its release for items that change after it.

    carried.<modality>.npy      float16 [n, d]; a zero row where an item lacks it

A changed item's picture, words and reviews are encoded anew. What the shop gave as vectors, what an item's neighbours
look like and who took it are not known anew before the next night, so they stay what they were.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.alignment.modality import ENCODED, Modality


def save_carried(modalities: Mapping[str, Modality], folder: Path) -> None:
    """Write those that the encoders do not make; nothing where there are none."""
    for name, modality in modalities.items():
        if name not in ENCODED:
            vectors = np.where(modality.present[:, None], modality.vectors, np.float32(0))
            np.save(folder / f"carried.{name}.npy", vectors.astype(np.float16))


def load_carried(folder: Path) -> dict[str, NDArray[Any]]:
    """Open what :func:`save_carried` wrote, memory-mapped: modality → float16 [n, d]."""
    return {
        file.name.removeprefix("carried.").removesuffix(".npy"): np.asarray(np.load(file, mmap_mode="r"))
        for file in sorted(folder.glob("carried.*.npy"))
    }


def carried_to(vectors: NDArray[Any], rows: NDArray[np.int64]) -> Modality:
    """What is carried of the items at ``rows`` int64 [m] of the release; −1, a new item, has nothing."""
    found = np.where((rows >= 0)[:, None], vectors[rows], 0).astype(np.float32)
    return Modality(found, np.asarray(found.any(axis=1)))
