"""D2 against the authors' own program (tests/golden/README.md) and against the plain loop."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfs_ray.core.graph import select_by_density, start_density

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "d2_a.npz")
K = int(GOLDEN["n_neighbor"])
# Column 0 is the sample itself.
NONE = np.zeros(len(GOLDEN["distances"]), bool)
DISTANCES, NEIGHBORS = GOLDEN["distances"][:, 1 : K + 1], GOLDEN["neighbors"][:, 1 : K + 1]


@pytest.mark.parametrize("mode", ["sum", "product"])
def test_start_density_equals_the_published(mode):
    found = start_density(GOLDEN["importance"], DISTANCES, NEIGHBORS, product=mode == "product")
    np.testing.assert_allclose(found, GOLDEN[f"{mode}__start_density"], rtol=1e-12)


@pytest.mark.parametrize("mode", ["sum", "product"])
@pytest.mark.parametrize(
    ("rule", "gamma"), [("weighted__gamma1.0", 1.0), ("weighted__gamma0.1", 0.1), ("absolute", 1.0)]
)
@pytest.mark.parametrize("share", [10, 50])
def test_order_equals_the_published(mode, rule, gamma, share):
    """The published function returns a set; the stored order is that in which its loop selected."""
    expected = GOLDEN[f"{mode}__{rule}__order_{share}pct"]
    density = GOLDEN[f"{mode}__start_density"]
    found = select_by_density(density, DISTANCES, NEIGHBORS, gamma, rule != "absolute", len(expected), NONE)
    assert found.tolist() == expected.tolist()


def plain_loop(density, distances, neighbor_ids, gamma, weighted, budget):
    density, order = density.copy(), []
    for _ in range(budget):
        open_density = np.where(np.isin(np.arange(len(density)), order), -np.inf, density)
        row = int(open_density.argmax())
        order.append(row)
        factor = np.exp(-gamma * distances[row]) if weighted else np.ones(len(distances[row]))
        for other, discount in zip(neighbor_ids[row], factor * density[row], strict=True):
            density[other] -= discount
    return order


@given(st.integers(0, 2**16), st.booleans(), st.integers(2, 30))
def test_heap_equals_the_plain_loop(seed, weighted, count):
    """Also with negative densities, which raise their neighbours."""
    rng = np.random.default_rng(seed)
    neighbor_ids = np.array([rng.permutation(np.delete(np.arange(count), row))[:4] for row in range(count)])
    distances = rng.random(neighbor_ids.shape)
    density = rng.normal(size=count)
    expected = plain_loop(density, distances, neighbor_ids, 0.7, weighted, count)
    found = select_by_density(density, distances, neighbor_ids, 0.7, weighted, count, np.zeros(count, bool))
    assert found.tolist() == expected


def test_covered_samples_discount_their_neighbours_and_are_not_selected():
    """Three samples on a line; the middle one has a label already, which makes its neighbour 0 redundant."""
    neighbor_ids, distances = np.array([[1], [0], [1]]), np.array([[0.1], [0.1], [5.0]])
    covered = np.array([False, True, False])
    assert select_by_density(np.array([1.0, 1.0, 0.5]), distances, neighbor_ids, 1.0, True, 2, covered).tolist() == [
        2,
        0,
    ]
