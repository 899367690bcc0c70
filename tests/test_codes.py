"""Codes keep what is near near, graded ones stand for their vectors, and an index of codes finds what floats find."""

import faiss
import numpy as np
import pytest

from recsys.data.synthetic import make_vectors
from recsys.errors import ConfigError, ReleaseError
from recsys.retrieval.codes import (
    CodeIndex,
    DecodedVectors,
    SignCodes,
    graded_codes,
    learn_codes,
    load_code_index,
    plain_codes,
    save_code_index,
)

BITS = (64, 128, 256)


@pytest.fixture(scope="module")
def items() -> np.ndarray:
    return make_vectors(2000, 32, seed=0, clusters=20)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return make_vectors(2040, 32, seed=0, clusters=20)[2000:]


def scan(codes: np.ndarray) -> faiss.IndexBinaryFlat:
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(np.ascontiguousarray(codes))
    return index


def recall(rows: np.ndarray, queries: np.ndarray, items: np.ndarray, k: int = 20) -> float:
    exact = np.argsort(-(queries @ items.T), axis=1)[:, :k]
    return float(np.mean([len(np.intersect1d(mine[:k], true)) / k for mine, true in zip(rows, exact)]))


@pytest.mark.parametrize("make", [plain_codes, learn_codes])
@pytest.mark.parametrize("bits", BITS)
def test_signs_have_the_bits_asked_for_and_agree_with_the_planes(make, bits, items):
    codes = make(items, bits, seed=0)
    encoded = codes.encode(items)
    assert (codes.bits, encoded.shape, encoded.dtype) == (bits, (len(items), bits // 8), np.uint8)
    above = (items[:3] - codes.mean) @ codes.planes > 0
    assert np.array_equal(np.unpackbits(encoded[:3], axis=1).astype(bool), above)
    assert np.array_equal(make(items, bits, seed=0).planes, codes.planes)


def test_the_share_of_bits_that_differ_is_the_angle_over_pi():
    rng = np.random.default_rng(0)
    a = rng.normal(size=32).astype(np.float32)
    b = rng.normal(size=32).astype(np.float32)
    b -= a * (a @ b) / (a @ a)  # a right angle
    vectors = np.stack([a, b, -a, -b])  # of mean zero
    bits = np.unpackbits(plain_codes(vectors, 4096, seed=0).encode(vectors), axis=1)
    assert (bits[0] != bits[1]).mean() == pytest.approx(0.5, abs=0.03)
    assert (bits[0] != bits[2]).mean() == pytest.approx(1.0, abs=0.01)


def test_fewer_bits_than_dimensions_keep_the_leading_axes(items):
    codes = learn_codes(items, 16, seed=0)
    assert codes.planes.shape == (32, 16)
    assert codes.planes.T @ codes.planes == pytest.approx(np.eye(16), abs=1e-4)


def test_learned_planes_lie_closer_to_the_corners_than_plain_ones(items):
    """What ITQ minimises: the distance of the turned vectors to their bits."""

    def loss(codes: SignCodes) -> float:
        turned = (items - codes.mean) @ codes.planes
        scale = np.abs(turned).mean()
        return float(np.mean((turned / scale - np.sign(turned)) ** 2))

    assert loss(learn_codes(items, 32, seed=0)) < loss(plain_codes(items, 32, seed=0))


def test_more_bits_find_more(items, queries):
    found = []
    for bits in BITS:
        codes = learn_codes(items, bits, seed=0)
        found.append(recall(scan(codes.encode(items)).search(codes.encode(queries), 20)[1], queries, items))
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.1


def test_rescoring_a_shortlist_of_256_bits_finds_what_floats_find(items, queries):
    codes = learn_codes(items, 256, seed=0)
    index = CodeIndex(codes, scan(codes.encode(items)), items, depth=200)
    scores, rows = index.search(queries, 20)
    assert recall(rows, queries, items) >= 0.98
    assert scores == pytest.approx(np.take_along_axis(queries @ items.T, rows, axis=1), abs=1e-6)
    assert bool(np.all(np.diff(scores, axis=1) <= 0))


@pytest.mark.parametrize("bits", BITS)
def test_graded_codes_stand_for_their_vectors_and_more_bits_more_closely(bits, items):
    codes = graded_codes(items, bits, seed=0)
    encoded = codes.encode(items)
    assert (codes.bits, encoded.shape) == (bits, (len(items), bits // 8))
    decoded = codes.decode(encoded)
    assert np.linalg.norm(decoded, axis=1) == pytest.approx(1.0, abs=1e-5)
    likeness = np.einsum("nd,nd->n", decoded, items).mean()
    assert likeness > {64: 0.93, 128: 0.985, 256: 0.998}[bits]


def test_bits_go_where_the_items_differ():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(3000, 16)) * np.geomspace(1, 0.01, 16)).astype(np.float32)
    widths = graded_codes(vectors, 32, seed=0).widths
    assert widths[0] >= 4
    assert bool(np.all(np.diff(widths) <= 0))
    assert len(widths) < 16  # the narrowest axes have none


def test_codes_alone_rank_better_than_hamming_distance(items, queries):
    signs, graded = learn_codes(items, 32, seed=0), graded_codes(items, 96, seed=0)
    index = scan(signs.encode(items))
    vectors = DecodedVectors(graded, graded.encode(items))
    _, rows = CodeIndex(signs, index, vectors, depth=400).search(queries, 20)
    more = learn_codes(items, 128, seed=0)  # the same bytes
    _, by_hamming = scan(more.encode(items)).search(more.encode(queries), 20)
    assert recall(rows, queries, items) > recall(by_hamming, queries, items) + 0.1


def test_fewer_items_than_asked_for_are_padded(items):
    codes = plain_codes(items, 64, seed=0)
    index = CodeIndex(codes, scan(codes.encode(items[:3])), items[:3], depth=10)
    scores, rows = index.search(items[:1], 5)
    assert rows[0, 0] == 0
    assert rows[0, 3:].tolist() == [-1, -1]
    assert np.isneginf(scores[0, 3:]).all()
    nothing = CodeIndex(codes, faiss.IndexBinaryFlat(64), items, depth=10)
    assert nothing.search(items[:2], 3)[1].tolist() == [[-1, -1, -1]] * 2


@pytest.mark.parametrize("bits", [0, 4, 65])
def test_bits_are_whole_bytes(bits, items):
    for make in (plain_codes, learn_codes, graded_codes):
        with pytest.raises(ConfigError, match=f"multiple of 8, came {bits}"):
            make(items, bits, seed=0)
    with pytest.raises(ConfigError, match="came none"):
        plain_codes(items[:0], 64, seed=0)


def test_what_is_no_index_of_codes_is_refused(items, tmp_path):
    codes = learn_codes(items, 64, seed=0)
    save_code_index(CodeIndex(codes, scan(codes.encode(items)), items, 50), tmp_path / "index.faiss")
    (tmp_path / "index.codes.safetensors").write_bytes(b"nothing")
    with pytest.raises(ReleaseError, match=r"index\.faiss: expected a Faiss index of binary codes"):
        load_code_index(tmp_path / "index.faiss", items)
