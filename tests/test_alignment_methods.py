"""Every method of alignment on items with planted traits, and what sets each of them apart."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from recsys.alignment.concepts import ConceptReader, Concepts, imagenet_names
from recsys.alignment.config import CLOSED_FORM, METHODS, TRAINED
from recsys.alignment.graph import OF_NEIGHBOURS, with_neighbours
from recsys.alignment.loss import adversarial_loss, info_nce, regression_loss, siglip, swapped_assignment
from recsys.alignment.modality import Modality
from recsys.alignment.model import load_aligner
from recsys.alignment.train import AlignmentConfig, train_alignment
from recsys.errors import ConfigError, SchemaError

N, TRAITS = 500, 8
HELD_OUT = np.arange(N) >= 400
NO_PAIRS = np.zeros((0, 2), np.int32)
SMALL = AlignmentConfig(dim=16, members=1, hidden=48, components=32, epochs=12, batch_size=64, lr=6e-3, prototypes=24)


def make_modalities(widths: tuple[int, int] = (48, 24), joint: bool = False) -> dict[str, Modality]:
    """Pictures and words that show the same traits, each through a map of its own, or (joint) both through one."""
    rng = np.random.default_rng(0)
    traits = rng.normal(size=(N, TRAITS))
    maps = [rng.normal(size=(TRAITS, width)) for width in widths]
    maps[1] = maps[0] if joint else maps[1]
    return {
        name: Modality((traits @ turn + 0.3 * rng.normal(size=(N, turn.shape[1]))).astype(np.float32), np.ones(N, bool))
        for name, turn in zip(("image", "text"), maps)
    }


def make_concepts() -> Concepts:
    """A classifier of pictures with twelve classes, and made-up encodings of their names."""
    rng = np.random.default_rng(0)
    return Concepts(*(rng.normal(size=size).astype(np.float32) for size in ((12, 48), (12,), (12, 24))))


def recall_at_1(queries: np.ndarray, items: np.ndarray) -> float:
    return float(((queries @ items.T).argmax(axis=1) == np.arange(len(items))).mean())


def align(modalities: dict[str, Modality], **change: object):
    config = dataclasses.replace(SMALL, **change)
    return train_alignment(modalities, NO_PAIRS, config, 0, 1, progress=False, held_out=HELD_OUT)


def unseen(modalities: dict[str, Modality], aligner) -> list[np.ndarray]:
    return [aligner.embed_modality(name, each.vectors[HELD_OUT]) for name, each in modalities.items()]


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("similarity", "conse")])
def test_every_method_finds_the_words_of_unseen_pictures(method, tmp_path):
    modalities = make_modalities()
    aligner = align(modalities, method=method)
    image, text = unseen(modalities, aligner)
    # Clusters only know which of a few groups an item is in; by chance it is 0.01.
    assert recall_at_1(text, image) > (0.1 if method == "clusters" else 0.5)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, atol=1e-5)
    aligner.save(tmp_path)
    loaded = load_aligner(tmp_path)
    np.testing.assert_array_equal(loaded.embed(modalities), aligner.embed(modalities))
    whole = aligner.embed({name: Modality(m.vectors[HELD_OUT], m.present[HELD_OUT]) for name, m in modalities.items()})
    assert recall_at_1(image, whole) > (0.3 if method == "clusters" else 0.8)


@pytest.mark.parametrize("method", TRAINED)
def test_a_method_gives_the_same_bits_again(method):
    modalities = make_modalities()
    first, again = (align(modalities, method=method, epochs=2, adversarial_weight=0.1) for _ in range(2))
    np.testing.assert_array_equal(first.embed(modalities), again.embed(modalities))


@pytest.mark.parametrize("method", METHODS)
def test_a_shop_of_one_modality_still_gets_an_aligner(method):
    alone = {"image": make_modalities()["image"]}
    config = dataclasses.replace(SMALL, method=method, epochs=2, fusion="mean", adversarial_weight=0.1)
    named = {"image": make_concepts()} if method == "conse" else None
    embedded = train_alignment(alone, NO_PAIRS, config, 0, 1, False, HELD_OUT, named).embed(alone)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)


def test_cca_leaves_a_modality_that_meets_no_other_as_it_is():
    """No item has a picture and sound, or words and sound; then none has a picture and words either."""
    modalities = make_modalities()
    first = np.arange(N) % 2 == 0
    image, text = modalities["image"].vectors, modalities["text"].vectors
    sound = Modality(image[:, ::-1].copy(), ~first)
    for shop in (
        {"image": Modality(image, first), "text": Modality(text, first), "sound": sound},
        {"image": Modality(image, first), "text": Modality(text, ~first)},
    ):
        aligner = align(shop, method="cca")
        np.testing.assert_allclose(np.linalg.norm(aligner.embed(shop), axis=1), 1, atol=1e-5)
        name, apart = list(shop.items())[-1]
        centred = apart.vectors - apart.vectors[apart.present & ~HELD_OUT].mean(axis=0)
        before = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        embedded = aligner.embed_modality(name, apart.vectors)
        assert np.abs(embedded @ embedded.T - before @ before.T).mean() < 0.05


def test_one_space_is_joined_as_it_is():
    modalities = make_modalities((48, 48), joint=True)
    shifted = {**modalities, "text": Modality(modalities["text"].vectors + 5, modalities["text"].present)}
    image, text = unseen(shifted, align(shifted, method="similarity", components=48))
    assert recall_at_1(text, image) > 0.9  # the two cones lie apart, and are brought together
    stray = make_modalities((48, 48))
    assert recall_at_1(*unseen(stray, align(stray, method="similarity"))) < 0.1  # no training, so no alignment
    with pytest.raises(ConfigError, match=r"different widths: \{'image': 48, 'text': 24\}"):
        align(make_modalities(), method="similarity")


def test_cca_weighs_what_agrees():
    """One direction is common to both sides, louder ones are of one side only: only the common one may count."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(N, 1))
    modalities = {
        name: Modality(
            (np.hstack([common, 5 * rng.normal(size=(N, 3))]) @ rng.normal(size=(4, 4))).astype(np.float32),
            np.ones(N, bool),
        )
        for name in ("image", "text")
    }
    image, text = unseen(modalities, align(modalities, method="cca", dim=4))
    same_sign = np.sign(common[HELD_OUT]) == np.sign(common[HELD_OUT]).T
    similarity = image @ text.T
    assert similarity[same_sign].mean() - similarity[~same_sign].mean() > 0.6  # by the loudest directions about 0


