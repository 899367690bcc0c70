"""What lies near to every question stands back; the others keep their places."""

import numpy as np
import pytest

from recsys.alignment.hubs import SHARE, hubness
from recsys.alignment.modality import Modality
from recsys.alignment.model import load_aligner
from recsys.alignment.train import AlignmentConfig, train_alignment

SMALL = AlignmentConfig(dim=16, members=1, hidden=32, epochs=4)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_hubness_is_the_mean_likeness_of_the_nearest_ten_questions() -> None:
    asked = np.eye(20, dtype=np.float32)
    items = np.stack([asked[3], unit(np.ones((1, 20)))[0], np.zeros(20, np.float32)])
    np.testing.assert_allclose(hubness(items, asked), [0.1, 20**-0.5, 0.0], rtol=1e-6)
    assert hubness(items, asked[:0]).tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(hubness(items, asked[:2]), [0.0, 20**-0.5, 0.0], rtol=1e-6)  # fewer than ten: all


def test_a_hub_no_longer_stands_before_the_right_answers() -> None:
    """Questions lie beside their answers; one more item lies in the middle of all, nearer to each than its answer."""
    rng = np.random.default_rng(0)
    middle = unit(rng.normal(size=(1, 16)))
    answers = unit(middle + 0.8 * unit(rng.normal(size=(200, 16))))
    asked = unit(answers + 1.3 * middle + 0.5 * unit(rng.normal(size=(200, 16))))
    items = np.concatenate([answers, middle])
    likeness = asked @ items.T
    corrected = likeness - SHARE * hubness(items, asked)
    before, after = ((scores.argmax(axis=1) == len(answers)).sum() for scores in (likeness, corrected))
    assert before > 100
    assert after < before / 4


@pytest.fixture(scope="module")
def described() -> dict[str, Modality]:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(60, 12))
    present = np.ones(60, bool)
    return {name: Modality(unit(shared + rng.normal(size=(60, 12))), present) for name in ("image", "text")}


def test_an_aligner_keeps_questions_of_what_it_learned_from_and_nothing_else(described, tmp_path) -> None:
    held_out = np.arange(60) >= 50
    aligner = train_alignment(
        described, np.zeros((0, 2), np.int32), SMALL, seed=0, threads=1, progress=False, held_out=held_out
    )
    assert {name: asked.shape for name, asked in aligner.asked.items()} == {"image": (50, 16), "text": (50, 16)}
    words = aligner.embed_words(described["text"].vectors[:50])
    np.testing.assert_array_equal(aligner.asked["text"], words)
    aligner.save(tmp_path)
    loaded, vectors = load_aligner(tmp_path), aligner.embed(described)
    for kind, found in aligner.hubness(vectors).items():
        np.testing.assert_array_equal(found, loaded.hubness(vectors)[kind])
        assert found.shape == (60,)
