"""From scores to subsets: budgets, hardness order, and the pruning rules of ELFS and CCS.

`hardness` is a score in which larger means harder. Ties go to the smaller id, so that the order of the rows does not
matter. N samples, s strata, r = fraction kept.
"""

import math
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Float64, Int, Int64, Real, Shaped

from elfs_ray.errors import UsageError


def budget_count(budget: float, num_samples: int) -> int:
    """Number of samples that a budget means: a whole number is a count, a float the fraction to keep.

    Fractions are computed exactly and rounded half up: 0.1 of 50,000 is 5,000, never 4,999.

    Raises:
        UsageError: not a number, below 1 sample, over N, or a fraction over 1.
    """
    if isinstance(budget, bool) or not math.isfinite(budget):
        raise UsageError(f"budget {budget!r} is not a number; pass a count (5000) or a fraction to keep (0.1)")
    if budget <= 0:
        raise UsageError(f"budget {budget} selects nothing; pass a count from 1 on or a fraction above 0")
    if isinstance(budget, int):
        if budget > num_samples:
            raise UsageError(f"budget {budget} is over the number of images, {num_samples}; pass at most {num_samples}")
        return budget
    if budget > 1:
        raise UsageError(f"budget {budget} is a fraction over 1; pass a count without a point, or a fraction up to 1.0")
    count = math.floor(Fraction(str(budget)) * num_samples + Fraction(1, 2))
    if count == 0:
        raise UsageError(f"budget {budget} of {num_samples} images is less than one image; pass a larger budget")
    return count


def hardness_order(
    hardness: Real[np.ndarray, " N"], ids: Int64[np.ndarray, " N"] | None = None, *, name: str = "hardness"
) -> Int64[np.ndarray, " N"]:
    """Positions from hardest to easiest, int64 [N]; ties by smaller id.

    Args:
        hardness: [N], larger is harder.
        ids: of the samples, int64 [N]; without: their positions.
        name: what the scores are called, for the error.

    Raises:
        UsageError: no samples, or a score that is not a number.
    """
    check_scores(hardness, name)
    return _descending(hardness.astype(np.float64), ids)


def _descending(keys: Float64[np.ndarray, " N"], ids: Int64[np.ndarray, " N"] | None) -> Int64[np.ndarray, " N"]:
    """Positions from the largest key to the smallest, int64 [N]; ties by smaller id, without ids by position.

    numpy sorts several times faster where equal keys may come in any order. Then their runs are put in order.
    """
    if ids is not None and not (ids[1:] > ids[:-1]).all():
        by_id = np.argsort(ids, kind="stable")
        return by_id[_descending(keys[by_id], None)]
    order = np.argsort(-keys)
    ranked = keys[order]
    new = ranked[1:] != ranked[:-1]
    if new.all():
        return order
    run = np.concatenate([[0], np.cumsum(new)]) * len(keys)
    return np.sort(run + order) - run


def check_scores(scores: Shaped[np.ndarray, " N"], name: str) -> None:
    """Refuse empty input and NaN, naming the scores."""
    if len(scores) == 0:
        raise UsageError(f"{name} is empty: there are no samples to select from")
    wrong = np.flatnonzero(np.isnan(np.asarray(scores, dtype=np.float64)))
    if len(wrong):
        raise UsageError(f"{name} is not a number for {len(wrong)} of {len(scores)} samples, first at row {wrong[0]}")