def test_conse_places_a_picture_among_the_names_of_its_classes():
    """Pictures of ten classes; the words of an item are the name of its class, nearly."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 10, N)
    names = rng.normal(size=(10, 24)).astype(np.float32)
    classifier = rng.normal(size=(10, 32)).astype(np.float32)
    pictures = classifier[kind] + 0.5 * rng.normal(size=(N, 32))
    words = names[kind] + 0.2 * rng.normal(size=(N, 24))
    everybody = np.ones(N, bool)
    modalities = {
        "image": Modality((pictures / np.linalg.norm(pictures, axis=1)[:, None]).astype(np.float32), everybody),
        "text": Modality(words.astype(np.float32), everybody),
    }
    concepts = {"image": Concepts(classifier, np.zeros(10, np.float32), names)}
    config = dataclasses.replace(SMALL, method="conse")
    aligner = train_alignment(modalities, NO_PAIRS, config, 0, 1, False, HELD_OUT, concepts)
    image, text = unseen(modalities, aligner)
    nearest = kind[HELD_OUT][(image @ text.T).argmax(axis=1)]
    assert (nearest == kind[HELD_OUT]).mean() > 0.9
    with pytest.raises(ConfigError, match="an image encoder with a classifier"):
        align(modalities, method="conse")


def test_a_saved_conse_reads_pictures_alike(tmp_path):
    modalities = make_modalities()
    config = dataclasses.replace(SMALL, method="conse")
    aligner = train_alignment(modalities, NO_PAIRS, config, 0, 1, False, HELD_OUT, {"image": make_concepts()})
    aligner.save(tmp_path)
    np.testing.assert_array_equal(load_aligner(tmp_path).embed(modalities), aligner.embed(modalities))


def test_a_concept_reader_by_hand():
    reader = ConceptReader(2, 2, 2)
    reader.fill(Concepts(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), np.array([[1, 0], [0, 2]], np.float32)))
    reader.sharpness.fill_(math.log(3))  # shares 3/4 and 1/4
    assert torch.allclose(reader(torch.tensor([[1.0, 0.0]])), torch.tensor([[3.0, 1.0]]) / 10**0.5)


def test_imagenets_classes_have_names():
    names = imagenet_names()
    assert len(names) == 1000
    assert "tench" in names[0]
    assert "running shoe" in names[770]


def test_hardness_counts_the_near_negative_for_more():
    left, right = torch.eye(3), torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    one = torch.tensor(1.0)
    # The first row's negatives have logits .6 and 0: at β = 1 their weights are 2e^.6 and 2 over (e^.6 + 1).
    total = math.exp(0.6) + 1
    first = math.log(math.e + 2 * (math.exp(1.2) + 1) / total) - 1
    second = math.log(math.exp(0.8) + 2) - 0.8
    third = math.log(math.e + 2) - 1
    to_right = (first + second + third) / 3
    back = [[0.6, 0.8, 0], [1.0, 0, 0], [0, 0, 1.0]]
    of_column = [
        math.log(math.exp(1) + 2) - 1,
        math.log(math.exp(back[0][1]) + 2 * (math.exp(1.2) + 1) / total) - 0.8,
        math.log(math.e + 2) - 1,
    ]
    assert info_nce(left, right, one, hardness=1.0).item() == pytest.approx((to_right + sum(of_column) / 3) / 2)
    plain, hard = (siglip(left, right, one, torch.tensor(0.0), hardness=h).item() for h in (0.0, 3.0))
    assert hard > plain


def test_regression_loss_by_hand():
    guess = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    target = torch.tensor([[0.0, 0.0], [0.0, 3.0]], requires_grad=True)
    loss = regression_loss(guess, target)
    assert loss.item() == pytest.approx((1 + 4) / 2)
    loss.backward()
    assert target.grad is None


def test_swapped_assignment_is_small_where_both_sides_agree():
    prototypes = torch.eye(4)
    assigned = torch.eye(4).repeat(8, 1)
    scale = torch.tensor(20.0)
    agree = swapped_assignment(assigned, assigned, prototypes, scale)
    differ = swapped_assignment(assigned, assigned.roll(1, 0), prototypes, scale)
    assert agree.item() < 0.1
    assert differ.item() > 10


def test_the_critic_learns_and_the_heads_unlearn():
    torch.manual_seed(0)
    critic = torch.nn.Linear(2, 2)
    apart = torch.eye(2).unsqueeze(0).repeat(16, 1, 1).requires_grad_(True)  # modality m always at axis m
    present = torch.ones(16, 2, dtype=torch.bool)
    loss = adversarial_loss(apart, present, critic)
    (token_gradient,) = torch.autograd.grad(loss, apart)
    moved = adversarial_loss((apart - 0.5 * token_gradient * 16).detach(), present, critic)
    assert moved > loss  # descending the reversed gradient makes the critic's work harder
    optimizer = torch.optim.SGD(critic.parameters(), lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        adversarial_loss(apart.detach(), present, critic).backward()
        optimizer.step()
    assert adversarial_loss(apart, present, critic) < 0.1


def test_neighbours_are_modalities_of_their_own():
    vectors = np.array([[1, 0], [0, 1], [0, 3], [7, 7]], np.float32)
    modality = Modality(vectors, np.array([True, True, True, False]))
    pairs = np.array([[0, 1], [0, 2], [2, 0], [3, 0], [1, 1]], np.int32)
    smoothed = with_neighbours({"text": modality}, pairs)
    assert list(smoothed) == ["text", OF_NEIGHBOURS + "text"]
    around = smoothed[OF_NEIGHBOURS + "text"]
    # Item 0 was met with 1 once and with 2 twice; item 3 has no vector and is nobody's evidence.
    weights = np.array([1 / math.sqrt(4 * 1), 2 / math.sqrt(4 * 2)])
    np.testing.assert_allclose(around.vectors[0], weights @ vectors[1:3] / weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(around.vectors[1], vectors[0])
    np.testing.assert_allclose(around.vectors[3], vectors[0])
    assert around.present.all()
    alone = with_neighbours({"text": modality}, NO_PAIRS)[OF_NEIGHBOURS + "text"]
    assert not alone.present.any()
    with pytest.raises(SchemaError, match="below 4"):
        with_neighbours({"text": modality}, np.array([[0, 4]], np.int32))


def test_the_graph_says_what_an_item_itself_does_not():
    """Items of one kind are bought together; each has noisy vectors, and the mean of its neighbours' is clearer."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 5, N)
    everybody = np.ones(N, bool)
    noisy = {
        name: Modality((np.eye(5)[kind] + rng.normal(size=(N, 5))).astype(np.float32), everybody)
        for name in ("image", "text")
    }
    pairs = np.array([(row, rng.choice(np.flatnonzero(kind == kind[row]))) for row in range(N) for _ in range(4)])
    smoothed = with_neighbours(noisy, pairs.astype(np.int32))

    def purity(modalities, fusion):
        aligner = train_alignment(
            modalities, NO_PAIRS, dataclasses.replace(SMALL, fusion=fusion, epochs=4), 0, 1, progress=False
        )
        embedded = aligner.embed(modalities)
        similarity = embedded @ embedded.T - 2 * np.eye(N)
        return (kind[similarity.argmax(axis=1)] == kind).mean()

    assert purity(smoothed, "graph") > purity(noisy, "gated") + 0.1


