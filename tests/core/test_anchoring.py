import numpy as np
import pytest

from elfs_ray.core.anchoring import majority_accuracy, spread_by_probes
from elfs_ray.core.features import normalize_rows


@pytest.fixture
def blobs(rng):
    labels = np.arange(300) % 3
    return normalize_rows(3 * np.eye(8)[labels] + rng.normal(size=(300, 8))), labels


def test_a_few_labels_teach_the_others(blobs, rng):
    vectors, labels = blobs
    seeds = np.arange(30)
    found = spread_by_probes(vectors, seeds, labels[seeds], rng, steps=100)
    assert (found.labels == labels).mean() > 0.9
    assert (found.labels.dtype, found.confidence.dtype, found.agreement.dtype) == (np.int32, np.float32, np.float32)
    assert ((found.agreement >= 0.2) & (found.agreement <= 1)).all()
    # Sure where right.
    right = found.labels == labels
    assert found.confidence[right].mean() > found.confidence[~right].mean()


def test_accuracy_is_that_on_labels_not_learned_from(blobs, rng):
    """Labels at random cannot be told from the vectors: what was learned by heart must not count."""
    vectors, _ = blobs
    seed_labels = rng.integers(3, size=60)
    found = spread_by_probes(vectors, np.arange(60), seed_labels, rng, steps=200)
    assert found.accuracy == pytest.approx(1 / 3, abs=0.15)


def test_majority_by_hand():
    assert majority_accuracy(np.array([0, 0, 0, 2, 2]), np.array([1, 1, 0, 3, 3])) == pytest.approx(4 / 5)