def rank_within(groups: Int[np.ndarray, " N"], scores: Real[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """Rank of each sample in its group, int64 [N]: 0 for the highest score; ties by position."""
    order = _descending(scores.astype(np.float64), None)
    order = order[np.argsort(groups[order], kind="stable")]
    first = np.concatenate([[0], np.cumsum(np.bincount(groups))])
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - first[groups[order]]
    return ranks


def double_end_prune(
    hardness: Real[np.ndarray, " N"], budget: int, beta: float, ids: Int64[np.ndarray, " N"] | None = None
) -> Int64[np.ndarray, " {budget}"]:
    """ELFS: drop the beta N hardest, keep the next `budget`, drop the easiest (Zheng et al., ICLR 2025, section 4.3).

    A forward slice: with beta + r = 1 nothing is dropped at the easy end, where a slice to minus zero would be empty.

    Args:
        hardness: [N], larger is harder.
        budget: samples to keep.
        beta: share of the hardest to drop, in [0, 1).
        ids: of the samples, for ties.

    Returns:
        Positions int64 [budget], hardest first.

    Raises:
        UsageError: beta out of range, or beta N + budget > N.
    """
    order = hardness_order(hardness, ids)
    dropped = _dropped(beta, budget, len(order))
    return order[dropped : dropped + budget]


def stratified_prune(
    hardness: Real[np.ndarray, " N"],
    budget: int,
    beta: float,
    rng: np.random.Generator,
    *,
    ids: Int64[np.ndarray, " N"] | None = None,
    num_strata: int = 50,
) -> Int64[np.ndarray, " {budget}"]:
    """CCS: drop the beta N hardest, then draw evenly over the range of the others' scores (Zheng et al., ICLR 2023).

    The range is cut into strata of equal width. From the smallest stratum on, each gives an equal share of the budget
    left, or all it has, and what it lacks passes to the others.

    Returns:
        Positions int64 [budget], hardest first.

    Raises:
        UsageError: as `double_end_prune`.
    """
    order = hardness_order(hardness, ids)
    pool = order[_dropped(beta, budget, len(order)) :]
    scores = hardness[pool].astype(np.float64)
    edges = np.linspace(scores[-1], scores[0], num_strata + 1)
    # The inner edges alone: the best score belongs to the last stratum, whatever its sign; who lies on one is above it.
    below = np.searchsorted(scores[::-1], edges[1:-1], side="left")
    counts = np.diff(below, prepend=0, append=len(pool))
    chosen = np.zeros(len(pool), dtype=bool)
    last = len(pool)
    for count, share in zip(counts, stratum_budgets(counts, budget), strict=True):
        # The members of a stratum follow each other.
        chosen[rng.choice(np.arange(last - count, last), share, replace=False)] = True
        last -= count
    return pool[chosen]


def stratum_budgets(counts: Int[np.ndarray, " s"], budget: int) -> Int64[np.ndarray, " s"]:
    """Samples to draw from each stratum: equal shares, smaller strata first, the remainder passed on.

    Args:
        counts: samples in each stratum, int [s].
        budget: samples to draw, at most the sum of counts.

    Returns:
        int64 [s] with sum `budget` and no entry over its count.
    """
    budgets = np.zeros(len(counts), dtype=np.int64)
    left = budget
    order = np.argsort(counts, kind="stable")
    for done, stratum in enumerate(order):
        budgets[stratum] = min(counts[stratum], left // (len(order) - done))
        left -= budgets[stratum]
    return budgets


def beta_grid(keep_fraction: float) -> list[float]:
    """Candidates 0, 0.1, 0.2, ... for beta, as long as beta + r <= 1 and beta < 1."""
    largest = Fraction(str(round(1 - keep_fraction, 9)))
    return [tenths / 10 for tenths in range(min(math.floor(10 * largest), 9) + 1)]


def beta_sampling_weights(
    scores: Float[np.ndarray, " N"],
    mean_target: Float[np.ndarray, " N"],
    keep_fraction: float,
    exponent: float,
    ids: Int64[np.ndarray, " N"] | None = None,
) -> Float64[np.ndarray, " N"]:
    """Weights of DUAL's draw: the score times a beta density that moves to easy samples as less is kept.

    Cho et al., 2025 (arXiv 2502.06905), section 4.3: b = 15 (1 - anchor) (1 - p^c_d), a = 16 - b, with p the share
    pruned and the anchor the mean of `mean_target` over the ten highest scores.

    Args:
        scores: DUAL, [N], >= 0.
        mean_target: mean probability of the label over training, [N], in 0..1.
        keep_fraction: share kept, r = 1 - p.
        exponent: c_d.
        ids: of the samples, for ties among the ten.

    Returns:
        float64 [N], >= 0, not normalised.
    """
    mean = np.clip(mean_target.astype(np.float64), 1e-6, 1 - 1e-6)
    anchor = mean[hardness_order(scores, ids, name="dual")[:10]].mean()
    b = 15 * (1 - anchor) * (1 - (1 - keep_fraction) ** exponent)
    density = _beta_density(mean, 16 - b, max(b, 1e-6))
    return np.asarray(density * scores.astype(np.float64))


def _beta_density(x: Float64[np.ndarray, " N"], a: float, b: float) -> Float64[np.ndarray, " N"]:
    """Density of the beta distribution at 0 < x < 1. `scipy.stats` has it too, but takes half a second to import."""
    from scipy import special

    return np.exp((a - 1) * np.log(x) + (b - 1) * np.log1p(-x) - special.betaln(a, b))


def weighted_order(
    weights: Float[np.ndarray, " N"], ids: Int64[np.ndarray, " N"], rng: np.random.Generator
) -> Int64[np.ndarray, " N"]:
    """Positions in the order of a draw without replacement, with probability in proportion to the weights.

    Gumbel noise on the logarithms (Efraimidis and Spirakis, 2006): the first m are a draw of m. Samples of weight 0
    come last. The noise goes by id, so that the order of the rows does not matter.
    """
    noise = np.empty(len(weights))
    noise[np.argsort(ids)] = rng.gumbel(size=len(weights))
    with np.errstate(divide="ignore"):
        return _descending(np.log(weights) + noise, ids)


def _dropped(beta: float, budget: int, num_samples: int) -> int:
    """Samples dropped at the hard end."""
    if not 0 <= beta < 1:
        raise UsageError(f"beta is {beta}, outside 0 <= beta < 1; it is the share of the hardest samples to drop")
    if not 0 < budget <= num_samples:
        raise UsageError(f"budget {budget} does not fit {num_samples} samples; pass 1 to {num_samples}")
    dropped = round(beta * num_samples)
    if dropped + budget > num_samples:
        raise UsageError(
            f"beta {beta:g} drops {dropped} of {num_samples} samples, fewer than the budget of {budget} remain; "
            f"use a beta up to {math.floor((num_samples - budget) / num_samples * 1000) / 1000:g}"
        )
    return dropped
