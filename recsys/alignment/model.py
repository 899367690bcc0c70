"""The aligner: every modality of an item projected into one unit-norm space, and fused there.

An aligner is a small ensemble. Each member has a head per modality and a fusion of its own; the members' unit-norm
outputs are laid side by side and compressed to ``dim`` by one linear map that all modalities share, so everything stays
in one space. Independent members disagree where they are unsure, and their sum ranks better than any one of them at no
cost to whoever searches: the vector that leaves is ``dim`` wide.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.alignment.fusion import FUSIONS
from recsys.alignment.modality import Modality
from recsys.errors import ReleaseError, SchemaError

__all__ = ["Aligner", "Member", "Modality", "Shape", "load_aligner", "torch_threads"]

CHUNK = 4096  # rows embedded at once: bounds memory, not the result


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Run torch on this many threads inside the block; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Shape:
    """What it takes to rebuild an aligner's modules before its weights are loaded."""

    modalities: dict[str, int]  # name → width of its vectors, in the order of the tokens
    dim: int  # of the item space, and of each member's
    members: int
    hidden: int  # width of the heads' hidden layers
    components: int  # principal components kept of each modality, at most
    fusion: str  # a key of FUSIONS
    dropout: float  # of the heads' input components, in training only
    noise: float  # standard deviation added to them, in training only

    def kept(self, name: str) -> int:
        """How many principal components of a modality go into its heads."""
        return min(self.components, self.modalities[name])


