"""The modules of an aligner: per member a head for each modality and a fusion, and the compression of all members."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.alignment.concepts import ConceptReader
from recsys.alignment.fusion import FUSIONS


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
    pinned: str = ""  # the modality whose head is no network but its first principal components, as they are
    concepts: dict[str, tuple[int, int]] = field(default_factory=dict)  # modality → (classes, width), see Concepts
    linear: int = 0  # dimensions of one further member, of linear maps; 0: there is none

    @property
    def of_linear_member(self) -> "Shape":
        """The shape of a member that is computed and not trained."""
        return replace(self, dim=self.linear, hidden=0, fusion="mean", pinned="")

    def read(self, name: str) -> int:
        """Width of what a modality's rotation is given."""
        return self.concepts[name][1] if name in self.concepts else self.modalities[name]

    def kept(self, name: str) -> int:
        """How many principal components of a modality go into its heads."""
        return min(self.components, self.read(name))


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
    """Principal components to one member's space: a linear map plus an MLP of two hidden layers, on the unit sphere.

    With a hidden width of 0 there is no MLP: what the closed forms give is a linear map.
    """

    def __init__(self, width: int, hidden: int, shape: Shape) -> None:
        super().__init__()
        self.dropout, self.noise = (shape.dropout, shape.noise) if hidden else (0.0, 0.0)
        dim = shape.dim
        self.linear = nn.Linear(width, dim)
        self.mlp: nn.Module | None = None
        if hidden:
            self.mlp = nn.Sequential(
                nn.Linear(width, hidden),
                nn.GELU(),
                nn.Linear(hidden, hidden),
                nn.GELU(),
                nn.Linear(hidden, dim),
            )

    def set_linear(self, weight: Tensor) -> None:
        """A head without an MLP becomes the linear map ``weight`` [kept, dim], and stays it."""
        self.requires_grad_(False)
        self.linear.weight.copy_(weight.T)
        self.linear.bias.zero_()

    def start_from(self, linear: "Head") -> None:
        """Begin as the leading dimensions of a linear head, to which the MLP adds little as yet."""
        dim = min(len(self.linear.weight), len(linear.linear.weight))
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.weight[:dim] = linear.linear.weight[:dim]
            self.linear.bias.zero_()
            if self.mlp is not None:
                for parameter in list(self.mlp.parameters())[-2:]:  # of its last layer
                    parameter.mul_(0.1)

    def forward(self, components: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[batch, kept] → unit-norm float32 [batch, dim]; with noise and dropout where given a generator."""
        if generator is not None and self.noise:
            components = components + self.noise * torch.randn(components.shape, generator=generator)
        if generator is not None and self.dropout:
            kept = torch.rand(components.shape, generator=generator) >= self.dropout
            components = components * kept / (1 - self.dropout)
        components = components.to(self.linear.weight.dtype)  # see Aligner.halved()
        projected = self.linear(components)
        if self.mlp is not None:
            projected = projected + self.mlp(components)
        return F.normalize(projected.float(), dim=1)


class Member(nn.Module):
    """One of the ensemble: heads, a fusion, and what its losses learn beside them (temperatures, SigLIP's bias)."""

    def __init__(self, shape: Shape, temperature: float) -> None:
        super().__init__()
        self.pinned = list(shape.modalities).index(shape.pinned) if shape.pinned else None
        self.heads = nn.ModuleDict()
        for name in shape.modalities:
            self.heads[name] = Head(shape.kept(name), 0 if name == shape.pinned else shape.hidden, shape)
            if name == shape.pinned:
                with torch.no_grad():
                    self.head(name).set_linear(torch.eye(shape.kept(name), shape.dim))
        self.fusion = FUSIONS[shape.fusion](len(shape.modalities), shape.dim)
        self.log_scale = nn.Parameter(torch.full((3,), -float(np.log(temperature))))  # cross-modal, views, behaviour
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def head(self, name: str) -> Head:
        """The head of one modality, typed."""
        return cast(Head, self.heads[name])

    def tokens(self, inputs: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """Unit-norm projections: {name: [batch, kept]} → [batch, m, dim]; noisy where given a generator.

        Zero for a modality that is not among ``inputs``: a query of words pays for no picture.
        """
        made = {name: head(inputs[name], generator) for name, head in self.heads.items() if name in inputs}
        nothing = torch.zeros_like(next(iter(made.values())))
        return torch.stack([made.get(name, nothing) for name in self.heads], dim=1)

    def fuse(self, tokens: Tensor, present: Tensor) -> Tensor:
        """[batch, m, dim], [batch, m] → unit-norm [batch, dim]."""
        return F.normalize(self.fusion(tokens, present), dim=1)

    def embed(self, inputs: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """All modalities fused: → unit norm [batch, dim]."""
        return self.fuse(self.tokens(inputs), present)


class Ensemble(nn.Module):
    """The modules of an aligner, whole: rotations, members, compression."""

    compression: Tensor

    def __init__(self, shape: Shape, temperature: float = 0.1) -> None:
        super().__init__()
        self.shape = shape
        self.concepts = nn.ModuleDict(
            {name: ConceptReader(shape.modalities[name], *sizes) for name, sizes in shape.concepts.items()}
        )
        self.rotations = nn.ModuleDict(
            {name: Rotation(shape.read(name), shape.kept(name)) for name in shape.modalities}
        )
        self.members = nn.ModuleList([Member(shape, temperature) for _ in range(shape.members)])
        if shape.linear:
            self.members.append(Member(shape.of_linear_member, temperature))
        self.register_buffer("compression", torch.zeros(shape.members * shape.dim + shape.linear, shape.dim))

    def each_member(self) -> list[Member]:
        """The members, typed; the linear one, where there is one, comes last."""
        return [member for member in self.members if isinstance(member, Member)]

    def rotation(self, name: str) -> Rotation:
        """The rotation of one modality, typed."""
        return cast(Rotation, self.rotations[name])

    def concept_reader(self, name: str) -> ConceptReader:
        """What names a modality's classes, typed."""
        return cast(ConceptReader, self.concepts[name])

    def read(self, name: str, vectors: Tensor) -> Tensor:
        """A modality's vectors as its rotation wants them: as they are, or named by a classifier."""
        read: Tensor = self.concepts[name](vectors) if name in self.concepts else vectors
        return read

    def components(self, name: str, vectors: Tensor) -> Tensor:
        """A modality's vectors as its heads want them: [n, width] → [n, kept]."""
        rotated: Tensor = self.rotations[name](self.read(name, vectors))
        return rotated

    def fit_compression(self, sides: Tensor, linear_weight: float = 1.0) -> None:
        """Keep the ``dim`` principal axes of the members' outputs side by side.

        Not centred, so that inner products, which the training meant, are what is kept.

        Args:
            sides: float32 [n, width of all members].
            linear_weight: what the linear member's outputs count beside those of another.
        """
        weights = torch.ones(len(self.compression), dtype=torch.float64)
        weights[self.shape.members * self.shape.dim :] = linear_weight
        weighted = F.normalize(sides * weights.float(), dim=1)
        _, axes = torch.linalg.eigh((weighted.T @ weighted).double())
        axes = axes[:, -self.shape.dim :].flip(1)
        axes = axes * torch.where(axes.abs().amax(0) == axes.amax(0), 1.0, -1.0)
        self.compression.copy_(weights.unsqueeze(1) * axes)

    def project(self, name: str, components: Tensor) -> Tensor:
        """One modality alone, members compressed: [batch, kept] → unit norm [batch, dim]."""
        return self.compress(self.modality_sides(name, components))

    def tokens(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """All modalities alone, members compressed: {name: [batch, kept]} → unit norm [batch, m, dim]."""
        return torch.stack([self.project(name, inputs[name]) for name in self.shape.modalities], dim=1)

    def embed(self, inputs: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """All modalities fused, members compressed: → unit norm [batch, dim]."""
        return self.compress(self.fused_sides(inputs, present))

    def modality_sides(self, name: str, components: Tensor) -> Tensor:
        """One modality alone, members side by side: [batch, kept] → [batch, width of all members]."""
        return torch.cat([member.heads[name](components) for member in self.each_member()], dim=1)

    def fused_sides(self, inputs: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """All modalities fused, members side by side: → [batch, width of all members]."""
        return torch.cat([member.embed(inputs, present) for member in self.each_member()], dim=1)

    def compress(self, sides: Tensor) -> Tensor:
        """Members side by side → unit norm [batch, dim]."""
        return F.normalize(sides @ self.compression, dim=1)
