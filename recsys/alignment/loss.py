"""The alignment objectives: arithmetic on tensors that knows nothing of files, items or epochs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _as_logits(similarity: Tensor, scale: Tensor, same: Tensor | None) -> Tensor:
    """Scaled similarities with the false negatives (``same``, off the diagonal) out of the running."""
    logits = similarity * scale
    if same is None:
        return logits
    diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return logits.masked_fill(same & ~diagonal, float("-inf"))


def _log_hardness(logits: Tensor, hardness: float) -> Tensor:
    """Log weights of the negatives, of mean weight 1 in each row: the nearer, the more it counts; 0 on the diagonal.

    Source: Robinson et al. 2021, "Contrastive learning with hard negative samples", arXiv:2010.04592, eq. 4.
    """
    diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    sharp = (logits.detach() * hardness).masked_fill(diagonal, float("-inf"))
    counted = torch.isfinite(sharp).sum(dim=1, keepdim=True).clamp_min(1)
    log_weights = sharp - torch.logsumexp(sharp, dim=1, keepdim=True) + counted.log()
    return torch.where(torch.isfinite(sharp), log_weights, 0.0)


def info_nce(
    left: Tensor, right: Tensor, logit_scale: Tensor, same: Tensor | None = None, hardness: float = 0.0
) -> Tensor:
    """Symmetric contrastive loss over in-batch negatives (InfoNCE, CLIP's loss, multiple negatives ranking loss).

    Row i of both inputs is the same item and every other row is a negative, unless ``same`` says that it is not.

    Args:
        left: unit-norm embeddings, float32 [batch, dim].
        right: unit-norm embeddings, float32 [batch, dim].
        logit_scale: inverse temperature 1/τ, positive scalar; CLIP starts at 1/0.07.
        same: bool [batch, batch], symmetric: true where two rows may not count as each other's negatives, such as two
            items with one and the same text. The diagonal is ignored.
        hardness: 0 weighs all negatives alike; at β each counts in proportion to exp(β · its logit), so the ones that
            are hard to tell from the answer decide.

    Returns:
        Scalar, nats: the mean of the left→right and right→left cross-entropies.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
    """
    logits = _as_logits(left @ right.T, logit_scale, same)  # [batch, batch]
    answer = torch.arange(len(logits), device=logits.device)
    back = logits.T
    if hardness:
        logits, back = logits + _log_hardness(logits, hardness), back + _log_hardness(back, hardness)
    return (F.cross_entropy(logits, answer) + F.cross_entropy(back, answer)) / 2


def siglip(
    left: Tensor,
    right: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    same: Tensor | None = None,
    hardness: float = 0.0,
) -> Tensor:
    """Pairwise sigmoid loss: every one of the batch² pairs is a yes-or-no question of its own.

    Args:
        left: unit-norm embeddings, float32 [batch, dim].
        right: unit-norm embeddings, float32 [batch, dim].
        logit_scale: inverse temperature, positive scalar; SigLIP starts at 10.
        logit_bias: scalar; SigLIP starts at −10, so that the many negatives do not dominate the first steps.
        same, hardness: as in :func:`info_nce`.

    Returns:
        Scalar, nats a row: the sum over all pairs divided by the batch size.

    Source: Zhai et al. 2023, arXiv:2303.15343, algorithm 1.
    """
    logits = left @ right.T * logit_scale + logit_bias  # [batch, batch]
    sign = 2 * torch.eye(len(logits), device=logits.device) - 1
    each = -F.logsigmoid(sign * logits)
    if hardness:
        each = each * _log_hardness(logits, hardness).exp()
    if same is not None:
        each = each.masked_fill(same & (sign < 0), 0.0)
    return each.sum() / len(logits)


def behaviour_loss(
    anchor: Tensor, positive: Tensor, logit_scale: Tensor, log_q: Tensor, same: Tensor | None = None
) -> Tensor:
    """Items bought together attract; in-batch negatives, corrected for how often the sampler draws each of them.

    Without the correction a popular item is a negative in most batches and is pushed away from everything. Subtracting
    the logarithm of its sampling probability makes the batch's softmax an estimate of the one over the whole catalogue.

    Args:
        anchor: unit-norm embeddings of the first item of each pair, float32 [batch, dim].
        positive: unit-norm embeddings of the second, float32 [batch, dim].
        logit_scale: inverse temperature, positive scalar.
        log_q: log of the probability that the sampler draws ``positive``'s item, float32 [batch], nats.
        same: bool [batch, batch]: true at [i, j] where the positive j is no negative for the anchor i: the same item as
            positive i or as the anchor itself. The diagonal is ignored.

    Returns:
        Scalar, nats: the mean cross-entropy over the anchors.

    Source: Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations", eq. 3.
    """
    logits = _as_logits(anchor @ positive.T, logit_scale, same) - log_q  # [batch, batch], column j is positive j
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def neighbour_loss(whole: Tensor, part: Tensor, logit_scale: float) -> Tensor:
    """A part of each item must lie as near to every other item as the whole of it does.

    The contrastive loss between an item and a part of it asks only that the part finds its own item; this asks that it
    finds the item's neighbours too. Both are taught: the whole also moves to where a part can follow.

    Args:
        whole: unit-norm embeddings of the items, float32 [batch, dim].
        part: the same items with something missing, unit norm, float32 [batch, dim].
        logit_scale: inverse temperature: the larger, the fewer neighbours count.

    Returns:
        Scalar, nats: the Kullback–Leibler divergence of softmax(scale · part·wholeᵀ) from softmax(scale · whole·wholeᵀ)
        over the other items of the batch, mean over the batch.

    Source: Fang et al. 2021, "SEED: self-supervised distillation for visual representation", arXiv:2101.04731, with the
    teacher in the same batch and trained along.
    """
    itself = torch.eye(len(whole), dtype=torch.bool, device=whole.device)
    taught, wanted = ((side @ whole.T * logit_scale).masked_fill(itself, -1e4) for side in (part, whole))
    return F.kl_div(F.log_softmax(taught, 1), F.log_softmax(wanted, 1), log_target=True, reduction="batchmean")


def regression_loss(guess: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of one modality's vectors against another's, which stay as they are.

    Args:
        guess, target: float32 [batch, d]; no gradient flows into ``target``.

    Returns:
        Scalar: the squared distance, mean over the batch.

    Source: Frome et al. 2013, "DeViSE", section 4, compares ranking losses with it.
    """
    return (guess - target.detach()).square().sum(dim=1).mean()


def swapped_assignment(left: Tensor, right: Tensor, prototypes: Tensor, logit_scale: Tensor) -> Tensor:
    """Joint k-means with the answers swapped: each modality must name the cluster that the other one is in.

    Items are assigned to prototypes that both modalities share, softly and so that all prototypes get an equal share of
    the batch (three rounds of Sinkhorn and Knopp); without that, one cluster for everything would be the best answer.

    Args:
        left, right: unit-norm embeddings, float32 [batch, dim]; row i of both is the same item.
        prototypes: unit norm, float32 [clusters, dim].
        logit_scale: inverse temperature, positive scalar.

    Returns:
        Scalar, nats: the mean of the two cross-entropies.

    Source: Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster assignments",
    arXiv:2006.09882, eq. 2–5; between modalities as in Alwassel et al. 2020, arXiv:1911.12667.
    """
    scores = left @ prototypes.T, right @ prototypes.T  # [batch, clusters] each
    wanted = [_equal_shares(score.detach()) for score in scores]
    logs = [F.log_softmax(score * logit_scale, dim=1) for score in scores]
    return -((wanted[1] * logs[0]).sum(dim=1).mean() + (wanted[0] * logs[1]).sum(dim=1).mean()) / 2


def _equal_shares(scores: Tensor, sharpness: float = 20.0, rounds: int = 3) -> Tensor:
    """Scores → assignments: rows sum to 1, columns to an equal share of the rows. [batch, clusters]."""
    shares = torch.exp((scores - scores.amax()) * sharpness)
    for _ in range(rounds):
        shares = shares / shares.sum(dim=0, keepdim=True).clamp_min(1e-12)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return shares


class _Reversed(torch.autograd.Function):
    """The identity forwards; backwards the gradient changes sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """[...] → the same."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The gradient, negated."""
        return -gradient


def adversarial_loss(tokens: Tensor, present: Tensor, critic: nn.Module) -> Tensor:
    """A critic guesses from which modality a vector comes; the heads learn to leave it no clue.

    One loss for both: the critic descends it, and a reversed gradient makes the heads ascend it.

    Args:
        tokens: unit-norm embeddings, float32 [batch, m, dim].
        present: bool [batch, m].
        critic: float32 [n, dim] → logits [n, m].

    Returns:
        Scalar, nats: the critic's cross-entropy; ln m where it can only guess.

    Source: Wang et al. 2017, "Adversarial cross-modal retrieval" (the term); Ganin and Lempitsky 2015,
    arXiv:1409.7495 (the reversed gradient).
    """
    which = torch.arange(tokens.shape[1], device=tokens.device).expand(present.shape)[present]
    seen: Tensor = _Reversed.apply(tokens[present])  # type: ignore[no-untyped-call]
    return F.cross_entropy(critic(seen), which)