def test_closed_forms_take_any_subset_and_more_than_two_modalities():
    modalities = make_modalities()
    rng = np.random.default_rng(1)
    audio = modalities["image"].vectors @ rng.normal(size=(48, 10)).astype(np.float32)
    three = {**modalities, "audio": Modality(audio.astype(np.float32), rng.random(N) < 0.7)}
    aligner = train_alignment(
        three, NO_PAIRS, dataclasses.replace(SMALL, method="cca"), 0, 1, progress=False, held_out=HELD_OUT
    )
    of_unseen = {name: Modality(m.vectors[HELD_OUT], m.present[HELD_OUT]) for name, m in three.items()}
    part = aligner.embed({name: of_unseen[name] for name in ("image", "audio")})
    assert recall_at_1(part, aligner.embed({"text": of_unseen["text"]})) > 0.5
    assert set(CLOSED_FORM) < set(METHODS)


def test_a_query_in_words_is_read_as_a_description_and_as_a_review():
    modalities = make_modalities((24, 24))
    said = {"text": modalities["text"], "reviews": modalities["image"]}
    both = align(said, method="cca")
    query = modalities["text"].vectors[:5]
    there = np.ones(5, bool)
    whole = both.embed({"text": Modality(query, there), "reviews": Modality(query, there)})
    np.testing.assert_array_equal(both.embed_words(query), whole)
    described = align(modalities, method="cca")
    np.testing.assert_allclose(described.embed_words(query), described.embed_modality("text", query), atol=1e-6)
    pictures = align({"image": modalities["image"], "video": modalities["text"]}, method="cca")
    with pytest.raises(SchemaError, match=r"knows words, came one of \['image', 'video'\]"):
        pictures.embed_words(query)
