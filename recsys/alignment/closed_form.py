"""What is computed and not trained: linear maps into a space that all modalities share.

They fill in a member without hidden layers, so that what comes out embeds, saves and loads like any other: the only
member of an aligner of one of these methods, or one beside those that are trained.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.alignment.config import AlignmentConfig
from recsys.alignment.ensemble import Ensemble, Member
from recsys.alignment.examples import Examples
from recsys.errors import ConfigError

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)  # of CCA, shares of a modality's mean variance
SHARPNESS = (4.0, 8.0, 16.0, 32.0)  # of ConSE's classifier


def fit_closed_form(
    ensemble: Ensemble, examples: Examples, config: AlignmentConfig, quality: Callable[[], float]
) -> None:
    """Fill in the ensemble's only member by ``config.method``.

    Args:
        ensemble: of one member with heads without hidden layers; its rotations are fitted.
        examples: the training data.
        config: "cca", "similarity" or "conse" as the method.
        quality: of the member as it stands, see fit_cca().
    """
    (member,) = ensemble.each_member()
    if config.method == "cca":
        fit_cca(member, examples, config.dim, quality)
    else:
        _set(member, shared_maps(ensemble, examples, config))


def fit_cca(member: Member, examples: Examples, dim: int, quality: Callable[[], float]) -> None:
    """Fill in a member without hidden layers by cca_maps(), with the ridge that is best by ``quality``.

    Args:
        member: of ``dim`` dimensions.
        examples: the training data.
        dim: directions to keep.
        quality: of the member as it stands, on held-out items; higher is better.
    """
    candidates = [cca_maps(examples, ridge, dim) for ridge in RIDGES]
    _set(member, max(candidates, key=lambda maps: _quality_of(member, maps, quality)))


def _quality_of(member: Member, maps: dict[str, Tensor], quality: Callable[[], float]) -> float:
    _set(member, maps)
    return quality()


def _set(member: Member, maps: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in maps.items():
            member.head(name).set_linear(weight)


def cca_maps(examples: Examples, ridge: float, dim: int) -> dict[str, Tensor]:
    """Canonical correlation analysis of any number of modalities: name → float32 [kept, dim].

    The directions whose projections agree most across modalities, each weighted by how well they do. Between two
    modalities it is the classical analysis; of more it maximises the variance of the projections' mean. Every block of
    the covariance is taken over the items that have both of its modalities. A modality that correlates with no other,
    as where it is the only one or none of its items has another, keeps its principal axes.

    Args:
        examples: the training data.
        ridge: added to each modality's covariance, as a share of its mean variance.
        dim: directions to keep.

    Source: Hotelling 1936; Kettenring 1971, "Canonical analysis of several sets of variables" (MAXVAR); Hardoon et al.
    2004 (the ridge).
    """
    names = list(examples.inputs)
    rows = examples.fit_rows
    sides = [examples.inputs[name][rows].double() for name in names]
    there = examples.present[rows]
    whiteners, starts = [], [0]
    for position, side in enumerate(sides):
        covariance = side.T @ side / max(1, int(there[:, position].sum()))
        spread = covariance.diagonal().mean().clamp_min(1e-12)
        variance, axes = torch.linalg.eigh(covariance + ridge * spread * torch.eye(len(covariance)))
        whiteners.append(axes / variance.clamp_min(1e-12).sqrt() @ axes.T)
        starts.append(starts[-1] + len(covariance))
    correlations = torch.eye(starts[-1], dtype=torch.float64)
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            n_both = max(1, int((there[:, i] & there[:, j]).sum()))
            block = whiteners[i] @ (sides[i].T @ sides[j] / n_both) @ whiteners[j]  # absent rows are zero
            correlations[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] = block
            correlations[starts[j] : starts[j + 1], starts[i] : starts[i + 1]] = block.T
    agreement, axes = torch.linalg.eigh(correlations)
    agreement, axes = agreement.flip(0)[:dim], axes.flip(1)[:, :dim]
    axes = axes * (agreement - 1).clamp_min(0) / max(1, len(names) - 1)  # of two modalities: their correlation
    maps = {}
    for i, name in enumerate(names):
        mine = axes[starts[i] : starts[i + 1]]
        alone = mine.abs().max() < 1e-9
        maps[name] = torch.eye(len(mine), dim) if alone else _padded((whiteners[i] @ mine).float(), dim)
    return maps


def shared_maps(ensemble: Ensemble, examples: Examples, config: AlignmentConfig) -> dict[str, Tensor]:
    """For encodings that lie in one space already: name → float32 [kept, dim], the same turn of that space for all.

    Each modality is centred on its own mean: joint models put their pictures and their texts into two separate cones.
    Source: Liang et al. 2022, "Mind the gap", arXiv:2203.02053.

    Raises:
        ConfigError: the modalities' vectors are of different widths, so they cannot be of one space.
    """
    widths = {name: ensemble.shape.read(name) for name in examples.inputs}
    if len(set(widths.values())) != 1:
        raise ConfigError(
            f"alignment.method {config.method!r}: expected modalities of one space, such as a CLIP model's, came "
            f"vectors of different widths: {widths}"
        )
    rows = examples.fit_rows
    back, everything = {}, []
    for name, components in examples.inputs.items():
        turn = ensemble.rotation(name).components
        back[name] = torch.linalg.pinv(turn.double())  # [kept, width]: the rotation undone
        original = components[rows].double() @ back[name]
        everything.append(F.normalize(original, dim=1))
    together = torch.cat(everything)
    _, axes = torch.linalg.eigh(together.T @ together)
    axes = axes.flip(1)[:, : config.dim]
    return {name: _padded((each @ axes).float(), config.dim) for name, each in back.items()}


def _padded(weight: Tensor, dim: int) -> Tensor:
    """Zero columns where there are fewer directions than dimensions."""
    return F.pad(weight, (0, dim - weight.shape[1]))
