"""k-centre, centroids and k-means++: the authors' own programs (tests/golden/README.md) and the definitions."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfs_ray.core.centers import (
    centroid_distances,
    class_means,
    greedy_k_center,
    k_means,
    k_means_plus_plus,
    regions,
)

GOLDEN = Path(__file__).parent.parent / "golden"
K_CENTER, PROTOTYPES = np.load(GOLDEN / "kcenter_a.npz"), np.load(GOLDEN / "prototypicality_a.npz")


@pytest.mark.parametrize("data", ["d2dim", "d64dim"])
@pytest.mark.parametrize("program", ["d2repo", "deepcore"])
def test_k_center_order_equals_the_published(data, program):
    expected = K_CENTER[f"{data}__{program}_order"]
    found = greedy_k_center(K_CENTER[f"{data}__X"], len(expected), first=int(expected[0]))
    assert found.tolist() == expected.tolist()


def test_k_center_keeps_away_from_what_is_covered():
    line = np.arange(11, dtype=np.float32)[:, None]
    covered = np.zeros(11, bool)
    covered[[0, 1]] = True
    assert greedy_k_center(line, 3, covered=covered).tolist() == [10, 5, 3]


@given(st.integers(0, 2**16), st.integers(1, 12))
def test_k_center_is_greedy(seed, budget):
    vectors = np.random.default_rng(seed).integers(-3, 4, size=(12, 2)).astype(np.float32)
    order = greedy_k_center(vectors, budget).tolist()
    assert len(set(order)) == budget
    for number in range(1, budget):
        distances = np.linalg.norm(vectors[:, None] - vectors[order[:number]], axis=2).min(axis=1)
        assert distances[order[number]] == pytest.approx(distances.max(), abs=1e-3)


def test_distances_and_order_equal_the_published():
    distances = centroid_distances(PROTOTYPES["embeddings"], PROTOTYPES["centroids"], PROTOTYPES["labels"])
    np.testing.assert_allclose(distances, PROTOTYPES["distances"], rtol=1e-12)
    assert np.argsort(-distances, kind="stable").tolist() == PROTOTYPES["order_descending"].tolist()


def test_k_means_finds_far_blobs(rng):
    truth = np.repeat(np.arange(3), 20)
    centroids, labels = k_means(rng.normal(size=(60, 2)) + 50 * truth[:, None], 3, rng)
    assert len({*zip(truth.tolist(), labels.tolist(), strict=True)}) == 3
    np.testing.assert_allclose(np.sort(centroids[:, 0]), [0, 50, 100], atol=1.5)


@pytest.mark.parametrize("count", [20, 400])
def test_regions_follow_far_blobs(rng, count):
    """Also where only a sample of the rows is looked at: more than 64 for each region."""
    truth = np.repeat([0, 1], count)
    vectors = (rng.normal(size=(2 * count, 2)) + 50 * truth[:, None]).astype(np.float32)
    found = regions(vectors, 2, rng)
    assert found.dtype == np.int64
    assert {*zip(truth.tolist(), found.tolist(), strict=True)} in ({(0, 0), (1, 1)}, {(0, 1), (1, 0)})


@given(st.integers(0, 2**16), st.integers(1, 30), st.integers(1, 5))
def test_any_number_of_regions_fits(seed, count, spread):
    """Many equal rows too, which are never parted."""
    vectors = np.random.default_rng(seed).integers(-spread, spread, size=(30, 2)).astype(np.float32)
    found = regions(vectors, count, np.random.default_rng(seed))
    assert found.shape == (30,)
    assert 0 <= found.min() <= found.max() < count
    for row in np.unique(vectors, axis=0):
        assert len(set(found[(vectors == row).all(axis=1)].tolist())) == 1


def test_class_means_by_hand():
    vectors = np.array([[1, 0], [3, 0], [0, 5]], np.float32)
    assert class_means(vectors, np.array([0, 0, 2])).tolist() == [[2, 0], [0, 0], [0, 5]]


class TestPlusPlus:
    def test_starts_with_the_largest_gradient_and_never_repeats(self, rng):
        errors, vectors = rng.normal(size=(30, 4)), rng.normal(size=(30, 5))
        order = k_means_plus_plus(errors, vectors, 30, rng)
        norms = (errors**2).sum(axis=1) * (vectors**2).sum(axis=1)
        assert order[0] == norms.argmax()
        assert sorted(order) == list(range(30))

    def test_draws_in_proportion_to_the_squared_distance(self):
        """Three gradients 0, 1 and 2 apart from a covered one on a line: chances 0, 1/5 and 4/5."""
        errors, vectors = np.array([[0.0], [1.0], [2.0]]), np.ones((3, 1))
        covered = np.array([True, False, False])
        rng = np.random.default_rng(0)
        first = [k_means_plus_plus(errors, vectors, 1, rng, covered=covered)[0] for _ in range(2000)]
        assert np.mean(np.array(first) == 2) == pytest.approx(0.8, abs=0.03)
        assert 0 not in first

    def test_equal_gradients_are_no_error(self, rng):
        order = k_means_plus_plus(np.ones((5, 2)), np.ones((5, 3)), 5, rng)
        assert sorted(order) == list(range(5))
