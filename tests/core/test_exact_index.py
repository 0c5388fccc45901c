"""The exact search on processors against the definition: every neighbour, every tie, from rounded products too."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elfs_ray.core import exact_index, small_index
from elfs_ray.core.exact_index import ExactIndex
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.ranking import rank_candidates
from elfs_ray.core.small_index import SmallIndex


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Those of torch wait for each other where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def brute_force(vectors, queries, k):
    """Every similarity, ranked by itself and then by row."""
    rows = np.tile(np.arange(len(vectors)), (len(queries), 1))
    ids, similarity = rank_candidates(queries, vectors, rows, k)
    exact = (queries.astype(np.float64) @ vectors.T.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(similarity, np.take_along_axis(exact, ids, axis=1), atol=1e-7)
    return similarity, ids


def same(found, expected):
    return all(one.tolist() == other.tolist() for one, other in zip(found, expected, strict=True))


def crowded(rng, count, dim, spread):
    """Rows about a common direction, so that rounding reorders most of them, and a third of them twice."""
    vectors = normalize_rows(rng.normal(size=dim) + spread * rng.normal(size=(count, dim)))
    vectors[rng.integers(count, size=count // 3)] = vectors[rng.integers(count, size=count // 3)]
    return vectors


@given(
    count=st.integers(1, 400),
    dim=st.integers(1, 40),
    k=st.integers(1, 60),
    spread=st.sampled_from([0.01, 0.3, 100.0]),
    kinds=st.sampled_from([1, 7, None]),
    bfloat16=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_is_brute_force(count, dim, k, spread, kinds, bfloat16, threads, seed):
    """Also where all rows are equal, or a few kinds of them are repeated, and rows of zeros."""
    rng = np.random.default_rng(seed)
    vectors = crowded(rng, count, dim, spread)
    if kinds:
        vectors = vectors[rng.integers(min(kinds, count), size=count)]
    vectors[rng.random(count) < 0.02] = 0
    expected = brute_force(vectors, vectors[:20], min(k, count))
    for index in (ExactIndex(vectors, bfloat16=bfloat16, threads=threads), SmallIndex(vectors)):
        found = index.search(vectors[:20], k)
        assert found[0].shape == (min(20, count), min(k, count))
        assert same(found, expected)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_blocks_and_threads_do_not_matter(rng, monkeypatch, bfloat16):
    vectors = crowded(rng, 3000, 48, 0.5)
    expected = brute_force(vectors, vectors[:300], 30)
    for queries, rows, threads in ((256, 32_768, 1), (70, 401, 3), (64, 1000, 2)):
        monkeypatch.setattr(exact_index, "BLOCK_QUERIES", queries)
        monkeypatch.setattr(exact_index, "BLOCK_ROWS", rows)
        assert same(ExactIndex(vectors, bfloat16=bfloat16, threads=threads).search(vectors[:300], 30), expected)


def test_what_float32_makes_equal_comes_in_order_of_row(rng):
    vectors = normalize_rows(rng.normal(size=64) + 5e-4 * rng.normal(size=(2000, 64)))
    expected = brute_force(vectors, vectors[:50], 20)
    assert (np.diff(expected[0]) == 0).mean() > 0.3
    for index in (ExactIndex(vectors), SmallIndex(vectors)):
        assert same(index.search(vectors[:50], 20), expected)


def test_few_rows_and_many_have_an_index_each(monkeypatch, rng):
    vectors = crowded(rng, 300, 8, 0.5)
    assert isinstance(exact_index_of(vectors), SmallIndex)
    monkeypatch.setattr(small_index, "FEW_ROWS", 299)
    assert isinstance(exact_index_of(vectors), ExactIndex)


def exact_index_of(vectors):
    return small_index.exact_index(vectors, bfloat16=False, threads=1)


def test_rounded_products_alone_would_not_do(rng):
    """So that the tests above see it if a bound is too narrow."""
    vectors = crowded(rng, 3000, 48, 0.5)
    tensors = torch.from_numpy(vectors).bfloat16()
    rounded = (tensors[:300].float() @ tensors.float().T).topk(30, dim=1).indices.numpy()
    _, expected = brute_force(vectors, vectors[:300], 30)
    assert (np.sort(rounded) != np.sort(expected)).mean() > 0.05


@pytest.mark.parametrize(("spread", "stays"), [(2.0, True), (0.001, False)])
def test_rounding_ends_where_the_rows_are_too_much_alike(rng, spread, stays):
    vectors = normalize_rows(rng.normal(size=512) + spread * rng.normal(size=(2000, 512)))
    index = ExactIndex(vectors, bfloat16=True)
    assert same(index.search(vectors[:300], 10), brute_force(vectors, vectors[:300], 10))
    assert index._bfloat16 == stays


def test_most_rows_are_not_looked_at(rng, monkeypatch):
    looked_at = []
    look = exact_index._look
    monkeypatch.setattr(exact_index, "_look", lambda *given: looked_at.append(look(*given)) or looked_at[-1])
    vectors = normalize_rows(rng.normal(size=(20_000, 16)))
    ExactIndex(vectors).search(vectors[:50], 20)
    assert 50 * 20 <= sum(looked_at) < 50 * 22


def test_torch_may_round_float32(rng):
    """Who allows it gets the same neighbours."""
    vectors = crowded(rng, 2000, 64, 0.5)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert exact_index._side(vectors, bfloat16=False).lost > 1e-3
        found = ExactIndex(vectors).search(vectors[:100], 20)
    finally:
        torch.set_float32_matmul_precision(before)
    assert exact_index._side(vectors, bfloat16=False).lost == 0
    assert same(found, brute_force(vectors, vectors[:100], 20))


def test_what_rounding_loses_is_measured(rng):
    vectors = normalize_rows(rng.normal(size=(100, 300)))
    side = exact_index._side(vectors, bfloat16=True)
    assert side.values.dtype == torch.bfloat16
    lost = np.linalg.norm(vectors - side.values.float().numpy(), axis=1)
    assert side.lost == pytest.approx(lost.max())
