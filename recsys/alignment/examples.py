"""The training data of an aligner, laid out once for all members of the ensemble."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.alignment.config import AlignmentConfig
from recsys.alignment.ensemble import Ensemble
from recsys.alignment.modality import Modality

MAX_HELD_OUT = 1000  # items; enough to tell one epoch from the next
PRINCIPAL_ROWS = 8192  # items, at least, that principal axes are found on; fewer than twice as many


@dataclass(frozen=True, eq=False)
class Examples:
    """The training data as tensors, made once and shared by all members."""

    inputs: dict[str, Tensor]  # name → components [n, kept], zero rows where absent
    present: Tensor  # bool [n, m]
    same: Tensor  # int64 [n, m]: items with equal numbers have equal vectors in that modality
    fit_rows: Tensor  # int64: items to learn from
    watch_rows: Tensor  # int64: held-out items
    starts: Tensor  # int64 [n + 1]: where each item's partners begin
    partners: Tensor  # int64: fit items bought together with a fit item
    log_q: Tensor  # float32 [n]: log of the chance that a partner drawn for a random anchor is this item
    watch_pairs: Tensor  # int64 [p, 2]: (any item, a held-out item bought with it)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """name → components of those rows."""
        return {name: components[rows] for name, components in self.inputs.items()}


def equal_rows(modality: Modality) -> NDArray[np.int64]:
    """The same number for rows with the same vector, and one for all that are absent.

    So two items of one text without a picture are equal in both, and nobody's negatives. Losses between two modalities
    never see absent rows.
    """
    numbers: dict[bytes, int] = {}
    equal = np.empty(len(modality), np.int64)
    for row, present in enumerate(modality.present):
        key = modality.vectors[row].tobytes() if present else b""
        equal[row] = numbers.setdefault(key, len(numbers))
    return equal


def prepare_examples(
    modalities: Mapping[str, Modality],
    pairs: NDArray[np.int32],
    config: AlignmentConfig,
    ensemble: Ensemble,
    rng: np.random.Generator,
    held_out: NDArray[np.bool_] | None,
) -> Examples:
    """Choose what is held out, fit the rotations to the rest, and lay everything out as tensors.

    Args:
        modalities, pairs, held_out: as in :func:`recsys.alignment.train.train_alignment`.
        config: for the share that is held out.
        ensemble: its rotations are fitted here.
        rng: of what is held out, and of the pairs that are watched.
    """
    present = np.stack([modality.present for modality in modalities.values()], axis=1)
    n = len(present)
    usable = np.asarray(present.any(axis=1))
    if held_out is None:
        held_out = np.zeros(n, bool)
        n_watch = min(int(config.held_out * usable.sum()), MAX_HELD_OUT)
        held_out[rng.choice(np.flatnonzero(usable), n_watch, replace=False)] = True
    fit = usable & ~held_out
    inputs = {}
    for name, modality in modalities.items():
        learn_from = fit & modality.present if (fit & modality.present).any() else modality.present
        clean = torch.from_numpy(np.where(modality.present[:, None], modality.vectors, np.float32(0)))
        if modality.present.any():
            some = np.flatnonzero(learn_from)[:: max(1, int(learn_from.sum()) // PRINCIPAL_ROWS)]
            ensemble.rotation(name).fit(ensemble.read(name, clean[torch.from_numpy(some)]))
        inputs[name] = ensemble.components(name, clean) * torch.from_numpy(modality.present).unsqueeze(1)

    both = np.concatenate([pairs, pairs[:, ::-1]]).astype(np.int64)
    both = both[usable[both].all(axis=1) & (both[:, 0] != both[:, 1])]
    learn = both[fit[both].all(axis=1)]
    learn = learn[np.argsort(learn[:, 0], kind="stable")]
    starts = np.searchsorted(learn[:, 0], np.arange(n + 1))
    degree = np.maximum(np.diff(starts), 1)
    # An anchor is drawn evenly from the items, then a partner evenly from the anchor's pairs.
    q = np.bincount(learn[:, 1], weights=1 / degree[learn[:, 0]], minlength=n) / max(1, (np.diff(starts) > 0).sum())
    watch = both[(held_out & usable)[both[:, 1]]]
    watch = watch[rng.permutation(len(watch))[:2000]]
    return Examples(
        inputs=inputs,
        present=torch.from_numpy(present),
        same=torch.from_numpy(np.stack([equal_rows(modality) for modality in modalities.values()], axis=1)),
        fit_rows=torch.from_numpy(np.flatnonzero(fit)),
        watch_rows=torch.from_numpy(np.flatnonzero(held_out & usable)),
        starts=torch.from_numpy(starts),
        partners=torch.from_numpy(np.ascontiguousarray(learn[:, 1])),
        log_q=torch.from_numpy(np.log(np.maximum(q, 1e-12)).astype(np.float32)),
        watch_pairs=torch.from_numpy(np.ascontiguousarray(watch)),
    )
