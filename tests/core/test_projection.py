import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from elfs_ray.core.projection import neighbor_map, principal_plane


@pytest.fixture
def groups(rng):
    """Five groups of 30 rows in 60 dimensions."""
    centres = 3 * rng.standard_normal((5, 60))
    return (np.repeat(centres, 30, axis=0) + rng.standard_normal((150, 60))).astype(np.float32)


def test_neighbours_stay_neighbours(groups):
    points = neighbor_map(groups, seed=0, threads=1)
    assert points.shape == (150, 2)
    assert trustworthiness(groups, points, n_neighbors=10) > 0.9
    assert trustworthiness(groups, points, n_neighbors=10) > trustworthiness(
        groups, principal_plane(groups), n_neighbors=10
    )


def test_the_same_again(groups):
    assert np.array_equal(neighbor_map(groups, seed=3, threads=1), neighbor_map(groups, seed=3, threads=1))


@pytest.mark.parametrize("rows", [1, 2, 3, 12])
def test_few_rows(groups, rows):
    points = neighbor_map(groups[:rows], seed=0, threads=1)
    assert points.shape == (rows, 2)
    assert np.isfinite(points).all()


def test_rows_that_are_all_the_same():
    points = neighbor_map(np.ones((40, 8), np.float32), seed=0, threads=1)
    assert np.isfinite(points).all()


def test_one_dimension():
    line = np.arange(20, dtype=np.float32)[:, None]
    assert np.isfinite(neighbor_map(line, seed=0, threads=1)).all()
    assert np.array_equal(principal_plane(line)[:, 1], np.zeros(20))
