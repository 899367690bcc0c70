"""Training the user tower: histories and what came next, to weights that numpy can run."""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from recsys.alignment.model import torch_threads
from recsys.errors import ConfigError, SchemaError
from recsys.retrieval.users import AGE_EDGES, MAX_HISTORY, N_AGES, UserTower
from recsys.schema import EVENT_TYPES


@dataclass(frozen=True)
class UserTowerConfig:
    """How the user tower is trained."""

    interests: int = 3  # vectors a shopper; each is one more search of the index
    hidden: int = 128  # of the correction's MLP
    dropout: float = 0.1  # chance that an item of a history is hidden in training; the newest never is
    popularity_weight: float = 0.0  # of log popularity in the training logits: 1 learns taste beside popularity, 0 both
    temperature: float = 0.07  # τ to start from; learned
    lr: float = 3e-3  # at its height; warmed up over the first steps, then down a cosine
    weight_decay: float = 0.01
    epochs: int = 10  # at most
    batch_size: int = 512
    patience: int = 3  # epochs without a better held-out quality before training stops
    held_out: float = 0.1  # share of the examples that early stopping watches, at most 2,000
    full_softmax_items: int = 4096  # past this catalogue size it is over a sample: as good, a tenth of the time
    sampled_items: int = 2048  # how many, drawn anew for each batch

    def __post_init__(self) -> None:
        for name in ("interests", "hidden", "epochs", "batch_size", "patience", "sampled_items"):
            if getattr(self, name) < 1:
                raise ConfigError(f"user_tower.{name}: expected at least 1, came {getattr(self, name)}")
        for name in ("dropout", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"user_tower.{name}: expected a share in [0, 1), came {getattr(self, name)}")


class _Tower(nn.Module):
    """UserTower's formula on padded batches, with gradients; its parameters carry UserTower's names."""

    def __init__(self, dim: int, config: UserTowerConfig) -> None:
        super().__init__()
        k = config.interests
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
        self.inner = nn.Parameter(torch.randn(2 * dim, config.hidden) * (2 * dim) ** -0.5)
        self.inner_bias = nn.Parameter(torch.zeros(config.hidden))
        self.outer = nn.Parameter(torch.zeros(config.hidden, dim))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

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

    def export(self) -> UserTower:
        """The same weights for numpy."""
        return UserTower(
            **{field.name: getattr(self, field.name).detach().numpy().copy() for field in fields(UserTower)}
        )


@dataclass(frozen=True, eq=False)
class _Histories:
    """Ragged histories as a padded matrix, newest first; −1 is padding."""

    rows: Tensor  # int64 [q, m]
    ages: Tensor  # int64 [q, m], bucket
    gaps: Tensor  # int64 [q, m], bucket
    types: Tensor  # int64 [q, m]

    def vectors(self, tower: _Tower, items: Tensor, examples: Tensor, dropout: float = 0.0) -> Tensor:
        rows = self.rows[examples]
        longest = int((rows >= 0).sum(dim=1).max())
        rows = rows[:, :longest]
        real = rows >= 0
        history = items[rows.clamp_min(0)]
        if dropout:
            kept = torch.rand(rows.shape) >= dropout
            kept[:, 0] = True
            real = real & kept
        vectors: Tensor = tower(
            history,
            real,
            self.ages[examples, :longest],
            self.gaps[examples, :longest],
            self.types[examples, :longest],
        )
        return vectors


def train_user_tower(
    item_embeddings: NDArray[np.float32],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    event_types: NDArray[np.int8],
    ages_days: NDArray[np.float32],
    targets: NDArray[np.int32],
    config: UserTowerConfig,
    seed: int,
    threads: int,
    progress: bool = True,
) -> UserTower:
    """Learn to turn a history into vectors near the item that came next.

    Cross-entropy over the whole catalogue (over a popularity-sampled part of it past ``full_softmax_items``, corrected
    by the logarithm of the sampling probability) of scale·(vector · item) + ``popularity_weight``·ln popularity, with
    the interest that lies nearest to the target. The item embeddings stay as they are. The best epoch by held-out mean
    reciprocal rank over the whole catalogue is kept; the untrained tower, a recency-weighted mean, competes, so
    training never leaves less than that on what it watches. Same input, seed and threads, same bits.

    Args:
        item_embeddings: unit norm, float32 [n, d].
        offsets, rows, event_types, ages_days: the histories, as in :meth:`UserTower.user_vectors`, one an example.
            Examples with an empty history are passed over. Nothing in a history may be later than its target.
        targets: the row that came next, int32 [q].
        config: see :class:`UserTowerConfig`.
        seed: of everything random here.
        threads: torch threads.
        progress: show a progress bar on standard error.

    Returns:
        The tower, as arrays. Without a single usable example: the untrained one.

    Raises:
        SchemaError: lengths differ, or a row is not one of the items.

    Source: Cen et al. 2020 (arXiv:2005.09347) for the interests, Yi et al. 2019 for the correction, Klenitskiy and
    Vasilev 2023 (arXiv:2309.07602) for cross-entropy over the whole catalogue.
    """
    _check(item_embeddings, offsets, rows, event_types, ages_days, targets)
    with torch_threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = _Tower(item_embeddings.shape[1], config)
        usable = np.flatnonzero(np.diff(offsets) > 0)
        if len(usable):
            histories = _pad(offsets, rows, event_types, ages_days)
            order = torch.from_numpy(np.random.default_rng(seed).permutation(usable))
            n_watch = min(int(config.held_out * len(order)), 2000)
            items = torch.from_numpy(np.ascontiguousarray(item_embeddings, dtype=np.float32))
            wanted = torch.from_numpy(targets.astype(np.int64))
            _fit(tower, histories, items, wanted, order[n_watch:], order[:n_watch], config, progress)
        return tower.export()


