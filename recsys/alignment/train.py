"""Training the aligner: encodings and purchases in, one item space out."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from recsys.alignment.closed_form import SHARPNESS, fit_cca, fit_closed_form
from recsys.alignment.concepts import ConceptReader, Concepts
from recsys.alignment.config import CLOSED_FORM, CONTRASTIVE, AlignmentConfig
from recsys.alignment.ensemble import Ensemble, Member, Shape
from recsys.alignment.examples import PRINCIPAL_ROWS, Examples, prepare_examples
from recsys.alignment.modality import Modality
from recsys.alignment.model import Aligner, torch_threads
from recsys.alignment.objective import Objective
from recsys.errors import ConfigError, SchemaError

__all__ = ["AlignmentConfig", "train_alignment"]

LINEAR_WEIGHTS = (1.0, 2.0, 4.0)  # what the linear member may count, beside 1 of each other


def train_alignment(
    modalities: Mapping[str, Modality],
    pairs: NDArray[np.int32],
    config: AlignmentConfig,
    seed: int,
    threads: int,
    progress: bool = True,
    held_out: NDArray[np.bool_] | None = None,
    concepts: Mapping[str, Concepts] | None = None,
) -> Aligner:
    """Learn one unit-norm item space from what items look like, what is said of them, and what is bought together.

    ``config.method`` says how. Per batch of items, each member of the ensemble minimises: that method's loss between
    every two modalities, over the items that have both (:mod:`recsys.alignment.loss`; items with equal vectors are not
    each other's negatives); plus ``fusion_weight`` × InfoNCE between the fused item and itself with modalities hidden,
    so that any subset of them lands near the whole; plus ``neighbour_weight`` × the loss that gives what is left the
    neighbours of the whole; plus ``behaviour_weight`` × the popularity-corrected loss between the fused item and one
    drawn from those bought with it, for half of the batch; plus ``adversarial_weight`` × the loss of a critic that
    tells modalities apart, against the heads. Where there is one modality only, the second term hides input components
    instead (SimCSE), and the third is left out. The best epoch by held-out mean reciprocal rank is kept.

    Beside the members of a contrastive method stands one of linear maps, computed by canonical correlation analysis: it
    needs fewer items to learn from than they do, and errs elsewhere. What it counts is chosen on the held-out items,
    and every second member starts from its maps.

    "cca", "similarity" and "conse" are computed (:mod:`recsys.alignment.closed_form`): one linear map a modality.

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
        concepts: for the method "conse": modality → what names its vectors' classes.

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
        ensemble = Ensemble(_shape(modalities, config, concepts or {}), config.temperature)
        if config.method in CLOSED_FORM:
            history = _compute(ensemble, modalities, pairs, config, seed, held_out, concepts or {})
        else:
            history = _train(ensemble, modalities, pairs, config, seed, threads, progress, held_out)
        aligner = Aligner(ensemble, history)
        aligner.know_questions(modalities, _usable(modalities, held_out), seed)
    return aligner


def _train(
    ensemble: Ensemble,
    modalities: Mapping[str, Modality],
    pairs: NDArray[np.int32],
    config: AlignmentConfig,
    seed: int,
    threads: int,
    progress: bool,
    held_out: NDArray[np.bool_] | None,
) -> list[dict[str, float]]:
    """Train the members beside each other and compress what they say; returns what happened in each epoch."""
    examples = prepare_examples(modalities, pairs, config, ensemble, np.random.default_rng(seed), held_out)
    if ensemble.shape.linear:
        _start_linear(ensemble, examples)
    epochs = _n_epochs(config, len(examples.fit_rows))
    with (
        tqdm(total=config.members * epochs, desc="align", unit="epoch", disable=not progress) as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        seeds = torch.randint(2**62, (config.members,)).tolist()
        jobs = []
        for number, (member, member_seed) in enumerate(zip(ensemble.each_member(), seeds)):  # without the linear one
            objective = Objective(member, config)  # drawn here: the workers share torch's global generator
            jobs.append(pool.submit(_train_member, member, objective, number, member_seed, examples, epochs, bar))
        history = [epoch for job in jobs for epoch in job.result()]
    with torch.inference_mode():
        _compress(ensemble, examples)
    return history


def _start_linear(ensemble: Ensemble, examples: Examples) -> None:
    """Fit the linear member, and start every second one of the others from it; the rest keep the ensemble varied."""
    *others, linear = ensemble.each_member()
    fit_cca(linear, examples, ensemble.shape.linear, partial(_quality, linear, examples))
    for member in others[1::2]:
        for name in member.heads:
            member.head(name).start_from(linear.head(name))


def _compress(ensemble: Ensemble, examples: Examples) -> None:
    """Compress what the members say, the linear one, where there is one, counting what serves the held-out items."""
    sides = _all_outputs(ensemble, examples)

    def quality(weight: float) -> float:
        ensemble.fit_compression(sides, weight)
        return _quality(ensemble, examples)

    ensemble.fit_compression(sides, max(LINEAR_WEIGHTS, key=quality) if ensemble.shape.linear else 1.0)


def _shape(modalities: Mapping[str, Modality], config: AlignmentConfig, concepts: Mapping[str, Concepts]) -> Shape:
    if config.method == "conse" and not set(concepts) & set(modalities):
        raise ConfigError("alignment.method 'conse': expected an image encoder with a classifier, and pictures")
    computed = config.method in CLOSED_FORM
    target = "text" if "text" in modalities else list(modalities)[-1]
    return Shape(
        modalities={name: modality.vectors.shape[1] for name, modality in modalities.items()},
        dim=config.dim,
        members=1 if computed else config.members,
        hidden=0 if computed else config.hidden,
        components=config.components,
        fusion="mean" if computed else config.fusion,
        dropout=config.dropout,
        noise=config.noise,
        pinned=target if config.method == "regression" and len(modalities) > 1 else "",
        linear=config.linear if config.method in CONTRASTIVE and len(modalities) > 1 else 0,
        concepts={
            name: each.names.shape for name, each in concepts.items() if config.method == "conse" and name in modalities
        },
    )


def _compute(
    ensemble: Ensemble,
    modalities: Mapping[str, Modality],
    pairs: NDArray[np.int32],
    config: AlignmentConfig,
    seed: int,
    held_out: NDArray[np.bool_] | None,
    concepts: Mapping[str, Concepts],
) -> list[dict[str, float]]:
    """Fit an aligner without training; where a picture's classes are named, as sharply as serves the held-out items."""
    member = ensemble.each_member()[0]
    readers = [reader for reader in ensemble.concepts.values() if isinstance(reader, ConceptReader)]
    for name in ensemble.shape.concepts:
        ensemble.concept_reader(name).fill(concepts[name])
    best, best_state = -math.inf, {}
    for sharpness in SHARPNESS if readers else SHARPNESS[:1]:
        for reader in readers:
            reader.sharpness.fill_(sharpness)
        examples = prepare_examples(modalities, pairs, config, ensemble, np.random.default_rng(seed), held_out)
        with torch.inference_mode():
            fit_closed_form(ensemble, examples, config, partial(_quality, member, examples))
            ensemble.fit_compression(_all_outputs(ensemble, examples))
            quality = _quality(member, examples)
        if quality > best or math.isnan(quality):
            best = quality
            best_state = {name: tensor.clone() for name, tensor in ensemble.state_dict().items()}
    ensemble.load_state_dict(best_state)
    return [{"member": 0, "epoch": 0, "loss": math.nan, "quality": best}]


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
    if (usable := len(_usable(modalities, held_out))) < 2:
        raise SchemaError(f"train_alignment: expected at least 2 items with any modality, came {usable}")


def _usable(modalities: Mapping[str, Modality], held_out: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """Rows that have any modality and are not held out by the caller."""
    usable = np.stack([modality.present for modality in modalities.values()]).any(axis=0)
    return np.flatnonzero(usable if held_out is None else usable & ~held_out)


def _n_epochs(config: AlignmentConfig, n_items: int) -> int:
    steps = max(1, n_items // config.batch_size)
    return max(1, min(config.epochs, config.max_steps // steps))


def _train_member(
    member: Member,
    objective: Objective,
    number: int,
    seed: int,
    examples: Examples,
    epochs: int,
    bar: "tqdm[None]",
) -> list[dict[str, float]]:
    """Train one member in place, to its best epoch by held-out quality; returns what happened in each epoch."""
    torch.set_num_threads(1)  # this worker's own setting
    config = objective.config
    generator = torch.Generator().manual_seed(seed)
    rows = examples.fit_rows
    batch = min(config.batch_size, len(rows))
    step = 0
    free = [member.log_scale, member.logit_bias]
    learned = [parameter for parameter in member.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in learned if all(parameter is not other for other in free)]
    free += list(objective.parameters())
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
            loss = objective.loss(member, examples, shuffled[start : start + batch], generator)
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


def _quality(space: Member | Ensemble, examples: Examples) -> float:
    """Held-out mean reciprocal rank: between modalities, and of held-out items for what they were bought with.

    Each is taken among the held-out items only, then averaged over the objectives there are; NaN where there are none.
    """
    rows = examples.watch_rows
    scores = []
    with torch.inference_mode():
        tokens = space.tokens(examples.batch(rows))
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
            watched = space.embed(examples.batch(rows), present)
            known = space.embed(examples.batch(anchors), examples.present[anchors])
            similarity = known @ watched.T
            similarity[anchors.unsqueeze(1) == rows.unsqueeze(0)] = -math.inf  # an anchor is not its own answer
            scores.append(_reciprocal_rank(similarity, torch.searchsorted(rows, answers.contiguous())))
    return sum(scores) / len(scores) if scores else math.nan


def _reciprocal_rank(similarity: Tensor, answer: Tensor) -> float:
    """Mean of 1/rank of column ``answer[i]`` in row i; ties count against it."""
    at_answer = similarity.gather(1, answer.unsqueeze(1))
    return float((1.0 / (similarity >= at_answer).sum(dim=1).clamp_min(1)).mean())


def _all_outputs(ensemble: Ensemble, examples: Examples) -> Tensor:
    """Everything the compression must keep: each modality alone where present, and all fused, of the fit items."""
    rows = examples.fit_rows[:: max(1, len(examples.fit_rows) // PRINCIPAL_ROWS)]
    sides = [ensemble.fused_sides(examples.batch(rows), examples.present[rows])]
    for position, name in enumerate(examples.inputs):
        there = rows[examples.present[rows, position]]
        sides.append(ensemble.modality_sides(name, examples.inputs[name][there]))
    return torch.cat(sides)
