"""train_user_tower(): histories and what came next, to arrays that numpy can run; the modules are those of tower.py."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from recsys.alignment.model import torch_threads
from recsys.alignment.tower import PaddedHistories, TasteItems, TowerNetwork, pad_histories
from recsys.errors import SchemaError, require_at_least, require_positive, require_share
from recsys.retrieval.users import Taste
from recsys.schema import EVENT_TYPES

AT_ONCE = 2**26  # likenesses of shoppers to items computed together when a tower is watched: 256 MiB


@dataclass(frozen=True)
class UserTowerConfig:
    """How the user tower is trained."""

    dim: int = 64  # of the taste space, in which shoppers and items meet
    interests: int = 2  # vectors a shopper; each is one more search of the index
    hidden: int = 256  # of the correction's MLP
    dropout: float = 0.1  # chance that an item of a history is hidden in training; the newest never is
    item_dropout: float = 0.2  # chance that an item must do with its content: how the tower learns to treat new ones
    popularity_weight: float = 0.0  # of log popularity in the training logits: 1 learns taste beside popularity, 0 both
    temperature: float = 0.07  # τ to start from; learned
    lr: float = 3e-3  # at its height; warmed up over the first steps, then down a cosine
    weight_decay: float = 0.01
    epochs: int = 5  # at most; 0 leaves a recency-weighted mean of content
    epoch_examples: int = 100_000  # of an epoch, drawn anew for each where there are more
    refresh_epochs: int = 1  # the same where training goes on from an earlier moment's tower
    batch_size: int = 512
    patience: int = 2  # epochs without a better held-out quality before training stops
    held_out: float = 0.05  # share of the shoppers whom early stopping watches; of their examples at most 2,000
    full_softmax_items: int = 2048  # past this catalogue size it is over a sample: as good, a fraction of the time
    sampled_items: int = 1024  # how many, drawn anew for each batch

    def __post_init__(self) -> None:
        positive = ("dim", "interests", "hidden", "batch_size", "epoch_examples", "patience", "sampled_items")
        require_at_least("users", self, epochs=0, refresh_epochs=0, **dict.fromkeys(positive, 1))
        require_at_least("users", self, popularity_weight=0, weight_decay=0)
        require_share("users", self, "dropout", "item_dropout", "held_out")
        require_positive("users", self, "temperature", "lr")


def train_user_tower(
    content: NDArray[np.float32],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    event_types: NDArray[np.int8],
    ages_days: NDArray[np.float32],
    targets: NDArray[np.int32],
    config: UserTowerConfig,
    seed: int,
    threads: int,
    progress: bool = True,
    *,
    shoppers: NDArray[np.int32] | None = None,
    earlier: Taste | None = None,
) -> Taste:
    """Learn to turn a history into vectors near the item that came next, and where the items lie.

    Cross-entropy over the whole catalogue (over a popularity-sampled part of it past ``full_softmax_items``, corrected
    by the logarithm of the sampling probability) of scale·(vector · item) + ``popularity_weight``·ln popularity, with
    the interest that lies nearest to the target. An item is its content, turned, plus a vector of its own that is
    hidden now and then, so that an item nobody took yet has a place too. The best epoch by mean reciprocal rank over
    the whole catalogue is kept, for shoppers of whom nothing was learned; the untrained tower, a recency-weighted mean
    of content, competes, so training never leaves less than that on what it watches. Same input, seed and threads,
    same bits.

    Args:
        content: what is known of each item without any shopper, float32 [n, c], unit norm or zero.
        offsets, rows, event_types, ages_days: the histories, as in :meth:`UserTower.user_vectors`, one an example.
            Examples with an empty history are passed over. Nothing in a history may be later than its target.
        targets: the row that came next, int32 [q].
        config: see :class:`UserTowerConfig`.
        seed: of everything random here.
        threads: torch threads.
        progress: show a progress bar on standard error.
        shoppers: whose each example is, int32 [q]; None: each is of somebody else.
        earlier: of an earlier moment, with content in the same spaces: training goes on from there, for
            ``refresh_epochs``.

    Returns:
        Tower and item vectors, as arrays. Without a single usable example: the untrained ones.

    Raises:
        SchemaError: lengths differ, or a row is not one of the items.

    Source: Cen et al. 2020 (arXiv:2005.09347) for the interests, Yi et al. 2019 for the correction, Klenitskiy and
    Vasilev 2023 (arXiv:2309.07602) for cross-entropy over the whole catalogue, Volkovs et al. 2017 (DropoutNet) for
    hiding what an item has of its own.
    """
    _check(content, offsets, rows, event_types, ages_days, targets)
    with torch_threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        items = TasteItems(torch.from_numpy(np.ascontiguousarray(content, dtype=np.float32)), config.dim)
        tower = TowerNetwork(config.dim, config.interests, config.hidden, config.temperature)
        if earlier is not None and config.epochs:
            _go_on_from(earlier, tower, items)
        usable = np.flatnonzero(np.diff(offsets) > 0)
        if len(usable) and config.epochs:
            histories = pad_histories(offsets, rows, event_types, ages_days)
            learn, watch = _hold_out(usable, shoppers, config, seed)
            wanted = torch.from_numpy(targets.astype(np.int64))
            _fit(tower, items, histories, wanted, learn, watch, config, progress, earlier is not None)
        return _exported(tower, items, rows, targets)


def _hold_out(
    usable: NDArray[np.int64], shoppers: NDArray[np.int32] | None, config: UserTowerConfig, seed: int
) -> tuple[Tensor, Tensor]:
    """Examples to learn from, shuffled, and those to watch, of other shoppers.

    Of each shopper the same is decided at every moment, however many there are: what an earlier tower learned from
    must not be what the later one is watched by, or no refresh would ever look better than where it started.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(usable)
    whose = order if shoppers is None else shoppers[order]
    draw = np.random.default_rng(seed + 1).random(int(whose.max()) + 1)  # more shoppers only make it longer
    watch = draw[whose] < config.held_out
    if watch.all():
        watch[:] = False
    return torch.from_numpy(order[~watch]), torch.from_numpy(order[watch][:2000])


