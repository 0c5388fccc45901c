"""D2 pruning: message passing on the graph of nearest neighbours (Maharana et al., ICLR 2024).

Symbols: N samples, k neighbours, d_ij distance of a sample and its neighbour.
"""

import heapq
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Real

from elfs_ray.core.compiled import compiled


def start_density(
    importance: Real[np.ndarray, " N"],
    distances: Float[np.ndarray, "N k"],
    neighbor_ids: Int64[np.ndarray, "N k"],
    *,
    product: bool,
) -> Float64[np.ndarray, " N"]:
    """Density that selection starts from: what the neighbours send, with the sample's own importance.

    Args:
        importance: [N], larger is more worth selecting.
        distances: float [N, k], of each sample to its neighbours.
        neighbor_ids: int64 [N, k].
        product: multiply the neighbours' sum by the sample's own importance instead of adding it.

    Returns:
        float64 [N].
    """
    importance = importance.astype(np.float64)
    messages = (np.exp(-distances.astype(np.float64)) * importance[neighbor_ids]).sum(axis=1)
    return messages * importance if product else messages + importance


def select_by_density(
    density: Float64[np.ndarray, " N"],
    distances: Float[np.ndarray, "N k"],
    neighbor_ids: Int64[np.ndarray, "N k"],
    gamma: float,
    weighted: bool,
    budget: int,
    covered: Bool[np.ndarray, " N"],
) -> Int64[np.ndarray, " {budget}"]:
    """Take the densest sample and discount its neighbours, until the budget is met.

    The published loop looks for the maximum of all densities at each step. Here a heap holds a bound on each density:
    a sample whose density has fallen since is put back, and one whose density has risen is pushed anew.

    Args:
        density: float64 [N]; not changed.
        distances: float [N, k].
        neighbor_ids: int64 [N, k]; messages go from a sample to its own neighbours only, as published.
        gamma: how fast the discount falls with distance.
        weighted: discount by exp(-gamma d) times the density of the selected sample; else by that density itself.
        budget: samples to select, at most N less the covered ones.
        covered: bool [N], samples taken before: they discount their neighbours first, in order of position.

    Returns:
        int64 [budget] in order of selection; equal densities in order of position.
    """
    order: np.ndarray = _select_by_density(density, distances, neighbor_ids, gamma, weighted, budget, covered)
    return order


# What numba compiles is kept from the checks that the tests put around functions: it could not compile those.
@compiled()
@no_type_check
def _select_by_density(
    density: np.ndarray,
    distances: np.ndarray,
    neighbor_ids: np.ndarray,
    gamma: float,
    weighted: bool,
    budget: int,
    covered: np.ndarray,
) -> np.ndarray:
    density = density.copy()
    taken = covered.copy()
    for row in range(len(covered)):
        if not covered[row]:
            continue
        _discount(density, row, distances, neighbor_ids, gamma, weighted)
    heap = [(-density[row], row) for row in range(len(density))]
    heapq.heapify(heap)
    order = np.empty(budget, dtype=np.int64)
    found = 0
    while found < budget:
        bound, row = heapq.heappop(heap)
        if taken[row]:
            continue
        if -bound != density[row]:
            heapq.heappush(heap, (-density[row], row))
            continue
        taken[row] = True
        order[found] = row
        found += 1
        _discount(density, row, distances, neighbor_ids, gamma, weighted)
        if density[row] < 0:  # then its neighbours' densities have risen above their bounds in the heap
            for column in range(neighbor_ids.shape[1]):
                other = int(neighbor_ids[row, column])
                if not taken[other]:
                    heapq.heappush(heap, (-density[other], other))
    return order


@compiled()
@no_type_check
def _discount(
    density: np.ndarray, row: int, distances: np.ndarray, neighbor_ids: np.ndarray, gamma: float, weighted: bool
) -> None:
    """Lower the density of the neighbours of a taken sample."""
    for column in range(neighbor_ids.shape[1]):
        factor = np.exp(-gamma * distances[row, column]) if weighted else 1.0
        density[neighbor_ids[row, column]] -= factor * density[row]
