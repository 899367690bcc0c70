"""The index finds what an exact scan finds, gives one query the same answer in any company, and survives the disk."""

import faiss
import numpy as np
import pytest

from recsys.artifacts import load_release, save_release
from recsys.errors import ReleaseError
from recsys.recommend import recommend
from recsys.retrieval.index import IndexConfig, build_index, load_index
from tests.builders import build_release, build_shop, mixed_requests, recipe

KINDS = {
    "flat": IndexConfig(),
    "ivf": IndexConfig(exact_up_to=100, min_recall=0.9),
    "ivf-pq": IndexConfig(kind="ivf-pq", min_recall=0.3),
    "binary": IndexConfig(kind="binary", min_recall=0.85),  # scanned whole
    "binary in lists": IndexConfig(exact_up_to=100, memory_mib=0, min_recall=0.85),  # of 64 bits: not even those fit
}
NOTHING = np.zeros((0, 32), np.float32)


def unit(rng, n, dim=32):
    vectors = rng.normal(size=(n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def embeddings():
    """2000 items; fifty have no embedding, and three hundred differ by less than a float's rounding."""
    rng = np.random.default_rng(0)
    vectors = unit(rng, 2000)
    vectors[500:800] = vectors[500] + rng.normal(0, 3e-8, (300, 32)).astype(np.float32)
    vectors[100:150] = 0
    return vectors


@pytest.fixture(scope="module", params=list(KINDS))
def index(request, embeddings):
    return build_index([str(n) for n in range(len(embeddings))], embeddings, KINDS[request.param], threads=1)


def test_each_kind_is_what_was_asked_for(index, embeddings, request):
    rows, scores = index.search(embeddings[:50], 20)
    name = request.node.callspec.params["index"]
    assert index.kind == name.partition(" ")[0]
    assert index.recall >= KINDS[name].min_recall
    assert (rows.dtype, scores.dtype) == (np.int32, np.float32)
    assert bool(np.all(np.diff(scores, axis=1) <= 0))
    assert not np.isin(rows, np.arange(100, 150)).any()  # no embedding, not in it


def test_among_few_only_what_has_an_embedding_is_found(index, embeddings):
    allowed = np.zeros(len(embeddings), bool)
    allowed[90:160] = True  # 100 to 149 have none
    rows, scores = index.search(embeddings[:3], 70, allowed)
    assert sorted(rows[0, :20].tolist()) == [*range(90, 100), *range(150, 160)]
    assert not (rows[:, 20:] + 1).any()
    assert not scores[:, 20:].any()


def test_flat_is_exact(embeddings):
    index = build_index([], embeddings, KINDS["flat"], threads=1)
    queries = unit(np.random.default_rng(1), 40)
    rows, scores = index.search(queries, 10)
    exact = queries @ embeddings.T
    assert index.recall == 1.0
    assert scores == pytest.approx(-np.sort(-exact, axis=1)[:, :10], abs=1e-6)
    assert np.take_along_axis(exact, rows.astype(np.int64), axis=1) == pytest.approx(scores, abs=1e-6)


@pytest.fixture(params=[1, 2])
def faiss_threads(request):
    """Faiss set to this many threads, as a night or a service may have left it."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(request.param)
    yield request.param
    faiss.omp_set_num_threads(before)


def test_a_query_gets_the_same_bits_alone_and_in_any_company(embeddings, index, faiss_threads):
    rng = np.random.default_rng(2)
    queries = np.concatenate([embeddings[500:600], unit(rng, 400 if index.kind == "binary" else 4200)])
    rows, scores = index.search(queries, 60)
    for size in (1, 3, 19, 20, 21, 200):
        parts = [index.search(queries[start : start + size], 60) for start in range(0, 200, size)]
        assert np.array_equal(np.concatenate([part[0] for part in parts])[:200], rows[:200])
        assert np.array_equal(np.concatenate([part[1] for part in parts])[:200], scores[:200])
    assert faiss.omp_get_max_threads() == faiss_threads


def test_fewer_items_than_asked_for_are_padded():
    index = build_index(list("abc"), np.eye(3, dtype=np.float32)[:, :2], IndexConfig(), threads=1)
    rows, scores = index.search(np.array([[1, 0]], np.float32), 4)
    assert rows.tolist() == [[0, 1, -1, -1]]  # the third has no embedding
    assert scores.tolist() == [[1, 0, 0, 0]]


def test_an_index_of_nothing_finds_nothing():
    index = build_index(list("ab"), np.zeros((2, 4), np.float32), IndexConfig(), threads=1)
    assert index.search(np.ones((3, 4), np.float32), 2)[0].tolist() == [[-1, -1]] * 3


def test_it_comes_back_from_disk_with_the_same_answers(index, embeddings, tmp_path):
    index.save(tmp_path / "index.faiss")
    loaded = load_index(tmp_path / "index.faiss", index.item_ids, index.kind, index.recall, embeddings)
    queries = unit(np.random.default_rng(3), 30)
    for came, expected in zip(loaded.search(queries, 50), index.search(queries, 50)):
        assert np.array_equal(came, expected)
    assert (loaded.kind, loaded.recall) == (index.kind, index.recall)


def test_a_search_of_a_mapped_index_starts_no_threads_to_read_ahead(tmp_path):
    vectors = unit(np.random.default_rng(3), 600)
    build_index([], vectors, KINDS["ivf"], threads=1).save(tmp_path / "index.faiss")
    loaded = load_index(tmp_path / "index.faiss", [], "ivf", 1.0, vectors).index
    assert faiss.downcast_InvertedLists(loaded.invlists).prefetch_nthread == 0


def test_something_else_than_an_index_is_refused(tmp_path):
    path = tmp_path / "index.faiss"
    path.write_bytes(b"not an index at all")
    with pytest.raises(ReleaseError, match=r"index\.faiss: expected a Faiss index"):
        load_index(path, [], "flat", 1.0, NOTHING)
    with pytest.raises(ReleaseError, match="expected a Faiss index"):
        load_index(tmp_path / "absent", [], "flat", 1.0, NOTHING)


def test_product_quantisation_takes_any_width():
    vectors = unit(np.random.default_rng(4), 600, dim=15)
    index = build_index([], vectors, IndexConfig(kind="ivf-pq", min_recall=0.1), threads=1)
    assert index.kind == "ivf-pq"
    assert index.search(vectors[:5], 3)[0].shape == (5, 3)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 255, 256])
@pytest.mark.parametrize("kind", ["auto", "flat", "ivf", "ivf-pq", "binary"])
def test_every_kind_can_be_asked_of_a_small_shop(n, kind):
    vectors = unit(np.random.default_rng(6), n)
    index = build_index([], vectors, IndexConfig(kind=kind, exact_up_to=0), threads=1)
    built = {"auto": "ivf", "ivf-pq": "ivf-pq" if n >= 256 else "flat"}  # quantisers learn 256 values, of as many items
    assert index.kind == built.get(kind, kind)
    rows, scores = index.search(vectors, 1)
    if index.kind != "ivf-pq":
        assert rows[:, 0].tolist() == list(range(n))
        assert scores[:, 0] == pytest.approx(1, abs=1e-5)


def test_auto_takes_as_many_bits_as_the_budget_holds():
    vectors = unit(np.random.default_rng(5), 30_000, dim=16)  # 1.8 MiB of floats
    bits = {}
    for budget in (4, 1, 0):
        index = build_index([], vectors, IndexConfig(exact_up_to=1000, memory_mib=budget, min_recall=0.2), threads=1)
        bits[budget] = index.index.codes.bits if index.kind == "binary" else index.kind
    assert bits == {4: "ivf", 1: 128, 0: 64}  # 256 bits and a row number of each would be 1.1 MiB


@pytest.mark.parametrize("bits", [64, 128, 256])
@pytest.mark.parametrize("budget", [0, 1024])
def test_bits_asked_for_are_taken_whatever_the_budget(bits, budget):
    vectors = unit(np.random.default_rng(5), 300)
    index = build_index([], vectors, IndexConfig(kind="binary", code_bits=bits, memory_mib=budget), threads=1).index
    assert index.codes.bits == bits
    assert faiss.downcast_IndexBinary(index.binary.index).code_size == bits // 8


def ids_of(slate):
    return {item.item_id for item in slate.items}


def test_a_release_with_codes_comes_back_with_the_same_slates(tmp_path):
    made = build_release(*build_shop(n_items=200), recipe(IndexConfig(kind="binary", min_recall=0.9)), ranker=False)
    saved = save_release(made, tmp_path)
    loaded = load_release(tmp_path / saved.manifest.version)
    assert loaded.retrieval.index.kind == "binary"
    requests = mixed_requests(made.item_ids, 40)
    assert recommend(loaded, requests) == recommend(saved, requests)
    exact = recommend(build_release(*build_shop(n_items=200), recipe(), ranker=False), requests)
    pairs = [(ids_of(mine), ids_of(theirs)) for mine, theirs in zip(recommend(saved, requests), exact)]
    assert np.mean([len(mine & theirs) / max(len(theirs), 1) for mine, theirs in pairs if theirs]) >= 0.9
