"""ZCore: coverage and redundancy in random low-dimensional views of the embeddings (Griffin et al., arXiv 2411.15349).

Symbols: N samples, d dimensions of the embedding, s draws, m dimensions in a view.
"""

from typing import NamedTuple, no_type_check

import numba
import numpy as np
from jaxtyping import Float, Float64, Int64

from elfs_ray.core.compiled import compiled

TILE_ROWS, TILE_COLUMNS = 256, 16


class Draws(NamedTuple):
    """Random points in random views.

    Attributes:
        dims: dimensions of each view, int64 [s, m], none twice in a view.
        points: float64 [s, m].
    """

    dims: Int64[np.ndarray, "s m"]
    points: Float64[np.ndarray, "s m"]


def draw(embeddings: Float[np.ndarray, "N d"], count: int, view_dims: int, rng: np.random.Generator) -> Draws:
    """Draw views, and in each a point from a triangular distribution over (minimum, median, maximum).

    A constant dimension, which has no triangular distribution, always gives its one value.

    Args:
        embeddings: float [N, d], d >= m.
        count: draws, s.
        view_dims: dimensions in a view, m.
        rng: source of the draws.
    """
    low, high = embeddings.min(axis=0).astype(np.float64), embeddings.max(axis=0).astype(np.float64)
    middle = np.median(embeddings, axis=0).astype(np.float64)
    width = embeddings.shape[1]
    dims = np.argpartition(rng.random((count, width)), view_dims - 1, axis=1)[:, :view_dims]
    uniform = rng.random((count, view_dims))
    low, middle, high = low[dims], middle[dims], high[dims]
    span = np.where(high > low, high - low, 1.0)
    left = uniform < (middle - low) / span
    rising = low + np.sqrt(uniform * span * (middle - low))
    falling = high - np.sqrt((1 - uniform) * span * (high - middle))
    return Draws(dims, np.where(high > low, np.where(left, rising, falling), low))


def coverage_scores(
    embeddings: Float[np.ndarray, "N d"], draws: Draws, num_neighbors: int, exponent: float = 4.0
) -> Float64[np.ndarray, " N"]:
    """Score of each sample: +1 for each point it is nearest to, minus its share of being redundant with another's.

    The sample nearest to a point gains 1. Of the others, the `num_neighbors` nearest to that sample in the same view
    lose 1 together, in proportion to distance^-exponent; if the nearest of them is at distance 0 it loses all.
    Distances are L1.

    Args:
        embeddings: float [N, d].
        draws: from `draw`.
        num_neighbors: samples that share a penalty; at most N - 1 are used.
        exponent: of the distance.

    Returns:
        float64 [N].
    """
    columns = np.empty(embeddings.shape[::-1], dtype=np.float32)
    _transpose(embeddings, columns)
    neighbors = min(num_neighbors, len(embeddings) - 1)
    parts = numba.get_num_threads()
    edges = np.linspace(0, len(draws.dims), parts + 1).astype(np.int64)
    scores = np.zeros((parts, len(embeddings)), dtype=np.float64)
    _score_draws(columns, draws.dims, draws.points.astype(np.float32), edges, neighbors, exponent, scores)
    return scores.sum(axis=0)


