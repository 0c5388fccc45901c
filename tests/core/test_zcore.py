"""ZCore against the authors' own program (tests/golden/README.md) and against the definition."""

from pathlib import Path

import numpy as np
import pytest

from elfs_ray.core.zcore import Draws, coverage_scores, draw, min_max

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "zcore_a.npz")


def by_definition(embeddings, draws, num_neighbors):
    scores = np.zeros(len(embeddings))
    for dims, point in zip(*draws, strict=True):
        view = embeddings[:, dims].astype(np.float64)
        nearest = np.abs(view - point).sum(axis=1).argmin()
        scores[nearest] += 1
        distances = np.abs(view - view[nearest]).sum(axis=1)
        distances[nearest] = np.inf
        order = np.argsort(distances, kind="stable")[: min(num_neighbors, len(view) - 1)]
        if distances[order[0]] == 0:
            scores[order[0]] -= 1
        else:
            weights = distances[order] ** -4.0
            scores[order] -= weights / weights.sum()
    return scores


def test_scores_of_the_same_draws_equal_the_published():
    draws = Draws(GOLDEN["draw_dims"], GOLDEN["draw_samples"])
    found = coverage_scores(GOLDEN["embeddings"], draws, int(GOLDEN["redund_nn"]))
    np.testing.assert_allclose(found, GOLDEN["scores_raw"], atol=1e-5)
    # The same samples at every budget, but for scores that differ by less than the rounding.
    ours, theirs = np.argsort(-found, kind="stable"), np.argsort(-GOLDEN["scores_raw"], kind="stable")
    for budget in (150, 450, 750):
        assert set(ours[:budget]) == set(theirs[:budget])


@pytest.mark.parametrize("num_neighbors", [1, 5, 39, 100])
@pytest.mark.parametrize("view_dims", [1, 2, 3])
def test_scores_equal_the_definition(rng, num_neighbors, view_dims):
    embeddings = rng.normal(size=(40, 6)).astype(np.float32)
    draws = draw(embeddings, 200, view_dims, rng)
    found = coverage_scores(embeddings, draws, num_neighbors)
    np.testing.assert_allclose(found, by_definition(embeddings, draws, num_neighbors), atol=1e-4)


def test_an_equal_sample_loses_all_at_once():
    embeddings = np.array([[0, 0], [0, 0], [5, 5]], np.float32)
    found = coverage_scores(embeddings, Draws(np.array([[0, 1]]), np.array([[0.1, 0.1]])), 2)
    assert found.tolist() == [1, -1, 0]


def test_draws_follow_the_triangular_distribution(rng):
    embeddings = rng.normal(size=(500, 3)).astype(np.float32)
    draws = draw(embeddings, 60_000, 2, rng)
    assert all(len(set(dims)) == 2 for dims in draws.dims[:1000].tolist())
    low, middle, high = embeddings.min(axis=0), np.median(embeddings, axis=0), embeddings.max(axis=0)
    for dim in range(3):
        points = draws.points[draws.dims == dim]
        reference = rng.triangular(low[dim], middle[dim], high[dim], size=len(points))
        deciles = np.linspace(0.1, 0.9, 9)
        np.testing.assert_allclose(np.quantile(points, deciles), np.quantile(reference, deciles), atol=0.06)


def test_a_constant_dimension_is_no_error(rng):
    """The published program fails on it."""
    embeddings = np.column_stack([np.full(30, 2.0), rng.normal(size=30)]).astype(np.float32)
    draws = draw(embeddings, 50, 2, rng)
    assert (draws.points[draws.dims == 0] == 2).all()
    assert np.isfinite(coverage_scores(embeddings, draws, 5)).all()


def test_every_draw_is_another_one(rng):
    """The published workers share one random state, and draw the same points."""
    draws = draw(rng.normal(size=(50, 8)), 1000, 2, rng)
    assert len(np.unique(draws.points, axis=0)) == 1000


def test_min_max():
    assert min_max(np.array([2.0, 4.0, 3.0])).tolist() == [0, 1, 0.5]
    assert min_max(np.array([2.0, 2.0])).tolist() == [0, 0]
