"""What one batch of items teaches a member of the ensemble: the sum of the terms that a configuration asks for."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.alignment.config import AlignmentConfig
from recsys.alignment.ensemble import Member
from recsys.alignment.examples import Examples
from recsys.alignment.loss import (
    adversarial_loss,
    behaviour_loss,
    info_nce,
    neighbour_loss,
    regression_loss,
    siglip,
    swapped_assignment,
)

MAX_SCALE = 100.0  # CLIP's ceiling on 1/τ
NEIGHBOUR_SCALE = 20.0  # 1/τ: at 10 fewer of the ten nearest are kept, at 40 fewer right products are found first
CROSS, VIEWS, BEHAVIOUR = range(3)  # positions in Member.log_scale


class Objective(nn.Module):
    """The loss of a batch, and what it learns beside the member and leaves behind after training.

    Attributes:
        prototypes: of clusters, [prototypes, dim].
        critic: of the adversarial term.
    """

    def __init__(self, member: Member, config: AlignmentConfig) -> None:
        super().__init__()
        self.config = config
        n_modalities, dim = len(member.heads), config.dim
        if config.method == "clusters":
            self.prototypes = nn.Parameter(F.normalize(torch.randn(config.prototypes, dim), dim=1))
        if config.adversarial_weight:
            self.critic = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, n_modalities))

    def loss(self, member: Member, examples: Examples, rows: Tensor, generator: torch.Generator) -> Tensor:
        """See :func:`recsys.alignment.train.train_alignment`."""
        config = self.config
        scale = member.log_scale.exp().clamp(max=MAX_SCALE)
        n = len(rows)
        # Half the batch is enough of purchases, and saves a quarter of the time.
        some = rows[: (n + 1) // 2] if config.behaviour_weight else rows[:0]
        anchors, drawn = _draw_partners(examples, some, generator)
        everything = torch.cat([rows, drawn])  # one pass through the heads for both
        inputs, present, same = examples.batch(everything), examples.present[everything], examples.same[rows]
        tokens = _tokens(member, inputs, generator)
        loss = self._cross_modal(member, tokens[:n], present[:n], same, scale[CROSS])
        if config.adversarial_weight and tokens.shape[1] > 1:
            loss = loss + config.adversarial_weight * adversarial_loss(tokens[:n], present[:n], self.critic)

        fused = member.fuse(tokens[:n], present[:n])
        alone = tokens.shape[1] == 1
        weight = 1.0 if alone and not len(drawn) else config.fusion_weight  # alone without purchases it is all there is
        neighbours = 0.0 if alone else config.neighbour_weight
        if weight or neighbours:
            again = _tokens(member, examples.batch(rows), generator) if alone else tokens[:n]
            view = member.fuse(again, _hide(present[:n], config.modality_dropout, generator))
            loss = loss + weight * info_nce(fused, view, scale[VIEWS], _not_negative(same, "all"))
            loss = loss + neighbours * neighbour_loss(fused, view, NEIGHBOUR_SCALE)

        if len(drawn) > 1 and config.behaviour_weight:
            positive = member.fuse(tokens[n:], _hide(present[n:], config.modality_dropout / 2, generator))
            clash = (drawn.unsqueeze(0) == drawn.unsqueeze(1)) | (drawn.unsqueeze(0) == rows[anchors].unsqueeze(1))
            loss = loss + config.behaviour_weight * behaviour_loss(
                fused[anchors], positive, scale[BEHAVIOUR], examples.log_q[drawn], clash
            )
        return loss

    def _cross_modal(self, member: Member, tokens: Tensor, present: Tensor, same: Tensor, scale: Tensor) -> Tensor:
        """The mean over pairs of modalities of the method's loss, over the items that have both."""
        losses = []
        for left in range(tokens.shape[1]):
            for right in range(left + 1, tokens.shape[1]):
                if self.config.method == "regression" and member.pinned not in (left, right):
                    continue
                both = (present[:, left] & present[:, right]).nonzero().squeeze(1)
                if len(both) < 2:
                    continue
                not_negative = _not_negative(same[both][:, [left, right]], "any")
                a, b = tokens[both, left], tokens[both, right]
                if left == member.pinned:
                    a, b = b, a
                losses.append(self._pair(member, a, b, scale, not_negative))
        return torch.stack(losses).mean() if losses else tokens.new_zeros(())

    def _pair(self, member: Member, a: Tensor, b: Tensor, scale: Tensor, not_negative: Tensor | None) -> Tensor:
        match self.config.method:
            case "siglip":
                return siglip(a, b, scale, member.logit_bias, not_negative, self.config.hardness)
            case "regression":
                return regression_loss(a, b)
            case "clusters":
                return swapped_assignment(a, b, F.normalize(self.prototypes, dim=1), scale)
            case _:
                return info_nce(a, b, scale, not_negative, self.config.hardness)


def _draw_partners(examples: Examples, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
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


def _tokens(member: Member, inputs: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=_bfloat16_is_fast()):
        return member.tokens(inputs, generator)


def _bfloat16_is_fast() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported())


def _hide(present: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Hide each modality with this chance; a row that would lose all keeps what it had."""
    kept = present & (torch.rand(present.shape, generator=generator) >= chance)
    return torch.where(kept.any(dim=1, keepdim=True), kept, present)