def min_max(scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Scores scaled to 0..1; all 0 where they are equal."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


# What numba compiles is kept from the checks that the tests put around functions: it could not compile those.
@compiled(parallel=True)
@no_type_check
def _transpose(rows: np.ndarray, columns: np.ndarray) -> None:
    """Copy in tiles that fit a cache, with all threads: several times faster than numpy, twice as fast as torch."""
    for tile in numba.prange(-(-len(rows) // TILE_ROWS)):
        first, last = tile * TILE_ROWS, min(len(rows), (tile + 1) * TILE_ROWS)
        for left in range(0, rows.shape[1], TILE_COLUMNS):
            for column in range(left, min(rows.shape[1], left + TILE_COLUMNS)):
                for row in range(first, last):
                    columns[column, row] = rows[row, column]


@compiled(parallel=True)
@no_type_check
def _score_draws(
    columns: np.ndarray,
    dims: np.ndarray,
    points: np.ndarray,
    edges: np.ndarray,
    num_neighbors: int,
    exponent: float,
    scores: np.ndarray,
) -> None:
    """Each part of the draws adds to its own row of `scores`, so that threads do not meet."""
    for part in numba.prange(len(edges) - 1):
        distances = np.empty(columns.shape[1], dtype=np.float32)
        near = np.empty(columns.shape[1], dtype=np.int64)
        for number in range(edges[part], edges[part + 1]):
            smallest = _distances(columns, dims[number], points[number], distances)
            nearest = _first_at(distances, smallest)
            scores[part, nearest] += 1
            if num_neighbors == 0:
                continue
            _distances(columns, dims[number], columns[:, nearest][dims[number]], distances)
            distances[nearest] = np.inf
            _penalize(distances, num_neighbors, exponent, near, scores[part])


@compiled(fastmath=True)
@no_type_check
def _distances(columns: np.ndarray, dims: np.ndarray, point: np.ndarray, out: np.ndarray) -> np.float32:
    """L1 distance of every sample to a point in a view; returns the smallest."""
    smallest = np.float32(np.finfo(np.float32).max)
    first, value = columns[dims[0]], point[0]
    for row in range(len(out)):
        out[row] = abs(first[row] - value)
        smallest = min(smallest, out[row])
    for number in range(1, len(dims)):
        column, value = columns[dims[number]], point[number]
        # Distances only grow: the smallest is that of the last dimension.
        smallest = np.float32(np.finfo(np.float32).max)
        for row in range(len(out)):
            out[row] += abs(column[row] - value)
            smallest = min(smallest, out[row])
    return smallest


@compiled()
@no_type_check
def _first_at(distances: np.ndarray, value: np.float32) -> int:
    """The first row with this distance."""
    for row in range(len(distances)):
        if distances[row] == value:
            return row
    return 0


@compiled()
@no_type_check
def _penalize(distances: np.ndarray, num_neighbors: int, exponent: float, near: np.ndarray, scores: np.ndarray) -> None:
    """Spread a penalty of 1 over the nearest samples, by distance; of equally far ones the first rows."""
    count = _collect_nearest(distances, num_neighbors, near)
    candidates = distances[near[:count]]
    closest = candidates.argmin()
    if candidates[closest] == 0:
        scores[near[closest]] -= 1
        return
    limit = np.partition(candidates, num_neighbors - 1)[num_neighbors - 1]
    at_limit = num_neighbors - (candidates < limit).sum()
    weights = np.zeros(count, dtype=np.float64)
    for number in range(count):
        if candidates[number] < limit:
            weights[number] = _fall(candidates[number], exponent)
        elif candidates[number] == limit and at_limit > 0:
            weights[number] = _fall(limit, exponent)
            at_limit -= 1
    total = weights.sum()
    for number in range(count):
        scores[near[number]] -= weights[number] / total


@compiled()
@no_type_check
def _fall(distance: np.float32, exponent: float) -> float:
    """distance^-exponent; the published exponent without a power function, which takes most of the time else."""
    wide = np.float64(distance)
    if exponent == 4.0:
        return 1.0 / (wide * wide * wide * wide)
    return wide**-exponent


@compiled()
@no_type_check
def _collect_nearest(distances: np.ndarray, wanted: int, near: np.ndarray) -> int:
    """Write the rows of at least the `wanted` smallest distances to `near`; returns how many.

    Only those below a bound guessed from a sample are taken, so that few have to be sorted.
    """
    total = len(distances)
    sample = distances[:: max(1, total // 2048)].copy()
    rank = int(len(sample) * (wanted / total) * 1.3) + 8
    while True:
        bound = np.partition(sample, rank)[rank] if rank < len(sample) else np.float32(np.inf)
        count = 0
        for row in range(total):
            if distances[row] <= bound:
                near[count] = row
                count += 1
        if count >= wanted:
            return count
        rank *= 2
