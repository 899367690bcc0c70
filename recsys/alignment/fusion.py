"""From the tokens of an item's modalities to one vector, whichever of them are there.

Every fusion is a module ``(tokens [batch, m, dim], present [batch, m]) -> [batch, dim]`` that reads no token whose
``present`` is false; the result is not normalised. At least one modality must be present in a row, or the row's result
has no meaning (:class:`recsys.alignment.model.Aligner` returns zeros there).
"""

import torch
from torch import Tensor, nn


def masked_mean(tokens: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over modalities. tokens [batch, m, dim], weights [batch, m] ≥ 0 → [batch, dim]."""
    total = weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return (tokens * (weights / total).unsqueeze(2)).sum(dim=1)


class MeanFusion(nn.Module):
    """The plain mean of the modalities that are there."""

    def __init__(self, n_modalities: int, dim: int) -> None:
        super().__init__()

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """[batch, m, dim], [batch, m] → [batch, dim]."""
        return masked_mean(tokens, present.to(tokens.dtype))


class WeightedFusion(nn.Module):
    """A mean with one learned weight a modality, the same for every item; it starts as the plain mean."""

    def __init__(self, n_modalities: int, dim: int) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(n_modalities))

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """[batch, m, dim], [batch, m] → [batch, dim]."""
        return masked_mean(tokens, self.log_weight.exp() * present)


class GatedFusion(nn.Module):
    """A weighted mean whose weights are a softmax over the modalities that are there.

    A modality's gate is a learned prior plus a linear reading of its own token, so an uninformative picture or a
    two-word text can count for less. It starts as the plain mean.

    Source: Arevalo et al. 2017, "Gated multimodal units for information fusion", arXiv:1702.01992.
    """

    def __init__(self, n_modalities: int, dim: int) -> None:
        super().__init__()
        self.reading = nn.Parameter(torch.zeros(n_modalities, dim))
        self.prior = nn.Parameter(torch.zeros(n_modalities))

    def weights(self, tokens: Tensor, present: Tensor) -> Tensor:
        """The gates: [batch, m], non-negative, each row sums to 1 over what is present."""
        gates = (tokens * self.reading).sum(dim=2) + self.prior
        gates = gates.masked_fill(~present, -1e9)
        return torch.softmax(gates, dim=1) * present

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """[batch, m, dim], [batch, m] → [batch, dim]."""
        return masked_mean(tokens, self.weights(tokens, present))


class ConcatFusion(nn.Module):
    """The mean, corrected by an MLP that sees all tokens side by side and which of them are there."""

    def __init__(self, n_modalities: int, dim: int) -> None:
        super().__init__()
        last = nn.Linear(2 * dim, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(n_modalities * (dim + 1), 2 * dim), nn.GELU(), last)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """[batch, m, dim], [batch, m] → [batch, dim]."""
        there = present.to(tokens.dtype)
        seen = torch.cat([(tokens * there.unsqueeze(2)).flatten(1), there], dim=1)
        mixed: Tensor = self.mlp(seen)
        return masked_mean(tokens, there) + mixed


class CrossAttentionFusion(nn.Module):
    """The mean, corrected by a learned query that attends over the modality tokens.

    Source: Jaegle et al. 2021, "Perceiver", arXiv:2103.03206 (one latent, one layer).
    """

    def __init__(self, n_modalities: int, dim: int) -> None:
        super().__init__()
        self.kind = nn.Parameter(torch.randn(n_modalities, dim) * dim**-0.5)
        self.query = nn.Parameter(torch.randn(dim) * dim**-0.5)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """[batch, m, dim], [batch, m] → [batch, dim]."""
        typed = tokens + self.kind
        scores = (self.key(typed) @ self.query).masked_fill(~present, -1e9)  # [batch, m]
        attended = masked_mean(self.value(typed), torch.softmax(scores, dim=1) * present)
        mixed: Tensor = self.out(torch.tanh(attended))
        return masked_mean(tokens, present.to(tokens.dtype)) + mixed


class GraphFusion(GatedFusion):
    """Gates over the item's own modalities and over those of its neighbours in the item–item graph.

    The neighbours come as modalities of their own (see :mod:`recsys.alignment.graph`), so an item without any is an
    item with fewer modalities, and how far its features are smoothed is learned.

    Source: Wu et al. 2019, "Simplifying graph convolutional networks", arXiv:1902.07153 (features smoothed over the
    graph, no weights between the steps).
    """


FUSIONS: dict[str, type[nn.Module]] = {
    "gated": GatedFusion,
    "mean": MeanFusion,
    "weighted": WeightedFusion,
    "concat_mlp": ConcatFusion,
    "cross_attention": CrossAttentionFusion,
    "graph": GraphFusion,
}
