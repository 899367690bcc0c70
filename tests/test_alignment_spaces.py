"""What each modality adds to an embedding: exact shares for any fusion; and one space for the night and for later."""

from itertools import permutations

import numpy as np
import pytest

from recsys.alignment.modality import Modality
from recsys.alignment.spaces import embedding_parts, fit_space, load_spaces, save_spaces
from recsys.errors import ReleaseError

N = 6


class Curved:
    """A fusion that is not additive: the unit-norm sum of cubes."""

    def embed(self, modalities, threads=None):
        total = sum(np.where(m.present[:, None], m.vectors, 0.0) for m in modalities.values()) ** 3
        norms = np.linalg.norm(total, axis=1, keepdims=True)
        return (total / np.where(norms > 0, norms, 1)).astype(np.float32)


@pytest.fixture
def modalities():
    rng = np.random.default_rng(0)
    made = {}
    for number, name in enumerate(("image", "text", "reviews")):
        present = np.ones(N, bool)
        present[number] = False  # item 0 has no picture, item 1 no words, item 2 no reviews
        present[5] = False  # item 5 has nothing
        made[name] = Modality(rng.normal(size=(N, 4)).astype(np.float32), present)
    return made


def test_the_parts_sum_to_the_embedding_and_what_is_absent_adds_nothing(modalities):
    parts = embedding_parts(Curved(), modalities)
    total = sum(part.astype(np.float32) for part in parts.values())
    np.testing.assert_allclose(total, Curved().embed(modalities), atol=2e-3)
    for number, name in enumerate(("image", "text", "reviews")):
        assert not parts[name][number].any()
        assert not parts[name][5].any()


def test_a_part_is_what_it_adds_on_average_over_the_orders_of_coming(modalities):
    parts = embedding_parts(Curved(), modalities)
    names = list(modalities)
    for name in names:
        added = []
        for order in permutations(names):
            before = order[: order.index(name)]
            without = Curved().embed({n: modalities[n] for n in before}) if before else np.zeros((N, 4))
            added.append(Curved().embed({n: modalities[n] for n in (*before, name)}) - without)
        np.testing.assert_allclose(parts[name], np.mean(added, axis=0), atol=2e-3)


def test_one_modality_is_the_whole(modalities):
    parts = embedding_parts(Curved(), {"text": modalities["text"]})
    np.testing.assert_allclose(parts["text"], Curved().embed({"text": modalities["text"]}), atol=1e-3)


def test_a_space_places_later_items_as_it_placed_the_first_ones(modalities, tmp_path):
    space = fit_space(modalities["image"], 3)
    placed = space.place(modalities["image"])
    assert placed.shape == (N, 3)
    lengths = np.linalg.norm(placed.astype(np.float32), axis=1)
    assert lengths[modalities["image"].present] == pytest.approx(np.ones(4), abs=2e-3)
    assert not placed[~modalities["image"].present].any()
    save_spaces({"image": space}, tmp_path)
    loaded = load_spaces(tmp_path)["image"]
    alone = Modality(modalities["image"].vectors[3:4], np.ones(1, bool))
    np.testing.assert_allclose(loaded.place(alone)[0], placed[3], atol=1e-3)
    wide = fit_space(modalities["image"], 9)  # more than there are axes: the rest is zero
    assert wide.place(modalities["image"]).shape == (N, 9)
    assert load_spaces(tmp_path / "nowhere") == {}
    (tmp_path / "spaces.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ReleaseError, match="expected the spaces of a release"):
        load_spaces(tmp_path)
