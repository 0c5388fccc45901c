"""Samples that have labels already, and quotas for clusters, around every method."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_contract import METHODS, N, build, make_inputs

from elfs_ray.errors import UsageError
from elfs_ray.methods import SelectionInputs, get_method, select_coreset
from elfs_ray.methods.coreset import cluster_quotas


def choose(name, inputs, budget, **options):
    return select_coreset(build(name), inputs, budget, np.random.default_rng(0), **options)


@pytest.fixture
def labeled():
    mask = np.zeros(N, bool)
    mask[[50, 3, 17, 18]] = True
    return mask


@pytest.mark.parametrize("name", METHODS)
class TestLabeled:
    @pytest.mark.parametrize("balance", ["none", "cluster"])
    @pytest.mark.parametrize("budget", [5, 20, N])
    def test_they_count_and_come_first_and_once(self, name, labeled, budget, balance):
        positions = choose(name, make_inputs(labeled=labeled), budget, balance=balance).positions
        assert positions[:4].tolist() == [3, 17, 18, 50]
        assert len(set(positions.tolist())) == len(positions) == budget

    def test_they_may_not_fill_the_budget(self, name, labeled):
        with pytest.raises(UsageError, match="4 samples have labels already, which leaves nothing of the budget of 4"):
            choose(name, make_inputs(labeled=labeled), 4)


@pytest.mark.parametrize("name", ["kcenter", "d2", "zcore", "typiclust"])
def test_coverage_methods_keep_away_from_labelled_samples(name):
    """Two equal blobs, one of them labelled: what is new comes from the other."""
    rng = np.random.default_rng(0)
    centres = np.repeat([[1.0, 0, 0], [0, 1.0, 0]], 30, axis=0)
    vectors = (centres + 0.05 * rng.normal(size=(60, 3))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    neighbor_ids = np.argsort(-similarity, axis=1)[:, :12]
    labeled = np.arange(60) < 25
    inputs = make_inputs(
        labeled=labeled,
        embeddings=vectors,
        neighbor_ids=neighbor_ids,
        neighbor_similarity=np.take_along_axis(similarity, neighbor_ids, axis=1),
    )
    new = choose(name, inputs, 29).positions[25:]
    assert (new >= 30).mean() >= 0.75


@pytest.mark.parametrize("name", METHODS)
def test_balance_gives_each_cluster_its_share(name):
    clusters = np.repeat([0, 1, 2], [30, 20, 10]).astype(np.int32)
    positions = choose(name, make_inputs(pseudo_labels=clusters), 12, balance="cluster").positions
    assert np.bincount(clusters[positions]).tolist() == [6, 4, 2]
    # Also at the beginning of the list.
    assert np.bincount(clusters[positions[:6]], minlength=3).tolist() == [3, 2, 1]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.data())
def test_quotas_are_exact_and_fit(sizes, data):
    sizes = np.array(sizes)
    capacities = np.array([data.draw(st.integers(0, int(size))) for size in sizes])
    budget = data.draw(st.integers(0, int(capacities.sum())))
    quotas = cluster_quotas(sizes, capacities, budget)
    assert quotas.sum() == budget
    assert (quotas >= 0).all()
    assert (quotas <= capacities).all()


def test_quotas_are_proportional():
    """The published class-balanced mode takes the last class's count for every class."""
    sizes = np.array([500, 300, 200])
    assert cluster_quotas(sizes, sizes, 100).tolist() == [50, 30, 20]
    assert cluster_quotas(sizes, np.array([10, 300, 200]), 100).tolist() == [10, 54, 36]


def test_balance_leaves_room_for_the_share_that_is_dropped():
    clusters = np.repeat([0, 1], [40, 20]).astype(np.int32)
    method = get_method("elfs", beta=0.5)
    inputs = make_inputs(pseudo_labels=clusters)
    assert len(select_coreset(method, inputs, 30, np.random.default_rng(0), balance="cluster").positions) == 30
    with pytest.raises(
        UsageError, match="this beta leaves 30 samples, fewer than the budget of 31; use a smaller beta"
    ):
        select_coreset(method, inputs, 31, np.random.default_rng(0), balance="cluster")


@given(st.lists(st.integers(0, 4), min_size=4, max_size=60), st.data())
def test_balance_fits_any_clusters(labels, data):
    """Also where beta and the budget take all there is, and rounding in a cluster leaves one too few."""
    count = len(labels)
    dropped = data.draw(st.integers(0, count - 1))
    budget = count - dropped
    method = get_method("elfs", beta=dropped / count)
    dynamics = {"aum": np.arange(count, dtype=float)}
    inputs = SelectionInputs(ids=np.arange(count), pseudo_labels=np.array(labels, np.int32), dynamics=dynamics)
    positions = select_coreset(method, inputs, budget, np.random.default_rng(0), balance="cluster").positions
    assert len(set(positions.tolist())) == budget


def test_unknown_balance():
    with pytest.raises(UsageError, match="balance 'clusters' is unknown; choose one of auto, none, cluster"):
        choose("random", make_inputs(), 5, balance="clusters")


def test_a_part_of_the_inputs_keeps_its_neighbours():
    inputs = make_inputs()
    rows = np.arange(0, N, 2)
    part = inputs.take(rows)
    for number, row in enumerate(rows):
        inside = np.isfinite(part.neighbor_similarity[number])
        kept = inputs.neighbor_ids[row] % 2 == 0
        assert rows[part.neighbor_ids[number]][inside].tolist() == inputs.neighbor_ids[row][kept].tolist()
        assert part.neighbor_similarity[number][inside].tolist() == inputs.neighbor_similarity[row][kept].tolist()
