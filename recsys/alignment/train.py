"""Training the aligner: encodings and purchases in, one item space out."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from recsys.alignment.fusion import FUSIONS
from recsys.alignment.loss import behaviour_loss, info_nce, siglip
from recsys.alignment.modality import Modality
from recsys.alignment.model import Aligner, Ensemble, Member, Shape, torch_threads
from recsys.errors import ConfigError, SchemaError

LOSSES = ("info_nce", "siglip")
MAX_SCALE = 100.0  # CLIP's ceiling on 1/τ
MAX_HELD_OUT = 1000  # items; enough to tell one epoch from the next
CROSS, VIEWS, BEHAVIOUR = range(3)  # positions in Member.log_scale


@dataclass(frozen=True)
class AlignmentConfig:
    """What alignment does; the defaults were chosen on a validation split of real products."""

    dim: int = 64  # of the item space
    loss: str = "info_nce"  # between modalities: one of LOSSES
    fusion: str = "gated"  # a key of FUSIONS
    members: int = 4  # of the ensemble; time grows with it, the size of the item vectors does not
    hidden: int = 768  # width of a head's hidden layers
    components: int = 512  # principal components of a modality that its head reads, at most
    dropout: float = 0.1  # of those components
    noise: float = 0.2  # standard deviation added to each of them in training; their mean square is 1
    modality_dropout: float = 0.5  # chance that a modality is hidden from the fusion in training
    fusion_weight: float = 0.2  # of the loss between an item and itself with modalities hidden
    behaviour_weight: float = 0.3  # of the loss between items bought together; 0 leaves purchases out
    temperature: float = 0.1  # τ to start from; learned
    lr: float = 2e-3  # warmed up over the first steps, then held
    weight_decay: float = 0.5
    epochs: int = 25  # at most; one epoch sees every item once
    max_steps: int = 160  # a member, at most: a large catalogue needs fewer epochs
    batch_size: int = 1024
    patience: int = 5  # epochs without a better held-out quality before a member stops
    held_out: float = 0.1  # share of the items that early stopping watches, at most MAX_HELD_OUT of them

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ConfigError(f"alignment.loss: expected one of {LOSSES}, came {self.loss!r}")
        if self.fusion not in FUSIONS:
            raise ConfigError(f"alignment.fusion: expected one of {tuple(FUSIONS)}, came {self.fusion!r}")
        for name in ("dim", "members", "hidden", "components", "epochs", "max_steps", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"alignment.{name}: expected at least 1, came {getattr(self, name)}")
        if self.batch_size < 2:
            raise ConfigError(f"alignment.batch_size: expected at least 2, came {self.batch_size}")
        for name in ("dropout", "modality_dropout", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"alignment.{name}: expected a share in [0, 1), came {getattr(self, name)}")
        if not self.noise >= 0:
            raise ConfigError(f"alignment.noise: expected 0 or more, came {self.noise}")
        for name in ("temperature", "lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"alignment.{name}: expected more than 0, came {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class _Examples:
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
        return {name: components[rows] for name, components in self.inputs.items()}


def train_alignment(
    modalities: Mapping[str, Modality],
    pairs: NDArray[np.int32],
    config: AlignmentConfig,
    seed: int,
    threads: int,
    progress: bool = True,
    held_out: NDArray[np.bool_] | None = None,
) -> Aligner:
    """Learn one unit-norm item space from what items look like, what is said of them, and what is bought together.

    Per batch of items, each member of the ensemble minimises: the contrastive loss between every two modalities, over
    the items that have both (:func:`~recsys.alignment.loss.info_nce` or siglip; items with equal vectors are not each
    other's negatives); plus ``fusion_weight`` × InfoNCE between the fused item and itself with modalities hidden, so
    that any subset of them lands near the whole; plus ``behaviour_weight`` × the popularity-corrected loss between the
    fused item and one drawn from those bought with it, for half of the batch. Where there is one modality only, the
    second term hides input components instead (SimCSE). The best epoch by held-out mean reciprocal rank is kept.

    Members train beside each other, each on one thread with random numbers of its own: the same input, seed and
    processor type give the same bits whatever ``threads`` is. Where the processor multiplies bfloat16 in hardware, the
    heads are trained in it.

    Args:
        modalities: name → :class:`Modality`, all of one length; each is optional per item.
        pairs: int32 [p, 2], rows of items bought together; the order inside a pair and repetition count as given. Empty
            [0, 2] trains without behaviour.
        config: see :class:`AlignmentConfig`.
        seed: of everything random here.
        threads: how many members train at a time.
        progress: show a progress bar on standard error.
        held_out: bool [n], items kept out of training and watched for early stopping; by default a random
            ``config.held_out`` share.

    Returns:
        The trained :class:`Aligner`.

    Raises:
        SchemaError: no modality, lengths that differ, pairs out of range, or fewer than two items to learn from.

    Source: Radford et al. 2021 (arXiv:2103.00020) for the cross-modal term, Yi et al. 2019 for the behaviour term, Gao
    et al. 2021 (arXiv:2104.08821) for the views.
    """
    _check(modalities, pairs, held_out)
    with torch_threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = Shape(
            modalities={name: modality.vectors.shape[1] for name, modality in modalities.items()},
            dim=config.dim,
            members=config.members,
            hidden=config.hidden,
            components=config.components,
            fusion=config.fusion,
            dropout=config.dropout,
            noise=config.noise,
        )
        ensemble = Ensemble(shape, config.temperature)
        examples = _prepare(modalities, pairs, config, ensemble, np.random.default_rng(seed), held_out)
        epochs = _n_epochs(config, len(examples.fit_rows))
        with (
            tqdm(total=config.members * epochs, desc="align", unit="epoch", disable=not progress) as bar,
            ThreadPoolExecutor(threads) as pool,
        ):
            seeds = torch.randint(2**62, (config.members,)).tolist()
            jobs = [
                pool.submit(_train_member, member, number, member_seed, examples, config, epochs, bar)
                for number, (member, member_seed) in enumerate(zip(ensemble.each_member(), seeds))
            ]
            history = [epoch for job in jobs for epoch in job.result()]
        with torch.inference_mode():
            ensemble.fit_compression(_all_outputs(ensemble, examples))
    return Aligner(ensemble, history)


def _check(modalities: Mapping[str, Modality], pairs: NDArray[np.int32], held_out: NDArray[np.bool_] | None) -> None:
    if not modalities:
        raise SchemaError("train_alignment: expected at least one modality, came none")
    lengths = {name: len(modality) for name, modality in modalities.items()}
    if len(set(lengths.values())) != 1:
        raise SchemaError(f"train_alignment: expected modalities of one length, came {lengths}")
    n = next(iter(lengths.values()))
    if pairs.ndim != 2 or pairs.shape[1] != 2 or (len(pairs) and (pairs.min() < 0 or pairs.max() >= n)):
        raise SchemaError(f"train_alignment: expected pairs [p, 2] of rows below {n}, came shape {pairs.shape}")
    if held_out is not None and held_out.shape != (n,):
        raise SchemaError(f"train_alignment: expected held_out [{n}], came {held_out.shape}")
    usable = np.asarray(np.stack([modality.present for modality in modalities.values()]).any(axis=0))
    if held_out is not None:
        usable &= ~held_out
    if usable.sum() < 2:
        raise SchemaError(f"train_alignment: expected at least 2 items with any modality, came {usable.sum()}")


def _n_epochs(config: AlignmentConfig, n_items: int) -> int:
    steps = max(1, n_items // config.batch_size)
    return max(1, min(config.epochs, config.max_steps // steps))


def _equal_rows(modality: Modality) -> NDArray[np.int64]:
    """The same number for rows with the same vector; absent rows are like no other."""
    numbers: dict[bytes, int] = {}
    equal = np.empty(len(modality), np.int64)
    for row, present in enumerate(modality.present):
        key = modality.vectors[row].tobytes() if present else b"absent %d" % row
        equal[row] = numbers.setdefault(key, len(numbers))
    return equal


def _prepare(
    modalities: Mapping[str, Modality],
    pairs: NDArray[np.int32],
    config: AlignmentConfig,
    ensemble: Ensemble,
    rng: np.random.Generator,
    held_out: NDArray[np.bool_] | None,
) -> _Examples:
    """Choose what is held out, fit the rotations to the rest, and lay everything out as tensors."""
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
        rotation = ensemble.rotations[name]
        learn_from = fit & modality.present if (fit & modality.present).any() else modality.present
        if modality.present.any():
            rotation.fit(torch.from_numpy(modality.vectors[learn_from]))  # type: ignore[operator]
        clean = np.where(modality.present[:, None], modality.vectors, np.float32(0))
        inputs[name] = rotation(torch.from_numpy(clean)) * torch.from_numpy(modality.present).unsqueeze(1)

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
    return _Examples(
        inputs=inputs,
        present=torch.from_numpy(present),
        same=torch.from_numpy(np.stack([_equal_rows(modality) for modality in modalities.values()], axis=1)),
        fit_rows=torch.from_numpy(np.flatnonzero(fit)),
        watch_rows=torch.from_numpy(np.flatnonzero(held_out & usable)),
        starts=torch.from_numpy(starts),
        partners=torch.from_numpy(np.ascontiguousarray(learn[:, 1])),
        log_q=torch.from_numpy(np.log(np.maximum(q, 1e-12)).astype(np.float32)),
        watch_pairs=torch.from_numpy(np.ascontiguousarray(watch)),
    )


def _train_member(
    member: Member,
    number: int,
    seed: int,
    examples: _Examples,
    config: AlignmentConfig,
    epochs: int,
    bar: "tqdm[None]",
) -> list[dict[str, float]]:
    """Train one member in place, to its best epoch by held-out quality; returns what happened in each epoch."""
    torch.set_num_threads(1)  # this worker's own setting
    generator = torch.Generator().manual_seed(seed)
    rows = examples.fit_rows
    batch = min(config.batch_size, len(rows))
    step = 0
    free = [member.log_scale, member.logit_bias]
    weights = [parameter for parameter in member.parameters() if all(parameter is not other for other in free)]
    groups = [{"params": weights, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=True)
    best, best_epoch, best_state = -math.inf, 0, {}
    history = []
    for epoch in range(epochs):
        total = torch.zeros(())
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        for start in range(0, len(rows) - batch + 1, batch):  # without the ragged last batch: it would weigh too much
            for group in optimizer.param_groups:
                group["lr"] = config.lr * min(1.0, (step + 1) / 20)
            loss = _loss(member, examples, shuffled[start : start + batch], config, generator)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach()
            step += 1
        quality = _quality(member, examples)
        mean_loss = total.item() / (len(rows) // batch)
        history.append({"member": number, "epoch": epoch, "loss": mean_loss, "quality": quality})
        bar.update()
        bar.set_postfix(member=number, loss=f"{mean_loss:.3f}", held_out_mrr=f"{quality:.3f}")
        if quality > best or math.isnan(quality):
            best, best_epoch = quality, epoch
            best_state = {name: tensor.clone() for name, tensor in member.state_dict().items()}
        elif epoch - best_epoch >= config.patience:
            bar.update(epochs - epoch - 1)
            break
    member.load_state_dict(best_state)
    return history


def _loss(
    member: Member, examples: _Examples, rows: Tensor, config: AlignmentConfig, generator: torch.Generator
) -> Tensor:
    """The three terms of one batch; see :func:`train_alignment`."""
    scale = member.log_scale.exp().clamp(max=MAX_SCALE)
    n = len(rows)
    # Half the batch is enough of purchases, and saves a quarter of the time.
    anchors, drawn = _draw_partners(examples, rows[: (n + 1) // 2] if config.behaviour_weight else rows[:0], generator)
    everything = torch.cat([rows, drawn])  # one pass through the heads for both
    inputs, present, same = examples.batch(everything), examples.present[everything], examples.same[rows]
    tokens = _tokens(member, inputs, generator)
    loss = _cross_modal(member, tokens[:n], present[:n], same, scale[CROSS], config)

    fused = member.fuse(tokens[:n], present[:n])
    alone = tokens.shape[1] == 1
    weight = 1.0 if alone and not len(drawn) else config.fusion_weight  # alone without purchases it is all there is
    if weight:
        again = _tokens(member, examples.batch(rows), generator) if alone else tokens[:n]
        view = member.fuse(again, _hide(present[:n], config.modality_dropout, generator))
        loss = loss + weight * info_nce(fused, view, scale[VIEWS], _not_negative(same, "all"))

    if len(drawn) > 1 and config.behaviour_weight:
        positive = member.fuse(tokens[n:], _hide(present[n:], config.modality_dropout / 2, generator))
        clash = (drawn.unsqueeze(0) == drawn.unsqueeze(1)) | (drawn.unsqueeze(0) == rows[anchors].unsqueeze(1))
        loss = loss + config.behaviour_weight * behaviour_loss(
            fused[anchors], positive, scale[BEHAVIOUR], examples.log_q[drawn], clash
        )
    return loss


def _draw_partners(examples: _Examples, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each of ``rows`` that was ever bought with something: its position, and one such item drawn evenly."""
    low, high = examples.starts[rows], examples.starts[rows + 1]
    anchors = (high > low).nonzero().squeeze(1)
    offset = (torch.rand(len(anchors), generator=generator) * (high - low)[anchors]).long()
    return anchors, examples.partners[low[anchors] + offset]


def _not_negative(same: Tensor, which: str) -> Tensor | None:
    """Which pairs of rows have equal vectors in "any" or "all" of the columns of ``same`` [batch, m]; None if none."""
    equal = [column.unsqueeze(0) == column.unsqueeze(1) for column in same.T if len(column.unique()) < len(column)]
    if which == "all":
        return torch.stack(equal).all(dim=0) if len(equal) == same.shape[1] else None
    return torch.stack(equal).any(dim=0) if equal else None


def _cross_modal(
    member: Member, tokens: Tensor, present: Tensor, same: Tensor, scale: Tensor, config: AlignmentConfig
) -> Tensor:
    """The mean over pairs of modalities of the contrastive loss, over the items that have both."""
    losses = []
    for left in range(tokens.shape[1]):
        for right in range(left + 1, tokens.shape[1]):
            both = (present[:, left] & present[:, right]).nonzero().squeeze(1)
            if len(both) < 2:
                continue
            a, b = tokens[both, left], tokens[both, right]
            not_negative = _not_negative(same[both][:, [left, right]], "any")
            losses.append(
                info_nce(a, b, scale, not_negative)
                if config.loss == "info_nce"
                else siglip(a, b, scale, member.logit_bias, not_negative)
            )
    return torch.stack(losses).mean() if losses else tokens.new_zeros(())


def _tokens(member: Member, inputs: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=_bfloat16_is_fast()):
        return member.tokens(inputs, generator)


def _bfloat16_is_fast() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported())


