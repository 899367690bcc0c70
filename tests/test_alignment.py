"""The aligner on items with planted traits: what must be near is near, whatever of an item is missing."""

import dataclasses

import numpy as np
import pytest

from recsys.alignment.examples import equal_rows
from recsys.alignment.fusion import FUSIONS
from recsys.alignment.modality import Modality
from recsys.alignment.model import load_aligner
from recsys.alignment.train import AlignmentConfig, train_alignment
from recsys.errors import ConfigError, ReleaseError, SchemaError

N, TRAITS = 600, 8
SMALL = AlignmentConfig(dim=16, members=2, hidden=48, components=32, epochs=12, batch_size=64, lr=6e-3)
NO_PAIRS = np.zeros((0, 2), np.int32)


def make_modalities(present=(0.9, 0.9, 0.6), noise=0.3):
    """Three modalities that each show the same planted traits through a map of their own."""
    rng = np.random.default_rng(0)
    traits = rng.normal(size=(N, TRAITS))
    return {
        name: Modality(
            (traits @ rng.normal(size=(TRAITS, width)) + noise * rng.normal(size=(N, width))).astype(np.float32),
            rng.random(N) < share,
        )
        for name, width, share in zip(("image", "text", "review"), (48, 24, 24), present)
    }


def recall_at_1(queries, items):
    return float(((queries @ items.T).argmax(axis=1) == np.arange(len(items))).mean())


@pytest.fixture(scope="module")
def trained():
    modalities = make_modalities()
    held_out = np.arange(N) >= 500
    return modalities, held_out, train_alignment(modalities, NO_PAIRS, SMALL, 0, 1, progress=False, held_out=held_out)


def test_unseen_items_are_found_across_modalities(trained):
    modalities, held_out, aligner = trained
    both = held_out & modalities["image"].present & modalities["text"].present
    image = aligner.embed_modality("image", modalities["image"].vectors[both])
    text = aligner.embed_modality("text", modalities["text"].vectors[both])
    assert recall_at_1(text, image) > 0.8
    assert recall_at_1(image, text) > 0.8


def test_a_part_of_an_item_lands_near_the_whole(trained):
    modalities, held_out, aligner = trained
    rows = held_out & np.logical_and.reduce([modality.present for modality in modalities.values()])
    of_rows = {name: Modality(m.vectors[rows], m.present[rows]) for name, m in modalities.items()}
    whole = aligner.embed(of_rows)
    for left_out in modalities:
        part = aligner.embed({name: m for name, m in of_rows.items() if name != left_out})
        assert recall_at_1(part, whole) > 0.9


def test_output_is_unit_norm_or_zero(trained):
    modalities, _, aligner = trained
    embedded = aligner.embed(modalities)
    some = np.logical_or.reduce([modality.present for modality in modalities.values()])
    assert embedded.dtype == np.float32
    assert embedded.shape == (N, SMALL.dim)
    assert 0 < (~some).sum() < N
    np.testing.assert_allclose(np.linalg.norm(embedded[some], axis=1), 1, atol=1e-5)
    assert not embedded[~some].any()


def test_an_absent_vector_is_never_read(trained):
    modalities, held_out, aligner = trained
    poisoned = {
        name: Modality(np.where(m.present[:, None], m.vectors, np.float32(np.nan)), m.present)
        for name, m in modalities.items()
    }
    np.testing.assert_array_equal(aligner.embed(poisoned), aligner.embed(modalities))
    again = train_alignment(poisoned, NO_PAIRS, SMALL, 0, 1, progress=False, held_out=held_out)
    np.testing.assert_array_equal(again.embed(modalities), aligner.embed(modalities))


def test_same_bits_again_and_on_two_threads(trained):
    modalities, held_out, aligner = trained
    again = train_alignment(modalities, NO_PAIRS, SMALL, 0, 2, progress=False, held_out=held_out)
    np.testing.assert_array_equal(again.embed(modalities), aligner.embed(modalities))
    assert again.history == aligner.history
    other = train_alignment(modalities, NO_PAIRS, SMALL, 1, 1, progress=False, held_out=held_out)
    assert not np.array_equal(other.embed(modalities), aligner.embed(modalities))


