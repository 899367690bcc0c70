"""Likeness of one modality alone, and what each modality adds to an item's embedding: for features and explanations."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from recsys.alignment.graph import OF_NEIGHBOURS
from recsys.alignment.modality import Modality
from recsys.errors import ReleaseError


class Embeds(Protocol):
    """What an aligner must be able to do here."""

    def embed(self, modalities: Mapping[str, Modality], threads: int | None = None) -> NDArray[np.float32]:
        """Fuse what each item has: float32 [n, dim], zero where it has nothing."""
        ...


@dataclass(frozen=True)
class LikenessSpace:
    """Encodings, centred, on their principal components: what only the picture, or only the words, say.

    The aligned projections agree with one another by design; these do not. An item that comes later is brought into the
    same space.

    Attributes:
        mean: float32 [width].
        axes: float32 [width, kept].
        dim: of the space; what is missing to it is 0.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    dim: int

    def place(self, modality: Modality) -> NDArray[np.float16]:
        """Unit norm, or zero where the item lacks the modality: float16 [n, dim]."""
        out = np.zeros((len(modality), self.dim), np.float16)
        reduced = (modality.vectors[modality.present].astype(np.float32) - self.mean) @ self.axes
        norms = np.linalg.norm(reduced, axis=1, keepdims=True)
        out[modality.present, : reduced.shape[1]] = reduced / np.maximum(norms, 1e-9)
        return out


def fit_space(modality: Modality, dim: int) -> LikenessSpace:
    """The ``dim`` principal axes of what is present; at least one item must be."""
    vectors = modality.vectors[modality.present].astype(np.float32)
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    _, axes = np.linalg.eigh(centred.T @ centred)
    return LikenessSpace(mean, np.ascontiguousarray(axes[:, ::-1][:, :dim]), dim)


def save_spaces(spaces: Mapping[str, LikenessSpace], folder: Path) -> None:
    """Write ``spaces.safetensors`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{name}.{what}": getattr(space, what) for name, space in spaces.items() for what in ("mean", "axes")}
    save_file(
        arrays | {f"{name}.dim": np.array([space.dim]) for name, space in spaces.items()},
        str(folder / "spaces.safetensors"),
    )


def load_spaces(folder: Path) -> dict[str, LikenessSpace]:
    """Read what :func:`save_spaces` wrote; empty where a release has none.

    Raises:
        ReleaseError: the file is not what it should be.
    """
    file = folder / "spaces.safetensors"
    if not file.is_file():
        return {}
    try:
        arrays = load_file(str(file))
        names = [name.removesuffix(".dim") for name in arrays if name.endswith(".dim")]
        return {
            name: LikenessSpace(arrays[f"{name}.mean"], arrays[f"{name}.axes"], int(arrays[f"{name}.dim"][0]))
            for name in names
        }
    except (SafetensorError, KeyError, OSError) as error:
        raise ReleaseError(f"{file}: expected the spaces of a release: {error}") from error


def embedding_parts(
    aligner: Embeds, modalities: Mapping[str, Modality], threads: int | None = None
) -> dict[str, NDArray[np.float16]]:
    """What each modality adds to each item's embedding; the parts of an item sum to its embedding.

    They are Shapley values: what a modality adds, averaged over every order in which the modalities could come. They
    are vectors, so whatever vector asks (a query, another item, a shopper), its inner product with the parts of an item
    says how much of its inner product with the whole is owed to each: exactly, for any fusion, also where a modality
    speaks against the match (below zero).

    What an item's neighbours have of a modality counts as that modality. Costs one embedding of the catalogue for each
    subset of the modalities.

    Args:
        aligner: whose ``embed`` made the embeddings.
        modalities: as given to it.
        threads: of torch.
    Returns:
        name → float16 [n, dim]; zero where neither the item nor its neighbours have the modality.
    Source: Shapley 1953; for models, Lundberg and Lee 2017, arXiv:1705.07874.
    """
    kind = {name: name.removeprefix(OF_NEIGHBOURS) for name in modalities}
    names = list(dict.fromkeys(kind.values()))
    n = len(next(iter(modalities.values())))
    parts: dict[str, NDArray[np.float32]] = {}
    for size in range(1, len(names) + 1):
        for chosen in combinations(names, size):
            these = {name: modality for name, modality in modalities.items() if kind[name] in chosen}
            made = aligner.embed(these, threads=threads)
            for name in names:
                # In Σ w(S)·(e(S ∪ m) − e(S)), this one is the first term for those inside, the second for others.
                inside = name in chosen
                others = size - 1 if inside else size
                weight = factorial(others) * factorial(len(names) - others - 1) / factorial(len(names))
                sign = np.float32(weight if inside else -weight)
                part = parts.setdefault(name, np.zeros((n, made.shape[1]), np.float32))
                part += sign * made
    return {name: part.astype(np.float16) for name, part in parts.items()}
