"""The objectives and fusions against answers worked by hand."""

import math

import pytest
import torch

from recsys.alignment.fusion import FUSIONS, GatedFusion
from recsys.alignment.loss import behaviour_loss, info_nce, neighbour_loss, siglip

AXES = torch.eye(2)
ONE = torch.tensor(1.0)


def test_info_nce_of_two_orthogonal_pairs():
    # Each row: logits (1, 0), so the loss is ln(1 + e⁻¹).
    assert info_nce(AXES, AXES, ONE).item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_info_nce_has_no_negative_among_equal_texts():
    twice = torch.ones(2, 2) / math.sqrt(2)
    same = torch.ones(2, 2, dtype=torch.bool)
    assert info_nce(twice, twice, ONE).item() == pytest.approx(math.log(2))
    assert info_nce(twice, twice, ONE, same).item() == pytest.approx(0)


def test_siglip_of_two_orthogonal_pairs():
    # Two matches with logit 1, two non-matches with logit 0, over a batch of 2.
    expected = (2 * math.log(1 + math.exp(-1)) + 2 * math.log(2)) / 2
    assert siglip(AXES, AXES, ONE, torch.tensor(0.0)).item() == pytest.approx(expected)
    same = torch.ones(2, 2, dtype=torch.bool)
    assert siglip(AXES, AXES, ONE, torch.tensor(0.0), same).item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_behaviour_loss_corrects_for_popularity():
    # Row 0: logits 1 − ln .5 for its positive, 0 − ln .25 for the other.
    log_q = torch.tensor([0.5, 0.25]).log()
    first = -math.log(2 * math.e / (2 * math.e + 4))
    second = -math.log(4 * math.e / (4 * math.e + 2))
    assert behaviour_loss(AXES, AXES, ONE, log_q).item() == pytest.approx((first + second) / 2)


def test_neighbour_loss_is_nothing_where_a_part_has_the_neighbours_of_the_whole():
    whole = torch.nn.functional.normalize(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    assert neighbour_loss(whole, whole, 20.0).item() == pytest.approx(0, abs=1e-6)
    assert neighbour_loss(whole, whole.flip(0), 20.0) > 1


def test_neighbour_loss_of_three_items():
    # To the whole of item 0, item 1 is as near as item 2; its part is item 1, and so nearer to that. The others' parts
    # are the whole of them.
    whole = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    part = whole.clone()
    part[0] = whole[1]
    near, far = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))
    expected = 0.5 * math.log(0.5 / near) + 0.5 * math.log(0.5 / far)
    assert neighbour_loss(whole, part, 1.0).item() == pytest.approx(expected / 3, abs=1e-6)


def test_behaviour_loss_is_an_unbiased_view_of_the_whole_softmax():
    """With positives drawn by q, the corrected gradient no longer pushes the popular item away."""
    generator = torch.Generator().manual_seed(0)
    q = torch.tensor([0.9, 0.05, 0.05])
    items = torch.eye(3)
    anchor = torch.full((1, 3), 3**-0.5, requires_grad=True)
    drawn = torch.multinomial(q, 4000, replacement=True, generator=generator)
    for correct in (True, False):
        log_q = q.log()[drawn] if correct else torch.zeros(len(drawn))
        logits = anchor @ items[drawn].T - log_q
        gradient = torch.autograd.grad(torch.logsumexp(logits, dim=1).sum(), anchor)[0][0]
        if correct:
            assert torch.allclose(gradient, torch.full((3,), 1 / 3), atol=0.05)
        else:
            assert gradient[0] > 0.85


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_reads_only_what_is_present(name):
    torch.manual_seed(0)
    fusion = FUSIONS[name](3, 8)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn_like(parameter))
    tokens = torch.randn(7, 3, 8)
    # every non-empty subset of three modalities
    present = torch.tensor([[bool(subset & 1 << m) for m in range(3)] for subset in range(1, 8)])
    fused = fusion(tokens, present)
    assert fused.shape == (7, 8)
    assert torch.isfinite(fused).all()
    other = torch.where(present.unsqueeze(2), tokens, torch.full_like(tokens, 100.0))
    assert torch.equal(fusion(other, present), fused)
    seen = torch.where(present.unsqueeze(2), tokens + 1, tokens)
    assert not torch.isclose(fusion(seen, present), fused).all(dim=1).any()


def test_gates_are_shares_of_what_is_present():
    torch.manual_seed(0)
    fusion = GatedFusion(3, 4)
    tokens = torch.randn(2, 3, 4)
    present = torch.tensor([[True, True, False], [False, True, False]])
    assert torch.allclose(fusion.weights(tokens, present), torch.tensor([[0.5, 0.5, 0], [0, 1, 0]]))
    with torch.no_grad():
        fusion.prior.copy_(torch.tensor([math.log(3), 0.0, 5.0]))
    assert torch.allclose(fusion.weights(tokens, present), torch.tensor([[0.75, 0.25, 0], [0, 1, 0]]))