def test_saved_and_loaded_embeds_the_same_bits(trained, tmp_path):
    modalities, _, aligner = trained
    aligner.save(tmp_path / "aligner")
    loaded = load_aligner(tmp_path / "aligner")
    np.testing.assert_array_equal(loaded.embed(modalities), aligner.embed(modalities))
    assert loaded.history == aligner.history
    assert sorted(path.name for path in (tmp_path / "aligner").iterdir()) == ["aligner.json", "aligner.safetensors"]


def test_halved_heads_read_half_as_much_and_put_questions_where_whole_ones_do(trained):
    modalities, _, aligner = trained
    halved = aligner.halved()
    one, whole = (heads.ensemble.each_member()[0].head("text").linear.weight for heads in (halved, aligner))
    assert one.nbytes * 2 == whole.nbytes
    alone, there = modalities["text"].vectors, modalities["text"].present
    np.testing.assert_allclose(halved.embed_words(alone[there]), aligner.embed_words(alone[there]), atol=5e-3)
    np.testing.assert_allclose(halved.embed(modalities), aligner.embed(modalities), atol=5e-3)


def test_a_damaged_aligner_is_refused(trained, tmp_path):
    trained[2].save(tmp_path)
    with pytest.raises(ReleaseError, match="aligner"):
        load_aligner(tmp_path / "nowhere")
    weights = tmp_path / "aligner.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ReleaseError, match="aligner"):
        load_aligner(tmp_path)


def test_the_loss_goes_down(trained):
    first, second = (
        [epoch["loss"] for epoch in trained[2].history if epoch["member"] == member] for member in range(2)
    )
    assert first[-1] < 0.8 * first[0]
    assert second[-1] < second[0] < first[0]  # it starts from the linear maps


def test_few_items_are_aligned_better_with_the_linear_member():
    modalities = make_modalities(present=(1, 1, 1), noise=1.0)
    held_out = np.arange(N) >= 200
    found = {}
    for linear in (0, 16):
        config = dataclasses.replace(SMALL, linear=linear)
        aligner = train_alignment(modalities, NO_PAIRS, config, 0, 1, progress=False, held_out=held_out)
        sides = [aligner.embed_modality(name, modalities[name].vectors[held_out]) for name in ("image", "text")]
        found[linear] = recall_at_1(*sides)
    assert found[16] > found[0] + 0.1
    assert found[0] > 0.5  # by chance 0.0025


def test_items_bought_together_attract_even_when_they_look_different():
    """Behaviour joins trait 0 of one half of the items with trait 1 of the other; new items must follow."""
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 6, N)  # kinds 0–2 are bought with kinds 3–5
    vectors = (np.eye(6)[kind] @ rng.normal(size=(6, 24)) * 2 + rng.normal(size=(N, 24))).astype(np.float32)
    modalities = {"text": Modality(vectors, np.ones(N, bool))}
    learn = np.flatnonzero(np.arange(N) < 500)
    pairs = np.array(
        [(row, rng.choice(learn[kind[learn] == (kind[row] + 3) % 6])) for row in learn for _ in range(3)], np.int32
    )
    unseen = np.arange(500, N)

    def pull(behaviour_weight):
        config = dataclasses.replace(SMALL, behaviour_weight=behaviour_weight)
        nothing = np.zeros(N, bool)  # any item of the right kind is right, so there is no single answer to watch
        aligner = train_alignment(modalities, pairs, config, 0, 1, progress=False, held_out=nothing)
        embedded = aligner.embed(modalities)[unseen]
        similarity = embedded @ embedded.T
        partner = (kind[unseen][:, None] + 3) % 6 == kind[unseen]
        other = ~partner & (kind[unseen][:, None] != kind[unseen])
        return float(similarity[partner].mean() - similarity[other].mean())

    assert pull(1.0) > 0.4
    assert pull(1.0) > pull(0.0) + 0.3


