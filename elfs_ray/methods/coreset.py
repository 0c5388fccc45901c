"""From a method to a coreset: samples that have labels already, and quotas for clusters, around any method."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Int, Int64

from elfs_ray.errors import UsageError
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod, check_budget, given

Balance = Literal["auto", "none", "cluster"]


def select_coreset(
    method: SelectionMethod,
    inputs: SelectionInputs,
    budget: int,
    rng: np.random.Generator,
    *,
    balance: str = "auto",
) -> Selection:
    """Select `budget` samples, of which those with labels already are the first.

    Args:
        method: with its options.
        inputs: of all samples; `labeled` marks the samples that have labels already.
        budget: samples in the coreset, the labelled ones included.
        rng: source of the draws.
        balance: `cluster` gives each pseudo-label a share of the budget in proportion to its size; `auto` does so for
            the methods that gain by it.

    Returns:
        Positions int64 [budget]: the labelled samples in order of id, then the new ones in rank order.

    Raises:
        UsageError: the labelled samples fill the budget, an unknown balance, or what the method refuses.
    """
    check_budget(budget, len(inputs.ids))
    if (np.diff(inputs.ids) <= 0).any():
        return _in_order_of_id(method, inputs, budget, rng, balance)
    labeled = np.flatnonzero(inputs.labeled) if inputs.labeled is not None else np.empty(0, dtype=np.int64)
    check_labeled(len(labeled), budget)
    if balances(method, balance):
        new = _select_by_cluster(method, inputs, budget, rng)
    else:
        new = _select_new(method, inputs, budget - len(labeled), rng)
    return Selection(np.concatenate([labeled, new.positions]), new.scores)


def check_labeled(labeled: int, budget: int) -> None:
    """Refuse a budget that the samples with labels already fill.

    Raises:
        UsageError: they do.
    """
    if labeled >= budget:
        raise UsageError(
            f"{labeled} samples have labels already, which leaves nothing of the budget of {budget}; "
            "the labelled samples count towards it: pass a larger budget"
        )


def balances(method: SelectionMethod, balance: str) -> bool:
    """Whether each cluster gets its share; the method is then given pseudo-labels.

    Raises:
        UsageError: an unknown balance.
    """
    if balance not in get_args(Balance):
        raise UsageError(f"balance {balance!r} is unknown; choose one of {', '.join(get_args(Balance))}")
    return method.chosen().balanced if balance == "auto" else balance == "cluster"


def cluster_quotas(
    sizes: Int[np.ndarray, " C"], capacities: Int[np.ndarray, " C"], budget: int
) -> Int64[np.ndarray, " C"]:
    """Shares of a budget in proportion to the sizes, exact in sum, none above its capacity.

    Largest remainders first (the Hamilton rule), ties to the smaller cluster number; what a cluster cannot take goes to
    the others.

    Args:
        sizes: int [C].
        capacities: int [C], the most that each can give.
        budget: at most the sum of capacities.

    Returns:
        int64 [C].
    """
    quotas = np.zeros(len(sizes), dtype=np.int64)
    while (left := budget - int(quotas.sum())) > 0:
        open_sizes = np.where(quotas < capacities, sizes, 0).astype(np.float64)
        exact = left * open_sizes / open_sizes.sum()
        share = np.floor(exact).astype(np.int64)
        order = np.lexsort((np.arange(len(sizes)), share - exact))
        share[order[: left - int(share.sum())]] += 1
        quotas = np.minimum(quotas + np.where(open_sizes > 0, share, 0), capacities)
    return quotas


def _in_order_of_id(
    method: SelectionMethod, inputs: SelectionInputs, budget: int, rng: np.random.Generator, balance: str
) -> Selection:
    """Select among the sorted rows, and say so in terms of the rows as they were."""
    by_id = np.argsort(inputs.ids)
    ordered = inputs.take(by_id)
    if (np.diff(ordered.ids) == 0).any():
        twice = ordered.ids[:-1][np.diff(ordered.ids) == 0][0]
        raise UsageError(f"ids name the sample {twice} twice; ids must be unique")
    chosen = select_coreset(method, ordered, budget, rng, balance=balance)
    scores = np.empty_like(chosen.scores)
    scores[by_id] = chosen.scores
    return Selection(by_id[chosen.positions], scores)


def _select_new(method: SelectionMethod, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
    """Samples without labels: the method knows of the others, or does not see them."""
    if inputs.labeled is None or not inputs.labeled.any() or method.knows_labeled:
        return method.select(inputs, budget, rng)
    rows = np.flatnonzero(~inputs.labeled)
    chosen = method.select(inputs.take(rows), budget, rng)
    scores = np.full(len(inputs.ids), np.nan, dtype=np.float32)
    scores[rows] = chosen.scores
    return Selection(rows[chosen.positions], scores)


def _select_by_cluster(
    method: SelectionMethod, inputs: SelectionInputs, budget: int, rng: np.random.Generator
) -> Selection:
    """Run the method in each cluster for its share; the result goes round the clusters."""
    clusters = given(inputs.pseudo_labels)
    labeled = inputs.labeled if inputs.labeled is not None else np.zeros(len(clusters), dtype=bool)
    sizes = np.bincount(clusters)
    owned = np.bincount(clusters[labeled], minlength=len(sizes))
    possible = int(owned.sum()) + method.capacity(inputs.num_open)
    if budget > possible:
        raise UsageError(f"this beta leaves {possible} samples, fewer than the budget of {budget}; use a smaller beta")
    quotas = _at_least(owned, cluster_quotas(sizes, sizes, budget)) - owned
    positions, places = [], []
    scores = np.full(len(clusters), np.nan, dtype=np.float32)
    for cluster in np.flatnonzero(quotas):
        rows = np.flatnonzero(clusters == cluster)
        members, quota = inputs.take(rows), int(quotas[cluster])
        chosen = _select_new(method.fitted(members.num_open, quota), members, quota, rng)
        scores[rows] = chosen.scores
        positions.append(rows[chosen.positions])
        places.append((np.arange(quotas[cluster]) + 0.5) / quotas[cluster])
    order = np.argsort(np.concatenate(places), kind="stable")
    return Selection(np.concatenate(positions)[order], scores)


def _at_least(owned: Int64[np.ndarray, " C"], quotas: Int64[np.ndarray, " C"]) -> Int64[np.ndarray, " C"]:
    """Raise quotas to what a cluster owns already, and take that from the largest of the others."""
    raised = np.maximum(quotas, owned)
    for _ in range(int(raised.sum() - quotas.sum())):
        raised[np.argmax(raised - owned)] -= 1
    return raised
