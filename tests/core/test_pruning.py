"""Budgets and pruning rules: cases by hand, properties, and the authors' own programs (tests/golden/README.md)."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfs_ray.core.pruning import (
    beta_grid,
    beta_sampling_weights,
    budget_count,
    double_end_prune,
    hardness_order,
    rank_within,
    stratified_prune,
    stratum_budgets,
    weighted_order,
)
from elfs_ray.errors import UsageError

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "ccs_a.npz")


class TestBudgetCount:
    @pytest.mark.parametrize(
        ("budget", "expected"),
        [(5000, 5000), (0.1, 5000), (1, 1), (1.0, 50_000), (0.29, 14_500), (0.00001, 1)],
    )
    def test_is_exact(self, budget, expected):
        assert budget_count(budget, 50_000) == expected

    @given(st.integers(1, 10**9), st.integers(1, 1000))
    def test_a_fraction_is_rounded_half_up(self, num_samples, thousandths):
        expected = (2 * thousandths * num_samples + 1000) // 2000
        if expected:
            assert budget_count(thousandths / 1000, num_samples) == expected

    @pytest.mark.parametrize(
        ("budget", "message"),
        [
            (0, "budget 0 selects nothing"),
            (-3, "budget -3 selects nothing"),
            (101, "budget 101 is over the number of images, 100"),
            (1.5, r"budget 1\.5 is a fraction over 1"),
            (0.001, r"budget 0\.001 of 100 images is less than one image"),
            (float("nan"), "budget nan is not a number"),
            (True, "budget True is not a number"),
        ],
    )
    def test_refuses(self, budget, message):
        with pytest.raises(UsageError, match=message):
            budget_count(budget, 100)


class TestDoubleEndPrune:
    def test_by_hand(self):
        hardness = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
        assert double_end_prune(hardness, 2, 0.2).tolist() == [2, 4]

    def test_keeps_all_that_is_left_when_nothing_is_dropped_at_the_easy_end(self):
        """A slice to minus zero would be empty, as in the published program (doubleend beta 0.5, ratio 0.5)."""
        assert double_end_prune(np.arange(10.0), 5, 0.5).tolist() == [4, 3, 2, 1, 0]
        assert len(GOLDEN["doubleend__beta0.5__ratio0.5__idx"]) == 0

    @pytest.mark.parametrize("row", [row for row in range(18) if GOLDEN["doubleend_table"][row, 5] > 0])
    def test_equals_the_published(self, row):
        beta, ratio, _, requested, _, _ = GOLDEN["doubleend_table"][row]
        hardness = -GOLDEN["score_accumulated_margin"]
        expected = GOLDEN[f"doubleend__beta{beta:.1f}__ratio{ratio:.1f}__idx"]
        assert double_end_prune(hardness, int(requested), beta).tolist() == expected.tolist()

    @given(st.integers(1, 60), st.data())
    def test_is_a_slice_of_the_order(self, num_samples, data):
        hardness = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=num_samples, max_size=num_samples)), float)
        dropped = data.draw(st.integers(0, num_samples - 1))
        budget = data.draw(st.integers(1, num_samples - dropped))
        kept = double_end_prune(hardness, budget, dropped / num_samples)
        assert kept.tolist() == hardness_order(hardness)[dropped : dropped + budget].tolist()

    @given(st.permutations(range(30)))
    def test_the_order_of_the_rows_does_not_matter(self, order):
        order = np.array(order)
        hardness, ids = np.repeat(np.arange(10.0), 3), np.arange(30)
        expected = ids[double_end_prune(hardness, 12, 0.2, ids)]
        assert ids[order][double_end_prune(hardness[order], 12, 0.2, ids[order])].tolist() == expected.tolist()

    @pytest.mark.parametrize(
        ("budget", "beta", "message"),
        [
            (5, 1.0, r"beta is 1\.0, outside"),
            (5, -0.1, r"beta is -0\.1, outside"),
            (6, 0.5, r"beta 0\.5 drops 5 of 10 samples.*use a beta up to 0\.4"),
            (0, 0.1, "budget 0 does not fit 10 samples"),
            (11, 0.0, "budget 11 does not fit 10 samples"),
        ],
    )
    def test_refuses(self, budget, beta, message):
        with pytest.raises(UsageError, match=message):
            double_end_prune(np.arange(10.0), budget, beta)


class TestHardnessOrder:
    def test_ties_go_to_the_smaller_id(self):
        assert hardness_order(np.array([1.0, 2.0, 2.0]), np.array([7, 9, 8])).tolist() == [2, 1, 0]

    @pytest.mark.parametrize(
        ("scores", "message"),
        [([], "aum is empty"), ([1.0, np.nan, 3.0], "aum is not a number for 1 of 3 samples, first at row 1")],
    )
    def test_refuses(self, scores, message):
        with pytest.raises(UsageError, match=message):
            hardness_order(np.array(scores), name="aum")


class TestStratified:
    @pytest.mark.parametrize("scenario", range(60))
    def test_budgets_equal_the_published(self, scenario):
        """Which of two equally full strata gets a unit left over is not defined: compare them sorted."""
        counts, expected = GOLDEN["scen_strata_num"][scenario], GOLDEN["scen_budgets"][scenario]
        requested = int(GOLDEN["scen_requested"][scenario])
        ours = stratum_budgets(counts, requested)
        assert sorted(zip(counts, ours, strict=True)) == sorted(zip(counts, expected, strict=True))

    @given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.data())
    def test_budgets_add_up_and_fit(self, counts, data):
        counts = np.array(counts)
        budget = data.draw(st.integers(0, int(counts.sum())))
        shares = stratum_budgets(counts, budget)
        assert shares.sum() == budget
        assert (shares <= counts).all()
        # Water level: a stratum that is not drained holds no less than any other gave, up to the unit left over.
        open_strata = shares < counts
        if open_strata.any():
            assert shares.max() <= shares[open_strata].min() + 1

    def test_no_sample_is_lost_when_all_scores_are_negative(self, rng):
        """The published edge max * 1.0001 is below the maximum of negative scores."""
        scores = GOLDEN["score_allneg"].astype(float)
        assert len(stratified_prune(scores, 1000, 0.0, rng)) == 1000

    @given(st.integers(2, 80), st.integers(0, 2**16), st.data())
    def test_exact_budget_without_the_hardest(self, num_samples, seed, data):
        rng = np.random.default_rng(seed)
        hardness = rng.integers(5, size=num_samples).astype(float)
        dropped = data.draw(st.integers(0, num_samples - 1))
        budget = data.draw(st.integers(1, num_samples - dropped))
        chosen = stratified_prune(hardness, budget, dropped / num_samples, rng)
        assert len(set(chosen.tolist())) == budget
        assert not set(chosen.tolist()) & set(hardness_order(hardness)[:dropped].tolist())


@pytest.mark.parametrize(
    ("keep", "last", "count"), [(0.1, 0.9, 10), (0.7, 0.3, 4), (0.05, 0.9, 10), (1.0, 0.0, 1), (0.001, 0.9, 10)]
)
def test_beta_grid_leaves_room_for_the_budget(keep, last, count):
    grid = beta_grid(keep)
    assert (grid[0], grid[-1], len(grid)) == (0.0, last, count)


class TestBetaSampling:
    DUAL = np.load(Path(__file__).parent.parent / "golden" / "dual_a.npz")

    @pytest.mark.parametrize("row", range(8))
    def test_weights_equal_the_published(self, row):
        pruned, exponent = self.DUAL["beta_cfg_prune_rate"][row], self.DUAL["beta_cfg_c_d"][row]
        weights = beta_sampling_weights(self.DUAL["beta_score"], self.DUAL["beta_pred_mean_T30"], 1 - pruned, exponent)
        np.testing.assert_allclose(weights / weights.sum(), self.DUAL["beta_exp_cifar__p"][row], atol=1e-7)

    def test_small_budgets_prefer_easy_samples(self):
        scores, mean = np.ones(100), np.linspace(0.05, 0.95, 100)
        means = []
        for keep in (0.9, 0.3, 0.05):
            weights = beta_sampling_weights(scores, mean, keep, 5.5)
            means.append((weights * mean).sum() / weights.sum())
        assert means == sorted(means)


class TestWeightedOrder:
    def test_first_place_is_in_proportion_to_the_weight(self):
        rng = np.random.default_rng(0)
        weights, ids = np.array([1.0, 3.0, 0.0, 6.0]), np.arange(4)
        first = [weighted_order(weights, ids, rng)[0] for _ in range(4000)]
        assert np.bincount(first, minlength=4) / 4000 == pytest.approx([0.1, 0.3, 0.0, 0.6], abs=0.03)

    def test_weightless_samples_come_last(self, rng):
        assert weighted_order(np.array([0.0, 1.0, 0.0]), np.arange(3), rng).tolist() == [1, 0, 2]


@given(st.lists(st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 2.0, 2.5, np.inf]), min_size=1, max_size=80), st.data())
def test_orders_are_those_of_the_definition(hardness, data):
    """Mostly equal keys, ids in any order."""
    hardness, count = np.array(hardness), len(hardness)
    ids = np.array(data.draw(st.permutations(range(count)))) * 3
    groups = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    assert hardness_order(hardness).tolist() == sorted(range(count), key=lambda row: (-hardness[row], row))
    assert hardness_order(hardness, ids).tolist() == sorted(range(count), key=lambda row: (-hardness[row], ids[row]))
    for row, rank in enumerate(rank_within(groups, hardness)):
        before = [other for other in range(count) if groups[other] == groups[row]
                  and (-hardness[other], other) < (-hardness[row], row)]  # fmt: skip
        assert rank == len(before)


def test_a_stratum_gives_its_members(rng):
    """Evenly from ten strata of unequal sizes, of which the edges belong to the upper one."""
    hardness = rng.permutation(np.concatenate([np.arange(11.0), rng.integers(0, 11, 500), rng.random(60) * 10]))
    chosen = stratified_prune(hardness, 100, 0.0, rng, num_strata=10)
    counts = np.bincount(np.minimum(hardness[chosen].astype(int), 9), minlength=10)
    assert counts.tolist() == [10] * 10
    assert (np.diff(hardness[chosen]) <= 0).all()


def test_rank_within_by_hand():
    groups, scores = np.array([1, 0, 1, 1, 3]), np.array([2.0, 0.0, 5.0, 2.0, -1.0])
    assert rank_within(groups, scores).tolist() == [1, 0, 0, 2, 0]
