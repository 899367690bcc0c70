"""The user tower and the items' taste vectors as torch modules: what recsys/alignment/users.py trains."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.retrieval.users import AGE_EDGES, MAX_HISTORY, N_AGES, UserTower
from recsys.schema import EVENT_TYPES


class TasteItems(nn.Module):
    """Taste vectors of items: their content, turned, plus a vector of their own."""

    content: Tensor

    def __init__(self, content: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("content", content, persistent=False)  # it never changes: no part of what an epoch keeps
        # The first space of the content as it is, and a little of the others, so that what only they know is somewhere.
        turn = 0.1 * dim**-0.5 * torch.randn(content.shape[1], dim)
        turn[:dim] = torch.eye(min(dim, len(turn)), dim)
        self.turn = nn.Parameter(turn)
        self.own = nn.Embedding(len(content), dim, sparse=True)
        # Nothing of their own to start with, but where there is no content, which must start somewhere.
        bare = (~content.any(dim=1)).float().unsqueeze(1)
        with torch.no_grad():
            self.own.weight.copy_(torch.randn(len(content), dim) * bare * dim**-0.5)

    def forward(self, rows: Tensor, dropout: float = 0.0) -> Tensor:
        """Rows int64 [r] → unit norm [r, dim]; with this chance an item shows its content only."""
        own: Tensor = self.own(rows)
        if dropout:
            own = own * (torch.rand(len(rows), 1) >= dropout)
        placed = self.content[rows] @ self.turn + own
        # Not F.normalize: its gradient at zero, where an item without content stands once its own is hidden, overflows.
        return placed * (placed.square().sum(dim=1, keepdim=True) + 1e-8).rsqrt()

    @torch.no_grad()
    def all(self) -> Tensor:
        """Every item's vector, [n, dim]."""
        return torch.cat([self(rows) for rows in torch.split(torch.arange(len(self.content)), 65_536)])


class TowerNetwork(nn.Module):
    """UserTower's formula on padded batches, with gradients; its parameters carry UserTower's names."""

    def __init__(self, dim: int, interests: int, hidden: int, temperature: float) -> None:
        """See UserTowerConfig for what they mean."""
        super().__init__()
        k = interests
        self.query = nn.Parameter(torch.randn(dim, k) * dim**-0.5)
        self.affinity = nn.Parameter(torch.eye(dim))
        self.affinity_weight = nn.Parameter(torch.zeros(k))
        # It starts as a recency-weighted mean; each further interest looks further back.
        decay = 0.5 ** torch.arange(k)
        self.by_position = nn.Parameter(-0.2 * torch.arange(MAX_HISTORY).unsqueeze(1) * decay)
        self.by_age = nn.Parameter(torch.zeros(N_AGES, k))
        self.by_gap = nn.Parameter(torch.zeros(N_AGES, k))
        self.by_type = nn.Parameter(torch.zeros(len(EVENT_TYPES), k))
        self.turn = nn.Parameter(torch.eye(dim))
        self.turn_last = nn.Parameter(torch.zeros(dim, dim))
        self.inner = nn.Parameter(torch.randn(2 * dim, hidden) * (2 * dim) ** -0.5)
        self.inner_bias = nn.Parameter(torch.zeros(hidden))
        self.outer = nn.Parameter(torch.zeros(hidden, dim))
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))

    def forward(self, history: Tensor, real: Tensor, ages: Tensor, gaps: Tensor, types: Tensor) -> Tensor:
        """Padded histories, newest first, [b, m, d] and [b, m] → unit-norm [b, k, d]; real[:, 0] must be true."""
        last = history[:, 0]
        logits = history @ self.query
        logits = logits + torch.einsum("bmd,bd->bm", history, last @ self.affinity).unsqueeze(2) * self.affinity_weight
        logits = logits + self.by_position[: history.shape[1]]
        logits = logits + self.by_age[ages] + self.by_gap[gaps] + self.by_type[types]
        attention = torch.softmax(logits.masked_fill(~real.unsqueeze(2), -1e9), dim=1)  # [b, m, k]
        pooled = attention.transpose(1, 2) @ history  # [b, k, d]
        newest = last.unsqueeze(1)  # [b, 1, d]
        dim = history.shape[2]
        hidden = torch.relu(pooled @ self.inner[:dim] + newest @ self.inner[dim:] + self.inner_bias)
        return F.normalize(pooled @ self.turn + newest @ self.turn_last + hidden @ self.outer, dim=2)

    def export(self, item_turn: Tensor) -> UserTower:
        """The same weights for numpy; ``item_turn`` is that of the items."""
        weights = {field.name: getattr(self, field.name, item_turn) for field in fields(UserTower)}
        return UserTower(**{name: weight.detach().numpy().copy() for name, weight in weights.items()})


@dataclass(frozen=True, eq=False)
class PaddedHistories:
    """Ragged histories as a padded matrix, newest first; −1 is padding."""

    rows: Tensor  # int64 [q, m]
    ages: Tensor  # int64 [q, m], bucket
    gaps: Tensor  # int64 [q, m], bucket
    types: Tensor  # int64 [q, m]

    def cut(self, examples: Tensor) -> "PaddedHistories":
        """Those of some examples, as wide as the longest of them."""
        longest = int((self.rows[examples] >= 0).sum(dim=1).max())
        return PaddedHistories(*(getattr(self, field.name)[examples, :longest] for field in fields(self)))

    def vectors(self, tower: TowerNetwork, of_row: Callable[[Tensor], Tensor], dropout: float = 0.0) -> Tensor:
        """User vectors [q, k, d]; ``of_row`` gives the item vectors of real rows, int64 [r] → [r, d]."""
        real = self.rows >= 0
        history = torch.zeros(*real.shape, tower.turn.shape[0])
        history[real] = of_row(self.rows[real])
        if dropout:
            kept = torch.rand(real.shape) >= dropout
            kept[:, 0] = True
            real = real & kept
        vectors: Tensor = tower(history, real, self.ages, self.gaps, self.types)
        return vectors


def pad_histories(
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    event_types: NDArray[np.int8],
    ages_days: NDArray[np.float32],
) -> PaddedHistories:
    """The newest MAX_HISTORY events of each, as in :meth:`UserTower.user_vectors`; ages and gaps as buckets."""
    lengths = np.minimum(np.diff(offsets), MAX_HISTORY)
    back = np.arange(max(1, lengths.max()))
    real = back < lengths[:, None]
    at = np.where(real, offsets[1:, None] - 1 - back, 0)
    ages = ages_days[at]
    gaps = ages - ages[:, :1]
    return PaddedHistories(
        rows=torch.from_numpy(np.where(real, rows[at], -1).astype(np.int64)),
        ages=torch.from_numpy(AGE_EDGES.searchsorted(ages, "right").astype(np.int64)),
        gaps=torch.from_numpy(AGE_EDGES.searchsorted(gaps, "right").astype(np.int64)),
        types=torch.from_numpy(event_types[at].astype(np.int64)),
    )