def _go_on_from(earlier: Taste, tower: TowerNetwork, items: TasteItems) -> None:
    with torch.no_grad():
        for name, value in tower.named_parameters():
            value.copy_(torch.from_numpy(getattr(earlier.tower, name)))
        items.turn.copy_(torch.from_numpy(earlier.tower.item_turn))
        items.own.weight.copy_(torch.from_numpy(earlier.own))


def _exported(tower: TowerNetwork, items: TasteItems, rows: NDArray[np.int32], targets: NDArray[np.int32]) -> Taste:
    """As arrays; an item without content that no example has is nowhere, not where it was drawn."""
    vectors = items.all().numpy()
    known = items.content.any(dim=1).numpy()
    known[rows] = True
    known[targets] = True
    vectors[~known] = 0
    return Taste(tower.export(items.turn), vectors, items.own.weight.detach().numpy().copy())


def _check(
    content: NDArray[np.float32],
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
        ("rows", rows, len(content)),
        ("targets", targets, len(content)),
        ("event_types", event_types, len(EVENT_TYPES)),
    ):
        if len(values) and (values.min() < 0 or values.max() >= end):
            raise SchemaError(f"train_user_tower: expected {name} in [0, {end}), came {values.min()} to {values.max()}")


def _fit(
    tower: TowerNetwork,
    items: TasteItems,
    histories: PaddedHistories,
    targets: Tensor,
    learn: Tensor,
    watch: Tensor,
    config: UserTowerConfig,
    progress: bool,
    again: bool,
) -> None:
    """Train ``tower`` and ``items`` in place, to their best epoch on the examples ``watch``."""
    popularity = (torch.bincount(targets[learn], minlength=len(items.content)) + 1.0) / (
        len(learn) + len(items.content)
    )
    dense = {f"tower.{name}": value for name, value in tower.named_parameters()} | {"turn": items.turn}
    start = {name: value.detach().clone() for name, value in dense.items()}
    optimizers = (
        torch.optim.AdamW(dense.values(), lr=config.lr, weight_decay=0.0),
        torch.optim.SparseAdam([items.own.weight], lr=config.lr),
    )
    batch = min(config.batch_size, len(learn))
    epochs = config.refresh_epochs if again else config.epochs
    per_epoch = max(1, min(len(learn), config.epoch_examples) // batch)
    lengths = (histories.rows >= 0).sum(dim=1)
    steps, step = epochs * per_epoch, 0
    best, best_epoch, best_state = _quality(tower, items, histories, targets, watch), -1, _state(tower, items)
    bar = tqdm(range(epochs), desc="user tower", unit="epoch", disable=not progress)
    for epoch in bar:
        total = 0.0
        for examples in _batches(learn, lengths, batch, config.epoch_examples):
            rate = config.lr * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss = _loss(tower, items, histories.cut(examples), targets[examples], popularity, config)
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
            with torch.no_grad():  # decay towards the start, which is the sensible mean, and not towards zero
                for name, value in dense.items():
                    value.lerp_(start[name], rate * config.weight_decay)
            total += loss.item()
            step += 1
        quality = _quality(tower, items, histories, targets, watch)
        bar.set_postfix(loss=f"{total / per_epoch:.3f}", held_out_mrr=f"{quality:.4f}")
        if quality > best or not len(watch):
            best, best_epoch, best_state = quality, epoch, _state(tower, items)
        elif epoch - best_epoch >= config.patience:
            break
    for module, state in zip((tower, items), best_state):
        module.load_state_dict(state)


def _batches(learn: Tensor, lengths: Tensor, batch: int, most: int) -> list[Tensor]:
    """An epoch's batches, in random order: at most ``most`` examples, drawn anew, those of like length together.

    A batch is as wide as its longest history; mixed, nearly all of it would be padding.
    """
    drawn = learn[torch.randperm(len(learn))][:most]
    whole = drawn[: max(1, len(drawn) // batch) * batch]
    pools = torch.split(whole, 16 * batch)
    alike = torch.cat([pool[torch.argsort(lengths[pool], stable=True)] for pool in pools])
    batches = [part for part in torch.split(alike, batch) if len(part) == min(batch, len(alike))]
    return [batches[number] for number in torch.randperm(len(batches)).tolist()]


def _state(*modules: nn.Module) -> list[dict[str, Tensor]]:
    return [{name: value.detach().clone() for name, value in module.state_dict().items()} for module in modules]


def _loss(
    tower: TowerNetwork,
    items: TasteItems,
    histories: PaddedHistories,
    targets: Tensor,
    popularity: Tensor,
    config: UserTowerConfig,
) -> Tensor:
    """Cross-entropy of the ``targets`` [b] after their ``histories``; each item that takes part is looked up once."""
    n_items, n_past = len(popularity), int((histories.rows >= 0).sum())
    sampled = n_items > config.full_softmax_items
    drawn = torch.multinomial(popularity, config.sampled_items, replacement=True) if sampled else torch.arange(n_items)
    some, place = torch.unique(torch.cat([histories.rows[histories.rows >= 0], targets, drawn]), return_inverse=True)
    vectors = items(some, config.item_dropout)
    past, own, others = place.split([n_past, len(targets), len(drawn)])
    users = histories.vectors(tower, lambda _: vectors[past], config.dropout)
    answers = vectors[own]  # [b, d]
    nearest = torch.einsum("bkd,bd->bk", users, answers).argmax(dim=1)
    user = users[torch.arange(len(users)), nearest]  # [b, d]
    scale = tower.log_scale.exp().clamp(max=100.0)
    lift = config.popularity_weight * popularity.log()
    logits = user @ vectors[others].T * scale + lift[drawn]
    if not sampled:
        return F.cross_entropy(logits, targets)
    logits = logits - (math.log(config.sampled_items) + popularity[drawn].log())  # log of how often each is drawn
    logits = logits.masked_fill(drawn.unsqueeze(0) == targets.unsqueeze(1), -math.inf)
    right = (user * answers).sum(dim=1) * scale + lift[targets]
    return F.cross_entropy(torch.cat([right.unsqueeze(1), logits], dim=1), torch.zeros(len(right), dtype=torch.long))


@torch.no_grad()
def _quality(
    tower: TowerNetwork, items: TasteItems, histories: PaddedHistories, targets: Tensor, examples: Tensor
) -> float:
    """Mean reciprocal rank of the target over the whole catalogue, by its nearest interest; ties count against it."""
    reciprocal, catalogue = [], items.all()
    together = max(1, min(256, AT_ONCE // (len(catalogue) * tower.query.shape[1])))
    for some in torch.split(examples, together) if len(examples) else ():
        similarity = (histories.cut(some).vectors(tower, lambda rows: catalogue[rows]) @ catalogue.T).amax(dim=1)
        own = similarity.gather(1, targets[some].unsqueeze(1))
        reciprocal.append(1.0 / (similarity >= own).sum(dim=1))
    return float(torch.cat(reciprocal).mean()) if reciprocal else math.nan
