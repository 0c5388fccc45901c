import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import normalized_mutual_info_score

from elfs_ray.core.metrics import (
    best_candidate,
    cluster_accuracy,
    first_within_noise,
    mean_and_interval,
    nearest_similarity,
    normalized_mutual_information,
)


def test_cluster_accuracy_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    clusters = np.array([2, 2, 1, 1, 1, 0])
    assert cluster_accuracy(labels, clusters) == pytest.approx(5 / 6)


def test_cluster_accuracy_with_more_clusters_than_labels():
    assert cluster_accuracy(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])) == pytest.approx(0.5)


@given(st.integers(0, 2**16), st.integers(1, 6))
def test_renaming_clusters_changes_nothing(seed, num_classes):
    rng = np.random.default_rng(seed)
    labels, clusters = rng.integers(num_classes, size=(2, 50))
    renamed = rng.permutation(num_classes)[clusters]
    assert cluster_accuracy(labels, clusters) == cluster_accuracy(labels, renamed)


@given(st.integers(0, 2**16))
def test_mutual_information_equals_scikit_learn(seed):
    labels, clusters = np.random.default_rng(seed).integers(4, size=(2, 40))
    expected = normalized_mutual_info_score(labels, clusters)
    assert normalized_mutual_information(labels, clusters) == pytest.approx(expected, abs=1e-9)


def test_interval_is_students():
    values = [0.70, 0.72, 0.71, 0.75, 0.73]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    result = mean_and_interval(values)
    assert (result.mean - result.half_width, result.mean + result.half_width) == pytest.approx((low, high))
    assert result.std == pytest.approx(np.std(values, ddof=1))


def test_single_value_has_no_spread():
    assert mean_and_interval([0.5]) == (0.5, 0.0, 0.0, 1)


VECTORS = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)


def test_nearest_similarity_by_hand():
    assert nearest_similarity(VECTORS, VECTORS[:2], block_rows=2) == pytest.approx([1, 1, 0.8])


def test_nearest_other_by_hand():
    own = np.array([2, 0])
    assert nearest_similarity(VECTORS[own], VECTORS, own, block_rows=1) == pytest.approx([0.8, 0.6])


class TestBestCandidate:
    VALUES = np.array([[0.8, 0.2], [0.5, 0.52], [0.6, 0.62]])

    def test_what_was_stopped_is_not_compared_with_what_was_not(self):
        """The spread between the seeds of the first is that of their steps."""
        steps = np.array([[90, 10], [90, 90], [90, 90]])
        for within_noise in (False, True):
            assert best_candidate(self.VALUES, steps, within_noise=within_noise) == 2
        assert first_within_noise(self.VALUES) == 0  # what its spread would do
        assert best_candidate(self.VALUES, np.array([[30, 30], [90, 10], [30, 90]]), within_noise=False) == 2

    def test_ties_go_to_the_first(self):
        values = np.array([[0.1, 0.2], [0.3, 0.1], [0.1, 0.3]])
        assert best_candidate(values, np.full((3, 2), 10), within_noise=False) == 1


class TestFirstWithinNoise:
    def test_by_hand(self):
        """Paired differences to the best, 0.9: 0.02 +- 0.04, 0.1 +- 0.02 and 0.4 +- 0.02 (standard deviations)."""
        best = np.array([0.9, 0.9])
        noisy, worse, far = (best - mean - np.array([spread, -spread]) / 2**0.5
                             for mean, spread in ((0.02, 0.04), (0.1, 0.02), (0.4, 0.02)))  # fmt: skip
        assert first_within_noise(np.stack([far, noisy, best, worse])) == 2  # 0.02 is above 0.02 / sqrt(2)
        assert first_within_noise(np.stack([far, noisy + 0.01, best, worse])) == 1

    def test_one_seed_or_one_candidate(self):
        assert first_within_noise(np.array([[0.5], [0.7], [0.7], [0.6]])) == 1
        assert first_within_noise(np.array([[0.5, 0.6]])) == 0