@pytest.mark.parametrize(
    "change", [{"fusion": name} for name in FUSIONS] + [{"method": "siglip", "lr": 3e-3, "temperature": 0.1}]
)
def test_every_fusion_and_loss_aligns(change):
    modalities = make_modalities(present=(1, 1, 1))
    held_out = np.arange(N) >= 500
    config = dataclasses.replace(SMALL, **change)
    aligner = train_alignment(modalities, NO_PAIRS, config, 0, 1, progress=False, held_out=held_out)
    unseen = {name: Modality(m.vectors[held_out], m.present[held_out]) for name, m in modalities.items()}
    part = aligner.embed({"image": unseen["image"], "review": unseen["review"]})
    assert recall_at_1(part, aligner.embed({"text": unseen["text"]})) > 0.7


def test_one_modality_without_purchases_keeps_its_neighbours():
    text = make_modalities(present=(1, 1, 1))["text"]
    embedded = train_alignment({"text": text}, NO_PAIRS, SMALL, 0, 1, progress=False).embed({"text": text})
    before = text.vectors - text.vectors.mean(axis=0)
    before /= np.linalg.norm(before, axis=1, keepdims=True)
    ranks = [np.argsort(-(vectors @ vectors.T), axis=1)[:, 1:11] for vectors in (before, embedded)]
    kept = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(*ranks)])
    assert kept > 0.4  # by chance 0.017


def test_what_is_absent_is_alike_so_that_items_of_one_text_without_a_picture_are_no_negatives():
    vectors = np.array([[1], [1], [2], [3], [4]], np.float32)
    assert equal_rows(Modality(vectors, np.array([1, 1, 1, 0, 0], bool))).tolist() == [0, 0, 1, 2, 2]


def test_a_modality_that_no_item_has_does_no_harm():
    modalities = make_modalities(present=(1, 1, 0))
    aligner = train_alignment(modalities, NO_PAIRS, SMALL, 0, 1, progress=False)
    embedded = aligner.embed(modalities)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3])
def test_a_shop_of_two_items_still_gets_an_aligner(n):
    modalities = {name: Modality(m.vectors[:n], np.ones(n, bool)) for name, m in make_modalities().items()}
    embedded = train_alignment(modalities, np.array([[0, 1]], np.int32), SMALL, 0, 1, progress=False).embed(modalities)
    assert np.isfinite(embedded).all()


def test_bad_input_is_named(trained):
    modalities, _, aligner = trained
    with pytest.raises(SchemaError, match="at least one modality"):
        train_alignment({}, NO_PAIRS, SMALL, 0, 1, progress=False)
    short = Modality(modalities["text"].vectors[:5], modalities["text"].present[:5])
    with pytest.raises(SchemaError, match="one length"):
        train_alignment({"image": modalities["image"], "text": short}, NO_PAIRS, SMALL, 0, 1, progress=False)
    with pytest.raises(SchemaError, match="below 600"):
        train_alignment(modalities, np.array([[0, 600]], np.int32), SMALL, 0, 1, progress=False)
    nothing = Modality(modalities["text"].vectors, np.zeros(N, bool))
    with pytest.raises(SchemaError, match="at least 2 items"):
        train_alignment({"text": nothing}, NO_PAIRS, SMALL, 0, 1, progress=False)
    vectors = np.zeros((5, 2), np.float32)
    vectors[3, 1] = np.inf
    with pytest.raises(SchemaError, match="row 3 is not"):
        Modality(vectors, np.ones(5, bool))
    with pytest.raises(SchemaError, match="'audio'"):
        aligner.embed_modality("audio", modalities["text"].vectors)
    with pytest.raises(SchemaError, match=r"expected vectors \[n, 48\], came \(600, 24\)"):
        aligner.embed({"image": modalities["text"]})
    with pytest.raises(ConfigError, match=r"expected one of .*'gated'.*, came 'magic'"):
        AlignmentConfig(fusion="magic")