class Rotation(nn.Module):
    """A modality's vectors, centred and turned to their principal components; fitted in closed form, never trained.

    The components keep their relative sizes (whitening them measured worse: it lifts noise), and are scaled together to
    a mean square of 1.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, width: int, kept: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.zeros(width, kept))

    def fit(self, vectors: Tensor) -> None:
        """Fit to ``vectors`` float32 [n, width]; fewer rows than components leave the rest at zero."""
        mean = vectors.mean(dim=0)
        centred = (vectors - mean).double()
        variance, axes = torch.linalg.eigh(centred.T @ centred / max(1, len(vectors)))
        kept = self.components.shape[1]
        variance, axes = variance.flip(0)[:kept].clamp_min(0), axes.flip(1)[:, :kept]
        axes = axes * torch.where(axes.abs().amax(0) == axes.amax(0), 1.0, -1.0)  # the sign is free: fix it
        axes = axes * (variance > 1e-9 * variance.max())
        self.mean.copy_(mean)
        self.components.copy_(axes / variance.mean().clamp_min(1e-12).sqrt())

    def forward(self, vectors: Tensor) -> Tensor:
        """[batch, width] → [batch, kept]."""
        return (vectors - self.mean) @ self.components


class Head(nn.Module):
    """Principal components to one member's space: a linear map plus an MLP of two hidden layers, on the unit sphere."""

    def __init__(self, width: int, shape: Shape) -> None:
        super().__init__()
        self.dropout, self.noise = shape.dropout, shape.noise
        hidden, dim = shape.hidden, shape.dim
        self.linear = nn.Linear(width, dim)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, dim),
        )

    def forward(self, components: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[batch, kept] → unit-norm float32 [batch, dim]; with noise and dropout where given a generator."""
        if generator is not None and self.noise:
            components = components + self.noise * torch.randn(components.shape, generator=generator)
        if generator is not None and self.dropout:
            kept = torch.rand(components.shape, generator=generator) >= self.dropout
            components = components * kept / (1 - self.dropout)
        return F.normalize((self.linear(components) + self.mlp(components)).float(), dim=1)


class Member(nn.Module):
    """One of the ensemble: heads, a fusion, and what its losses learn beside them (temperatures, SigLIP's bias)."""

    def __init__(self, shape: Shape, temperature: float) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: Head(shape.kept(name), shape) for name in shape.modalities})
        self.fusion = FUSIONS[shape.fusion](len(shape.modalities), shape.dim)
        self.log_scale = nn.Parameter(torch.full((3,), -float(np.log(temperature))))  # cross-modal, views, behaviour
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def tokens(self, inputs: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """Unit-norm projections: {name: [batch, kept]} → [batch, m, dim]; noisy where given a generator."""
        return torch.stack([head(inputs[name], generator) for name, head in self.heads.items()], dim=1)

    def fuse(self, tokens: Tensor, present: Tensor) -> Tensor:
        """[batch, m, dim], [batch, m] → unit-norm [batch, dim]."""
        return F.normalize(self.fusion(tokens, present), dim=1)


class Ensemble(nn.Module):
    """The modules of an aligner, whole: rotations, members, compression."""

    compression: Tensor

    def __init__(self, shape: Shape, temperature: float = 0.1) -> None:
        super().__init__()
        self.shape = shape
        self.rotations = nn.ModuleDict(
            {name: Rotation(width, shape.kept(name)) for name, width in shape.modalities.items()}
        )
        self.members = nn.ModuleList([Member(shape, temperature) for _ in range(shape.members)])
        self.register_buffer("compression", torch.zeros(shape.members * shape.dim, shape.dim))

    def each_member(self) -> list[Member]:
        """The members, typed."""
        return [member for member in self.members if isinstance(member, Member)]

    def fit_compression(self, sides: Tensor) -> None:
        """Keep the ``dim`` principal axes of the members' outputs side by side, float32 [n, members·dim].

        Not centred, so that inner products, which the training meant, are what is kept.
        """
        _, axes = torch.linalg.eigh((sides.T @ sides).double())
        axes = axes[:, -self.shape.dim :].flip(1)
        self.compression.copy_(axes * torch.where(axes.abs().amax(0) == axes.amax(0), 1.0, -1.0))

    def project(self, name: str, components: Tensor) -> Tensor:
        """One modality alone, members side by side: [batch, kept] → [batch, members·dim]."""
        return torch.cat([member.heads[name](components) for member in self.each_member()], dim=1)

    def fuse(self, inputs: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """All modalities fused, members side by side: → [batch, members·dim]."""
        return torch.cat([member.fuse(member.tokens(inputs), present) for member in self.each_member()], dim=1)


class Aligner:
    """Projects each modality, and any subset of them fused, into one unit-norm space of ``dim`` dimensions.

    Attributes:
        dim: width of the space.
        history: one entry per epoch and member: {"member", "epoch", "loss" (training, nats), "quality" (held-out mean
            reciprocal rank)}.
    """

    def __init__(self, ensemble: Ensemble, history: list[dict[str, float]]) -> None:
        self.ensemble = ensemble.eval()
        self.history = history
        self.shape = ensemble.shape
        self.dim = ensemble.shape.dim

    def embed(self, modalities: Mapping[str, Modality], threads: int | None = None) -> NDArray[np.float32]:
        """Fuse what each item has.

        Args:
            modalities: any of the aligner's modalities, all with the same number of rows. One that is left out counts
                as absent for every item.
            threads: torch threads to use; None leaves the setting as it is.

        Returns:
            float32 [n, dim], unit norm; a zero row where no modality is present.

        Raises:
            SchemaError: an unknown modality, a wrong width, or row counts that differ.
        """
        n_rows = {len(modality) for modality in modalities.values()}
        if len(n_rows) != 1:
            raise SchemaError(f"embed: expected modalities of one and the same length, came {sorted(n_rows)}")
        for name, modality in modalities.items():
            self._check(name, modality.vectors)
        n = n_rows.pop()
        present = np.stack(
            [modalities[name].present if name in modalities else np.zeros(n, bool) for name in self.shape.modalities],
            axis=1,
        )
        embedded = np.zeros((n, self.dim), np.float32)
        with torch_threads(threads), torch.inference_mode():
            for start in range(0, n, CHUNK):
                rows = slice(start, start + CHUNK)
                here = torch.from_numpy(present[rows])
                inputs = {
                    name: self._components(name, modalities[name].vectors[rows], here[:, position])
                    if name in modalities
                    else torch.zeros(len(here), self.shape.kept(name))
                    for position, name in enumerate(self.shape.modalities)
                }
                fused = F.normalize(self.ensemble.fuse(inputs, here) @ self.ensemble.compression, dim=1)
                embedded[rows] = (fused * here.any(dim=1, keepdim=True)).numpy()
        return embedded

    def embed_modality(
        self, name: str, vectors: NDArray[np.float32], threads: int | None = None
    ) -> NDArray[np.float32]:
        """Project one modality's vectors, such as a query's picture or text.

        Args:
            name: one of the aligner's modalities.
            vectors: float32 [n, width of that modality].
            threads: torch threads to use; None leaves the setting as it is.

        Returns:
            float32 [n, dim], unit norm, comparable by inner product with every other output of this aligner.

        Raises:
            SchemaError: an unknown modality or a wrong width.
        """
        self._check(name, vectors)
        embedded = np.empty((len(vectors), self.dim), np.float32)
        with torch_threads(threads), torch.inference_mode():
            for start in range(0, len(vectors), CHUNK):
                rows = slice(start, start + CHUNK)
                sides = self.ensemble.project(name, self._components(name, vectors[rows], None))
                embedded[rows] = F.normalize(sides @ self.ensemble.compression, dim=1).numpy()
        return embedded

    def _check(self, name: str, vectors: NDArray[np.float32]) -> None:
        width = self.shape.modalities.get(name)
        if width is None:
            raise SchemaError(f"expected one of the modalities {list(self.shape.modalities)}, came {name!r}")
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise SchemaError(f"modality {name!r}: expected vectors [n, {width}], came {vectors.shape}")

    def _components(self, name: str, vectors: NDArray[np.float32], present: Tensor | None) -> Tensor:
        raw = torch.from_numpy(np.array(vectors, dtype=np.float32))
        if present is not None:
            raw[~present] = 0.0  # what stands in an absent row is never read, not even a NaN
        rotated: Tensor = self.ensemble.rotations[name](raw)
        return rotated

    def save(self, path: Path | str) -> None:
        """Write ``aligner.safetensors`` and ``aligner.json`` into the directory ``path``."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in self.ensemble.state_dict().items()}
        save_file(weights, str(folder / "aligner.safetensors"))
        # modalities as a list: their order is the order of the tokens
        shape = {**self.shape.__dict__, "modalities": list(self.shape.modalities.items())}
        text = json.dumps({"shape": shape, "history": self.history}, indent=1)
        (folder / "aligner.json").write_text(text + "\n", encoding="utf-8")


def load_aligner(path: Path | str) -> Aligner:
    """Read what :meth:`Aligner.save` wrote; embeds bit for bit as the one that was saved.

    Raises:
        ReleaseError: a file is missing, or does not hold what the other one says.
    """
    folder = Path(path)
    try:
        about = json.loads((folder / "aligner.json").read_text(encoding="utf-8"))
        shape = Shape(**{**about["shape"], "modalities": dict(about["shape"]["modalities"])})
        ensemble = Ensemble(shape)
        ensemble.load_state_dict(load_file(str(folder / "aligner.safetensors")))
        return Aligner(ensemble, about["history"])
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ReleaseError(
            f"{folder}: expected a saved aligner (aligner.json, aligner.safetensors): {error}"
        ) from error
