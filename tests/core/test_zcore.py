"""ZCore against the authors' own program (tests/golden/README.md) and against the definition."""

from itertools import permutations
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from elfs_ray.core import zcore
from elfs_ray.core.zcore import Draws, as_columns, coverage_scores, draw, min_max

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
    found = coverage_scores(as_columns(GOLDEN["embeddings"]), draws, int(GOLDEN["redund_nn"]))
    np.testing.assert_allclose(found, GOLDEN["scores_raw"], atol=1e-5)
    # The same samples at every budget, but for scores that differ by less than the rounding.
    ours, theirs = np.argsort(-found, kind="stable"), np.argsort(-GOLDEN["scores_raw"], kind="stable")
    for budget in (150, 450, 750):
        assert set(ours[:budget]) == set(theirs[:budget])


@pytest.mark.parametrize("num_neighbors", [1, 5, 39, 100])
@pytest.mark.parametrize("view_dims", [1, 2, 3])
def test_scores_equal_the_definition(rng, num_neighbors, view_dims):
    embeddings = rng.normal(size=(40, 6)).astype(np.float32)
    draws = draw(as_columns(embeddings), 200, view_dims, rng)
    found = coverage_scores(as_columns(embeddings), draws, num_neighbors)
    np.testing.assert_allclose(found, by_definition(embeddings, draws, num_neighbors), atol=1e-4)


def test_an_equal_sample_loses_all_at_once():
    embeddings = np.array([[0, 0], [0, 0], [5, 5]], np.float32)
    found = coverage_scores(as_columns(embeddings), Draws(np.array([[0, 1]]), np.array([[0.1, 0.1]])), 2)
    assert found.tolist() == [1, -1, 0]


def test_draws_follow_the_triangular_distribution(rng):
    embeddings = rng.normal(size=(500, 3)).astype(np.float32)
    draws = draw(as_columns(embeddings), 60_000, 2, rng)
    assert all(len(set(dims)) == 2 for dims in draws.dims[:1000].tolist())
    low, middle, high = embeddings.min(axis=0), np.median(embeddings, axis=0), embeddings.max(axis=0)
    for dim in range(3):
        points = draws.points[draws.dims == dim]
        reference = rng.triangular(low[dim], middle[dim], high[dim], size=len(points))
        deciles = np.linspace(0.1, 0.9, 9)
        np.testing.assert_allclose(np.quantile(points, deciles), np.quantile(reference, deciles), atol=0.06)


@pytest.mark.parametrize("view_dims", [1, 2, 3, 4])
def test_all_views_are_equally_probable(rng, view_dims):
    """Each ordered choice of dimensions, and no dimension twice."""
    dims = draw(as_columns(rng.normal(size=(5, 4))), 24_000, view_dims, rng).dims
    views, counts = np.unique(dims, axis=0, return_counts=True)
    assert views.tolist() == [list(view) for view in sorted(permutations(range(4), view_dims))]
    assert chisquare(counts).pvalue > 1e-4
    # One draw tells nothing of the next, though it leaves its order behind.
    pairs = np.unique(dims[:-1, 0] * 4 + dims[1:, 0], return_counts=True)[1]
    assert len(pairs) == 16
    assert chisquare(pairs).pvalue > 1e-4


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=60))
def test_points_lie_between_the_extremes_about_the_median(values):
    """The median is exact, of an even number of values too, and of equal ones."""
    columns = as_columns(np.array(values, np.float32)[:, None] / 3)
    low, middle, high = np.empty((3, 1))
    zcore._summarize(0, 1, columns, low, middle, high)
    assert (low[0], high[0]) == (columns.min(), columns.max())
    assert middle[0] == pytest.approx(np.median(columns.astype(np.float64)), abs=1e-12)


@pytest.mark.parametrize("count", [1023, 1024, 5000])
@pytest.mark.parametrize("kind", ["normal", "few values", "skewed", "every other one large"])
def test_the_median_is_exact_whatever_the_sample_says(rng, count, kind):
    """Of every second value, or every ninth, which here may be unlike the others."""
    values = rng.normal(size=count)
    values = {
        "normal": values,
        "few values": values.round(),
        "skewed": np.exp(9 * values),
        "every other one large": values + 100 * (np.arange(count) % (count // zcore.SAMPLE) == 0),
    }[kind].astype(np.float32)
    found = zcore._median(values, np.empty(count + 1, np.float32))
    assert found == np.median(values.astype(np.float64))


@given(
    st.lists(st.integers(0, 9) | st.just(np.inf) | st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=50),
    st.data(),
)
def test_the_nth_smallest(values, data):
    values = np.array(values, np.float32)
    wanted = data.draw(st.integers(1, len(values)))
    assert zcore._nth_smallest(values, wanted) == np.sort(values)[wanted - 1]


def test_threads_do_not_matter(rng):
    columns = as_columns(rng.normal(size=(300, 5)))
    draws = draw(columns, 500, 2, rng)
    threads, found = numba.get_num_threads(), []
    for count in range(1, threads + 1):
        numba.set_num_threads(count)
        found.append(coverage_scores(columns, draws, 50).tolist())
    numba.set_num_threads(threads)
    assert all(scores == found[0] for scores in found)


def test_a_constant_dimension_is_no_error(rng):
    """The published program fails on it."""
    embeddings = np.column_stack([np.full(30, 2.0), rng.normal(size=30)]).astype(np.float32)
    draws = draw(as_columns(embeddings), 50, 2, rng)
    assert (draws.points[draws.dims == 0] == 2).all()
    assert np.isfinite(coverage_scores(as_columns(embeddings), draws, 5)).all()


def test_every_draw_is_another_one(rng):
    """The published workers share one random state, and draw the same points."""
    draws = draw(as_columns(rng.normal(size=(50, 8))), 1000, 2, rng)
    assert len(np.unique(draws.points, axis=0)) == 1000


def test_min_max():
    assert min_max(np.array([2.0, 4.0, 3.0])).tolist() == [0, 1, 0.5]
    assert min_max(np.array([2.0, 2.0])).tolist() == [0, 0]