def _check(
    item_embeddings: NDArray[np.float32],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    event_types: NDArray[np.int8],
    ages_days: NDArray[np.float32],
    targets: NDArray[np.int32],
) -> None:
    m, q = int(offsets[-1]), len(offsets) - 1
    came = (len(rows), len(event_types), len(ages_days), len(targets))
    if came != (m, m, m, q):
        raise SchemaError(
            f"train_user_tower: expected rows, event_types, ages_days, targets of lengths {(m, m, m, q)}, came {came}"
        )
    for name, values, end in (
        ("rows", rows, len(item_embeddings)),
        ("targets", targets, len(item_embeddings)),
        ("event_types", event_types, len(EVENT_TYPES)),
    ):
        if len(values) and (values.min() < 0 or values.max() >= end):
            raise SchemaError(f"train_user_tower: expected {name} in [0, {end}), came {values.min()} to {values.max()}")


def _pad(
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    event_types: NDArray[np.int8],
    ages_days: NDArray[np.float32],
) -> _Histories:
    lengths = np.minimum(np.diff(offsets), MAX_HISTORY)
    back = np.arange(max(1, lengths.max()))
    real = back < lengths[:, None]
    at = np.where(real, offsets[1:, None] - 1 - back, 0)
    ages = ages_days[at]
    gaps = ages - ages[:, :1]
    return _Histories(
        rows=torch.from_numpy(np.where(real, rows[at], -1).astype(np.int64)),
        ages=torch.from_numpy(AGE_EDGES.searchsorted(ages, "right").astype(np.int64)),
        gaps=torch.from_numpy(AGE_EDGES.searchsorted(gaps, "right").astype(np.int64)),
        types=torch.from_numpy(event_types[at].astype(np.int64)),
    )


def _fit(
    tower: _Tower,
    histories: _Histories,
    items: Tensor,
    targets: Tensor,
    learn: Tensor,
    watch: Tensor,
    config: UserTowerConfig,
    progress: bool,
) -> None:
    """Train ``tower`` in place, to its best epoch on the examples ``watch``."""
    popularity = (torch.bincount(targets[learn], minlength=len(items)) + 1.0) / (len(learn) + len(items))
    optimizer = torch.optim.AdamW(tower.parameters(), lr=config.lr, weight_decay=0.0)
    start = {name: value.detach().clone() for name, value in tower.named_parameters()}
    batch = min(config.batch_size, len(learn))
    steps, step = config.epochs * max(1, len(learn) // batch), 0
    best, best_epoch, best_state = _quality(tower, histories, items, targets, watch), -1, start
    bar = tqdm(range(config.epochs), desc="user tower", unit="epoch", disable=not progress)
    for epoch in bar:
        shuffled, total = learn[torch.randperm(len(learn))], 0.0
        for first in range(0, len(learn) - batch + 1, batch):
            examples = shuffled[first : first + batch]
            rate = config.lr * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            vectors = histories.vectors(tower, items, examples, config.dropout)
            loss = _softmax_loss(tower, vectors, items, targets[examples], popularity, config)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():  # decay towards the start, which is the sensible mean, and not towards zero
                for name, value in tower.named_parameters():
                    value.lerp_(start[name], rate * config.weight_decay)
            total += loss.item()
            step += 1
        quality = _quality(tower, histories, items, targets, watch)
        bar.set_postfix(loss=f"{total / max(1, len(learn) // batch):.3f}", held_out_mrr=f"{quality:.4f}")
        if quality > best or not len(watch):
            best, best_epoch = quality, epoch
            best_state = {name: value.detach().clone() for name, value in tower.named_parameters()}
        elif epoch - best_epoch >= config.patience:
            break
    tower.load_state_dict(best_state)


def _softmax_loss(
    tower: _Tower, vectors: Tensor, items: Tensor, targets: Tensor, popularity: Tensor, config: UserTowerConfig
) -> Tensor:
    """Cross-entropy of the targets; vectors [b, k, d], targets [b]."""
    scale = tower.log_scale.exp().clamp(max=100.0)
    nearest = torch.einsum("bkd,bd->bk", vectors, items[targets]).argmax(dim=1)
    vector = vectors[torch.arange(len(vectors)), nearest]  # [b, d]
    lift = config.popularity_weight * popularity.log()
    if len(items) <= config.full_softmax_items:
        return F.cross_entropy(vector @ items.T * scale + lift, targets)
    drawn = torch.multinomial(popularity, config.sampled_items, replacement=True)
    expected = math.log(config.sampled_items) + popularity[drawn].log()  # log of how often each is drawn
    others = vector @ items[drawn].T * scale + lift[drawn] - expected  # [b, s]
    others = others.masked_fill(drawn.unsqueeze(0) == targets.unsqueeze(1), -math.inf)
    own = (vector * items[targets]).sum(dim=1) * scale + lift[targets]
    return F.cross_entropy(torch.cat([own.unsqueeze(1), others], dim=1), torch.zeros(len(own), dtype=torch.long))


@torch.no_grad()
def _quality(tower: _Tower, histories: _Histories, items: Tensor, targets: Tensor, examples: Tensor) -> float:
    """Mean reciprocal rank of the target over the whole catalogue, by its nearest interest; ties count against it."""
    reciprocal = []
    for first in range(0, len(examples), 256):
        some = examples[first : first + 256]
        similarity = (histories.vectors(tower, items, some) @ items.T).amax(dim=1)
        own = similarity.gather(1, targets[some].unsqueeze(1))
        reciprocal.append(1.0 / (similarity >= own).sum(dim=1))
    return float(torch.cat(reciprocal).mean()) if reciprocal else math.nan
