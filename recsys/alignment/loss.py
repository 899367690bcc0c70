"""The alignment objectives: arithmetic on tensors that knows nothing of files, items or epochs."""

import torch
from torch import Tensor
from torch.nn import functional as F


def _as_logits(similarity: Tensor, scale: Tensor, same: Tensor | None) -> Tensor:
    """Scaled similarities with the false negatives (``same``, off the diagonal) out of the running."""
    logits = similarity * scale
    if same is None:
        return logits
    diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return logits.masked_fill(same & ~diagonal, float("-inf"))


def info_nce(left: Tensor, right: Tensor, logit_scale: Tensor, same: Tensor | None = None) -> Tensor:
    """Symmetric contrastive loss over in-batch negatives (InfoNCE, CLIP's loss, multiple negatives ranking loss).

    Row i of both inputs is the same item and every other row is a negative, unless ``same`` says that it is not.

    Args:
        left: unit-norm embeddings, float32 [batch, dim].
        right: unit-norm embeddings, float32 [batch, dim].
        logit_scale: inverse temperature 1/τ, positive scalar; CLIP starts at 1/0.07.
        same: bool [batch, batch], symmetric: true where two rows may not count as each other's negatives, such as two
            items with one and the same text. The diagonal is ignored.

    Returns:
        Scalar, nats: the mean of the left→right and right→left cross-entropies.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
    """
    logits = _as_logits(left @ right.T, logit_scale, same)  # [batch, batch]
    answer = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, answer) + F.cross_entropy(logits.T, answer)) / 2


def siglip(left: Tensor, right: Tensor, logit_scale: Tensor, logit_bias: Tensor, same: Tensor | None = None) -> Tensor:
    """Pairwise sigmoid loss: every one of the batch² pairs is a yes-or-no question of its own.

    Args:
        left: unit-norm embeddings, float32 [batch, dim].
        right: unit-norm embeddings, float32 [batch, dim].
        logit_scale: inverse temperature, positive scalar; SigLIP starts at 10.
        logit_bias: scalar; SigLIP starts at −10, so that the many negatives do not dominate the first steps.
        same: as in :func:`info_nce`.

    Returns:
        Scalar, nats a row: the sum over all pairs divided by the batch size.

    Source: Zhai et al. 2023, arXiv:2303.15343, algorithm 1.
    """
    logits = left @ right.T * logit_scale + logit_bias  # [batch, batch]
    sign = 2 * torch.eye(len(logits), device=logits.device) - 1
    each = -F.logsigmoid(sign * logits)
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