def _hide(present: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Hide each modality with this chance; a row that would lose all keeps what it had."""
    kept = present & (torch.rand(present.shape, generator=generator) >= chance)
    return torch.where(kept.any(dim=1, keepdim=True), kept, present)


def _quality(member: Member, examples: _Examples) -> float:
    """Held-out mean reciprocal rank: between modalities, and of held-out items for what they were bought with.

    Each is taken among the held-out items only, then averaged over the objectives there are; NaN where there are none.
    """
    rows = examples.watch_rows
    scores = []
    with torch.inference_mode():
        tokens = member.tokens(examples.batch(rows))
        present = examples.present[rows]
        for left in range(tokens.shape[1]):
            for right in range(left + 1, tokens.shape[1]):
                both = (present[:, left] & present[:, right]).nonzero().squeeze(1)
                if len(both) > 1:
                    similarity = tokens[both, left] @ tokens[both, right].T
                    answer = torch.arange(len(both))
                    scores += [_reciprocal_rank(similarity, answer), _reciprocal_rank(similarity.T, answer)]
        if len(examples.watch_pairs) > 1:
            anchors, answers = examples.watch_pairs.T
            watched = member.fuse(tokens, present)
            known = member.fuse(member.tokens(examples.batch(anchors)), examples.present[anchors])
            similarity = known @ watched.T
            similarity[anchors.unsqueeze(1) == rows.unsqueeze(0)] = -math.inf  # an anchor is not its own answer
            scores.append(_reciprocal_rank(similarity, torch.searchsorted(rows, answers.contiguous())))
    return sum(scores) / len(scores) if scores else math.nan


def _reciprocal_rank(similarity: Tensor, answer: Tensor) -> float:
    """Mean of 1/rank of column ``answer[i]`` in row i; ties count against it."""
    at_answer = similarity.gather(1, answer.unsqueeze(1))
    return float((1.0 / (similarity >= at_answer).sum(dim=1).clamp_min(1)).mean())


def _all_outputs(ensemble: Ensemble, examples: _Examples) -> Tensor:
    """Everything the compression must keep: each modality alone where present, and all fused, of the fit items."""
    rows = examples.fit_rows
    sides = [ensemble.fuse(examples.batch(rows), examples.present[rows])]
    for position, name in enumerate(examples.inputs):
        there = rows[examples.present[rows, position]]
        sides.append(ensemble.project(name, examples.inputs[name][there]))
    return F.normalize(torch.cat(sides), dim=1)
