import numpy as np
import pytest

from elfs_ray.core.anchoring import name_clusters, spread_by_probes
from elfs_ray.core.features import normalize_rows


@pytest.fixture
def blobs(rng):
    labels = np.arange(300) % 3
    return normalize_rows(3 * np.eye(8)[labels] + rng.normal(size=(300, 8))), labels


def test_a_few_labels_teach_the_others(blobs, rng):
    vectors, labels = blobs
    seeds = np.arange(30)
    clusters = np.where(labels == 2, 0, labels)  # one cluster holds two classes
    found = spread_by_probes(vectors, clusters, seeds, labels[seeds], rng, steps=100)
    assert (found.labels == labels).mean() > 0.9
    assert (found.labels.dtype, found.confidence.dtype, found.agreement.dtype) == (np.int32, np.float32, np.float32)
    assert ((found.agreement >= 0.2) & (found.agreement <= 1)).all()
    assert found.cluster_accuracy == pytest.approx(2 / 3, abs=0.05)
    assert found.accuracy > 0.9
    # Sure where right.
    right = found.labels == labels
    assert found.confidence[right].mean() > found.confidence[~right].mean()


def test_accuracy_is_that_on_labels_not_learned_from(blobs, rng):
    """Labels at random cannot be told from vectors or clusters: what was learned by heart must not count."""
    vectors, _ = blobs
    clusters = np.arange(300) % 20
    seed_labels = rng.integers(3, size=60)
    found = spread_by_probes(vectors, clusters, np.arange(60), seed_labels, rng, steps=200)
    assert found.accuracy == pytest.approx(1 / 3, abs=0.15)
    assert found.cluster_accuracy == pytest.approx(1 / 3, abs=0.15)


def test_clusters_are_named_by_their_majority():
    names = name_clusters(np.array([0, 0, 0, 2, 2]), np.array([1, 1, 0, 3, 3]), 4)
    assert names.tolist() == [1, -1, 3, -1]
