"""What every selection method must do, run over all of them; and each method's own rule on a case worked by hand."""

import subprocess
import sys

import numpy as np
import pytest

from elfs_ray.artifacts.schema import dynamics
from elfs_ray.errors import UsageError
from elfs_ray.methods import SelectionInputs, available_methods, get_method, select_coreset

N, DIM, K = 60, 6, 12
TYPES = {field.name: field.type for field in list(dynamics(tdds=True))[2:]}
METHODS = sorted(available_methods())


def make_inputs(seed=0, count=N, **changes):
    """Random inputs of every kind a method may need."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(count, DIM)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    k = min(K, max(1, (count - 1) // 2))
    neighbor_ids = np.array([rng.permutation(np.delete(np.arange(count), row))[:k] for row in range(count)])
    values = {
        "ids": np.arange(count),
        "embeddings": embeddings,
        "neighbor_ids": neighbor_ids,
        "neighbor_similarity": np.sort(rng.random(neighbor_ids.shape, dtype=np.float32))[:, ::-1],
        "pseudo_labels": rng.integers(4, size=count).astype(np.int32),
        "dynamics": {name: rng.random(count).astype(kind.to_pandas_dtype()) for name, kind in TYPES.items()},
    }
    return SelectionInputs(**{**values, **changes})


# What takes long is shortened: the contract holds whatever the options.
QUICK = {"badge": {"steps": 5}, "puma": {"steps": 5}, "zcore": {"draws": 2000}}


def build(name, **options):
    return get_method(name, **QUICK.get(name, {}), **options)


def select(name, inputs, budget, seed=0):
    return select_coreset(build(name), inputs, budget, np.random.default_rng(seed), balance="none")


@pytest.mark.parametrize("name", METHODS)
class TestContract:
    @pytest.mark.parametrize("budget", [1, 2, 17, N - 1, N])
    def test_exact_budget_without_repeats(self, name, budget):
        selection = select(name, make_inputs(), budget)
        assert len(selection.positions) == budget
        assert len(set(selection.positions.tolist())) == budget
        assert selection.positions.min() >= 0
        assert selection.positions.max() < N

    @pytest.mark.parametrize("count", [2, 3, 5, 12, 41])
    def test_options_that_nobody_named_fit_few_samples(self, name, count):
        inputs = make_inputs(count=count)
        for budget in {1, count // 2, count - 1}:
            for balance in ("none", "cluster"):
                chosen = select_coreset(build(name), inputs, budget, np.random.default_rng(0), balance=balance)
                assert len(set(chosen.positions.tolist())) == budget

    def test_types_of_the_answer(self, name):
        selection = select(name, make_inputs(), 9)
        assert selection.positions.dtype == np.int64
        assert selection.scores.dtype == np.float32
        assert selection.scores.shape == (N,)

    def test_same_seed_same_answer(self, name):
        first, second = (select(name, make_inputs(), 20, seed=5) for _ in range(2))
        assert first.positions.tolist() == second.positions.tolist()

    def test_constant_scores_are_no_error(self, name):
        flat = {key: np.ones(N, kind.to_pandas_dtype()) for key, kind in TYPES.items()}
        assert len(select(name, make_inputs(dynamics=flat), 7).positions) == 7

    def test_double_precision_scores_give_the_same(self, name):
        inputs = make_inputs()
        wide = {key: values.astype(np.float64) for key, values in inputs.dynamics.items()}
        expected = select(name, inputs, 20).positions.tolist()
        assert select(name, make_inputs(dynamics=wide), 20).positions.tolist() == expected

    @pytest.mark.parametrize("budget", [0, -1, N + 1])
    def test_a_budget_that_does_not_fit_is_refused(self, name, budget):
        with pytest.raises(UsageError, match=f"budget {budget} does not fit {N} samples"):
            select(name, make_inputs(), budget)

    def test_says_what_it_is(self, name):
        method = available_methods()[name]
        assert method.name == name
        assert len(method.summary) > 10
        assert method.source

    def test_an_option_it_does_not_have_is_an_error(self, name):
        with pytest.raises(UsageError, match=f"method '{name}' has no option 'gama'"):
            get_method(name, gama=1)


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_the_rows_does_not_matter(name):
    inputs, order = make_inputs(), np.random.default_rng(1).permutation(N)
    position = np.argsort(order)
    shuffled = SelectionInputs(
        ids=order,
        embeddings=inputs.embeddings[order],
        neighbor_ids=position[inputs.neighbor_ids[order]],
        neighbor_similarity=inputs.neighbor_similarity[order],
        pseudo_labels=inputs.pseudo_labels[order],
        dynamics={key: values[order] for key, values in inputs.dynamics.items()},
    )
    expected = select(name, inputs, 20).positions.tolist()
    assert order[select(name, shuffled, 20).positions].tolist() == expected

    scores = select(name, inputs, 20).scores
    assert np.allclose(select(name, shuffled, 20).scores, scores[order], atol=1e-6)


@pytest.mark.parametrize("name", ["aum", "forgetting", "el2n", "entropy", "dyn_unc", "tdds", "elfs", "d2"])
def test_ties_go_to_the_smaller_id(name):
    """Where all samples are alike, the first ids are taken, in whatever order the rows come."""
    flat = {key: np.ones(N, kind.to_pandas_dtype()) for key, kind in TYPES.items()}
    ring = (np.arange(N)[:, None] + 20 + np.arange(K)) % N  # nobody among the first has a neighbour there
    order = np.random.default_rng(1).permutation(N)
    inputs = make_inputs(
        ids=order,
        dynamics=flat,
        neighbor_ids=np.argsort(order)[ring[order]],
        neighbor_similarity=np.full((N, K), 0.5, np.float32),
    )
    assert order[select(name, inputs, 7).positions].tolist() == list(range(7))


def test_ids_that_come_twice_are_refused():
    with pytest.raises(UsageError, match="ids name the sample 3 twice; ids must be unique"):
        select("random", make_inputs(ids=np.r_[3, 3, np.arange(N - 2) + 10]), 10)


def test_a_smaller_random_coreset_is_the_beginning_of_a_larger_one():
    small, large = (select("random", make_inputs(), budget).positions.tolist() for budget in (10, 30))
    assert large[:10] == small


def test_elfs_by_hand():
    """Ten samples, the hardest has the smallest margin sum; beta 0.2 drops two, the next three are kept."""
    aum = np.array([9, 1, 8, 2, 7, 3, 6, 4, 5, 0], np.float32)
    inputs = SelectionInputs(ids=np.arange(10), dynamics={"aum": aum})
    selection = get_method("elfs", beta=0.2).select(inputs, 3, np.random.default_rng(0))
    assert selection.positions.tolist() == [3, 5, 7]
    assert selection.scores.tolist() == (-aum).tolist()


def test_elfs_takes_the_score_it_is_told():
    """A published option named forgetting silently selected by AUM."""
    dynamics = {"aum": np.arange(6.0), "forgetting": np.arange(6.0), "never_learned": np.zeros(6, bool)}
    inputs = SelectionInputs(ids=np.arange(6), dynamics=dynamics)
    by_aum = get_method("elfs").select(inputs, 2, np.random.default_rng(0)).positions
    by_forgetting = get_method("elfs", score="forgetting").select(inputs, 2, np.random.default_rng(0)).positions
    assert (by_aum.tolist(), by_forgetting.tolist()) == ([0, 1], [5, 4])


@pytest.mark.parametrize(("share", "kept"), [(0, 20), (0.25, 15), (0.5, 10), (1, 0)])
def test_mixed_keeps_what_is_not_drawn_at_random(share, kept):
    """100 samples, hardest first; beta 0.1 drops ten, so that `elfs` takes 10 to 29."""
    inputs = SelectionInputs(ids=np.arange(100), dynamics={"aum": np.arange(100.0)})
    hard = get_method("elfs", beta=0.1).select(inputs, 20, np.random.default_rng(0)).positions.tolist()
    assert hard == list(range(10, 30))
    mixed = get_method("mixed", beta=0.1, random_share=share)
    draws = [mixed.select(inputs, 20, np.random.default_rng(seed)).positions for seed in range(300)]
    assert all(len(set(draw.tolist())) == 20 for draw in draws)
    in_place = np.sum(np.stack(draws) == hard, axis=0)  # how often each rank is as in `elfs`
    drawn = np.bincount(np.concatenate(draws), minlength=100) / 300
    assert in_place.min() >= 300 * kept / 20 * 0.7
    others = (20 - kept) / (100 - kept)  # of a sample that was not kept
    np.testing.assert_allclose(drawn[[*range(10), *range(30, 100)]].mean(), others, rtol=0.1)
    np.testing.assert_allclose(drawn[10:30].mean(), kept / 20 + (1 - kept / 20) * others, rtol=0.1)
    assert (in_place.sum() == 6000) == (share == 0)


def blobs(*sizes):
    """Vectors of unit length about the axes, so many about each."""
    rng = np.random.default_rng(0)
    axis = np.repeat(np.arange(len(sizes)), sizes)
    vectors = (np.eye(len(sizes))[axis] + 0.01 * rng.normal(size=(len(axis), len(sizes)))).astype(np.float32)
    return axis, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
def test_stratified_gives_each_region_its_share(seed):
    axis, vectors = blobs(30, 10)
    inputs = SelectionInputs(ids=np.arange(40), embeddings=vectors)
    chosen = get_method("stratified", max_regions=2).select(inputs, 8, np.random.default_rng(seed)).positions
    assert np.bincount(axis[chosen]).tolist() == [6, 2]
    assert axis[chosen[[1, 5]]].tolist() != [1, 1]  # the small region comes in its turn
    assert set(axis[chosen[:4]].tolist()) == {0, 1}


def test_typiclust_by_hand():
    """Two clusters; the larger is first, then they take turns; in each the nearest neighbours decide."""
    axis, vectors = blobs(6, 5)
    near = np.array([5, 9, 3, 8, 4, 2, 6, 1, 9, 7, 5], np.float32) / 10
    similarity = np.stack([near, near], axis=1)
    inputs = SelectionInputs(
        ids=np.arange(11),
        embeddings=vectors,
        neighbor_ids=np.zeros((11, 2), np.int64),
        neighbor_similarity=similarity,
    )
    method = get_method("typiclust", max_clusters=2)
    selection = method.select(inputs, 6, np.random.default_rng(0))
    assert selection.positions.tolist() == [1, 8, 3, 9, 0, 6]
    assert axis[selection.positions].tolist() == [0, 1, 0, 1, 0, 1]
    np.testing.assert_allclose(selection.scores, 1 / np.sqrt(2 - 2 * near), rtol=1e-6)
    outliers = get_method("typiclust", max_clusters=2, min_size=6).select(inputs, 7, np.random.default_rng(0))
    assert outliers.positions.tolist() == [1, 3, 0, 4, 2, 5, 8]


def test_typiclust_knows_what_has_labels():
    """The cluster with two labelled samples waits until the other has as many."""
    _, vectors = blobs(6, 5)
    labeled = np.isin(np.arange(11), [1, 3])
    inputs = SelectionInputs(
        ids=np.arange(11),
        embeddings=vectors,
        neighbor_ids=np.zeros((11, 1), np.int64),
        neighbor_similarity=np.linspace(0.9, 0.1, 11, dtype=np.float32)[:, None],
        labeled=labeled,
    )
    chosen = get_method("typiclust", max_clusters=2).select(inputs, 4, np.random.default_rng(0)).positions
    assert chosen.tolist() == [6, 7, 0, 8]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("d2", {"num_neighbors": 13}, "num_neighbors is 13, but only 12 neighbours of each image are found"),
        ("typiclust", {"num_neighbors": 13}, "num_neighbors is 13, but only 12 neighbours of each image are found"),
        ("prototypicality", {"num_clusters": 61}, "num_clusters is 61, more than the 60 samples; lower it"),
    ],
)
def test_a_named_size_that_does_not_fit_is_refused(name, options, message):
    method = build(name, **options)
    with pytest.raises(UsageError, match=message):
        method.check_sizes(N, K)  # before the long stages
    with pytest.raises(UsageError, match=message):
        method.select(make_inputs(), 5, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.arange(0)}, "ids is empty"),
        ({"pseudo_labels": np.zeros(3, np.int32)}, "pseudo_labels has 3 rows, but there are 60 samples"),
        ({"embeddings": np.full((N, 2), np.nan, np.float32)}, "embeddings is not a number for 60 of 60 samples"),
        ({"dynamics": {"aum": np.where(np.arange(N) == 4, np.nan, 1.0)}}, "aum is not a number for 1 of 60 samples"),
    ],
)
def test_wrong_inputs_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        make_inputs(**changes)


def test_unknown_method_suggests_the_closest():
    with pytest.raises(UsageError, match="unknown method 'efls'; did you mean 'elfs'"):
        get_method("efls")


def test_methods_and_core_leave_ray_alone():
    """They must run on a machine without Ray, and without reading files."""
    code = (
        "import pkgutil, importlib, sys, elfs_ray.core, elfs_ray.methods;"
        "[importlib.import_module(f'{p.__name__}.{m.name}')"
        " for p in (elfs_ray.core, elfs_ray.methods) for m in pkgutil.iter_modules(p.__path__)];"
        "sys.exit(', '.join({'ray', 'pyarrow', 'faiss'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
