"""Neighbours over shards: equal to brute force, whatever the number of shards and the order of merging."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfs_ray.core.features import normalize_rows
from elfs_ray.core.knn import drop_self, merge_top_k, recall_at_k, shard_ranges
from elfs_ray.core.ranking import rank_candidates


def brute_force(vectors, k):
    """The definition, row by row."""
    similarity = vectors @ vectors.T
    ids = []
    for row in range(len(vectors)):
        others = [other for other in range(len(vectors)) if other != row]
        ids.append(sorted(others, key=lambda other: (-similarity[row, other], other))[:k])
    return np.array(ids)


def search_shard(vectors, start, stop, k):
    """One shard's answer to all queries, under global ids."""
    similarity = vectors @ vectors[start:stop].T
    ids = np.broadcast_to(np.arange(start, stop), similarity.shape)
    return merge_top_k([(ids, similarity)], min(k, stop - start))


@given(st.integers(1, 50), st.integers(1, 70))
def test_ranges_cover_all_rows_once(num_rows, num_shards):
    ranges = shard_ranges(num_rows, num_shards)
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(num_rows))
    sizes = [stop - start for start, stop in ranges]
    assert max(sizes) - min(sizes) <= 1


def test_one_shard_is_brute_force(rng):
    vectors = normalize_rows(rng.normal(size=(60, 5)))
    ids, similarity = drop_self(*search_shard(vectors, 0, 60, 8), np.arange(60), 7)
    assert ids.tolist() == brute_force(vectors, 7).tolist()
    np.testing.assert_allclose(similarity, np.take_along_axis(vectors @ vectors.T, ids, axis=1), rtol=1e-6)


@pytest.mark.parametrize("num_shards", [1, 2, 5, 40])
def test_any_number_of_shards_gives_the_same(rng, num_shards):
    # Small whole numbers: similarities are exact, and many are equal.
    vectors = rng.integers(-2, 3, size=(40, 3)).astype(np.float32)
    parts = [search_shard(vectors, start, stop, 6) for start, stop in shard_ranges(40, num_shards)]
    ids, _ = drop_self(*merge_top_k(parts, 6), np.arange(40), 5)
    expected, _ = drop_self(*search_shard(vectors, 0, 40, 6), np.arange(40), 5)
    assert ids.tolist() == expected.tolist()
    assert not (ids == np.arange(40)[:, None]).any()


@given(st.integers(0, 2**16), st.integers(1, 6), st.integers(1, 4))
def test_merging_is_associative(seed, k, width):
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(60).reshape(3, 4, 5)
    parts = [(ids, rng.integers(width, size=ids.shape).astype(np.float32)) for ids in numbers]
    left = merge_top_k([merge_top_k(parts[:2], k), parts[2]], k)
    right = merge_top_k([parts[0], merge_top_k(parts[1:], k)], k)
    for one, other, together in zip(left, right, merge_top_k(parts, k), strict=True):
        assert one.tolist() == other.tolist() == together.tolist()


def test_ranked_candidates_are_the_best_of_them(rng):
    queries, vectors = normalize_rows(rng.normal(size=(9, 6))), normalize_rows(rng.normal(size=(40, 6)))
    rows = np.stack([rng.choice(40, 12, replace=False) for _ in queries])
    rows[0, 3:] = -1
    found, similarity = rank_candidates(queries, vectors, rows, 5)
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    for query, candidates in enumerate(rows):
        best = sorted(candidates[candidates >= 0], key=lambda row: -exact[query, row])[:5]
        assert found[query, : len(best)].tolist() == best
        assert similarity[query, : len(best)].tolist() == exact[query, best].astype(np.float32).tolist()
    assert found[0, 3:].tolist() == [-1, -1]
    assert (similarity[0, 3:] == -np.inf).all()


def test_similarity_of_a_pair_does_not_depend_on_its_company(rng):
    queries, vectors = normalize_rows(rng.normal(size=(8, 1280))), normalize_rows(rng.normal(size=(300, 1280)))
    rows = np.tile(np.arange(300), (8, 1))
    together = rank_candidates(queries, vectors, rows, 300)
    for query in range(8):
        alone = [
            rank_candidates(queries[query : query + 1], vectors[i : i + 7], np.arange(min(7, 300 - i))[None], 7)
            for i in range(0, 300, 7)
        ]
        parts = [(ids + 7 * number, values) for number, (ids, values) in enumerate(alone)]
        ids, similarity = merge_top_k(parts, 300)
        assert ids.tolist() == together[0][query : query + 1].tolist()
        assert similarity.tolist() == together[1][query : query + 1].tolist()


def test_missing_answers_come_last():
    ids, _ = merge_top_k([(np.array([[-1, 3]]), np.array([[9.0, 0.1]])), (np.array([[5]]), np.array([[-0.5]]))], 3)
    assert ids.tolist() == [[3, 5, -1]]


def test_a_query_hidden_behind_equal_rows_still_has_k_others():
    ids, similarity = drop_self(np.array([[4, 5, 6]]), np.ones((1, 3), np.float32), np.array([9]), 2)
    assert ids.tolist() == [[4, 5]]
    assert similarity.shape == (1, 2)


def test_recall():
    assert recall_at_k(np.array([[1, 2, 9], [4, 5, 6]]), np.array([[1, 2, 3], [6, 5, 4]])) == pytest.approx(5 / 6)
