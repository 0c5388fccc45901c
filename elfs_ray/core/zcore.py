"""ZCore: coverage and redundancy in random low-dimensional views of the embeddings (Griffin et al., arXiv 2411.15349).

Symbols: N samples, d dimensions of the embedding, s draws, m dimensions in a view.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, no_type_check

import numba
import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from elfs_ray.core.compiled import compiled, value_at
from elfs_ray.core.knn import shard_ranges

# Copied together: as many rows as values share a cache line, and as many columns as lines stay in the fastest cache.
TILE_ROWS, TILE_COLUMNS = 16, 64
# Sums of so many parts of the draws are added up, whatever the threads: so a score does not depend on these. Fewer
# where they would take more memory than this.
PARTS, PARTS_BYTES = 64, 2**28
# Distances that are computed together, values that a bound is guessed from, and steps in which the last is looked for.
TOGETHER, SAMPLE, STEPS = 512, 512, 256


class Draws(NamedTuple):
    """Random points in random views.

    Attributes:
        dims: dimensions of each view, int64 [s, m], none twice in a view.
        points: float64 [s, m].
    """

    dims: Int64[np.ndarray, "s m"]
    points: Float64[np.ndarray, "s m"]


def as_columns(embeddings: Float[np.ndarray, "N d"]) -> Float32[np.ndarray, "d N"]:
    """The embeddings dimension by dimension, each of them in one piece, as views of few dimensions read them."""
    columns = np.empty(embeddings.shape[::-1], dtype=np.float32)
    _in_threads(_transpose, -(-len(embeddings) // TILE_ROWS), embeddings, columns)
    return columns


def draw(columns: Float32[np.ndarray, "d N"], count: int, view_dims: int, rng: np.random.Generator) -> Draws:
    """Draw views, and in each a point from a triangular distribution over (minimum, median, maximum).

    A constant dimension, which has no triangular distribution, always gives its one value.

    Args:
        columns: from `as_columns`, d >= m.
        count: draws, s.
        view_dims: dimensions in a view, m.
        rng: source of the draws.
    """
    low, middle, high = np.empty((3, len(columns)), dtype=np.float64)
    _in_threads(_summarize, len(columns), columns, low, middle, high)
    dims = rng.integers(len(columns) - np.arange(view_dims), size=(count, view_dims))
    _make_distinct(dims, len(columns))
    uniform = rng.random((count, view_dims))
    low, middle, high = low[dims], middle[dims], high[dims]
    span = np.where(high > low, high - low, 1.0)
    left = uniform < (middle - low) / span
    rising = low + np.sqrt(uniform * span * (middle - low))
    falling = high - np.sqrt((1 - uniform) * span * (high - middle))
    return Draws(dims, np.where(high > low, np.where(left, rising, falling), low))


def coverage_scores(
    columns: Float32[np.ndarray, "d N"], draws: Draws, num_neighbors: int, exponent: float = 4.0
) -> Float64[np.ndarray, " N"]:
    """Score of each sample: +1 for each point it is nearest to, minus its share of being redundant with another's.

    The sample nearest to a point gains 1. Of the others, the `num_neighbors` nearest to that sample in the same view
    lose 1 together, in proportion to distance^-exponent; if the nearest of them is at distance 0 it loses all.
    Distances are L1.

    Args:
        columns: from `as_columns`.
        draws: from `draw`.
        num_neighbors: samples that share a penalty; at most N - 1 are used.
        exponent: of the distance.

    Returns:
        float64 [N].
    """
    count = columns.shape[1]
    parts = max(1, min(PARTS, PARTS_BYTES // (8 * count)))
    edges = np.linspace(0, len(draws.dims), parts + 1).astype(np.int64)
    scores = np.zeros((parts, count), dtype=np.float64)
    neighbors = min(num_neighbors, count - 1)
    given = columns, draws.dims, draws.points.astype(np.float32), edges, (neighbors, exponent), scores
    _in_threads(_score_draws, parts, *given)
    return scores.sum(axis=0)


def min_max(scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Scores scaled to 0..1; all 0 where they are equal."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


def _in_threads(loop: Callable[..., None], count: int, *given: object) -> None:
    """Run a compiled loop over 0..count-1 in as many threads as numba may use.

    numba's own parallel loops take longer to compile, which the first run on a machine waits for.
    """
    threads = min(count, numba.get_num_threads())
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(loop, start, stop, *given) for start, stop in shard_ranges(count, threads)]:
            done.result()


# What numba compiles is kept from the checks that the tests put around functions: it could not compile those.
@compiled(nogil=True)
@no_type_check
def _transpose(start: int, stop: int, rows: np.ndarray, columns: np.ndarray) -> None:
    """Copy in tiles that fit a cache, each cache line as a whole: three times as fast as torch."""
    for tile in range(start, stop):
        first, last = tile * TILE_ROWS, min(len(rows), (tile + 1) * TILE_ROWS)
        for left in range(0, rows.shape[1], TILE_COLUMNS):
            right = min(rows.shape[1], left + TILE_COLUMNS)
            for row in range(first, last):
                for column in range(left, right):
                    columns[column, row] = rows[row, column]


@compiled(nogil=True)
@no_type_check
def _summarize(
    start: int, stop: int, columns: np.ndarray, low: np.ndarray, middle: np.ndarray, high: np.ndarray
) -> None:
    """Least, median and greatest value of each dimension."""
    near = np.empty(columns.shape[1] + 1, dtype=np.float32)
    for column in range(start, stop):
        values = columns[column]
        low[column], high[column] = _range(values)
        middle[column] = _median(values, near)


@compiled()
@no_type_check
def _median(values: np.ndarray, near: np.ndarray) -> float:
    """The mean of the two values in the middle, or the one; looked for among those near the median of a sample.

    Takes memory for one value more than there are.
    """
    lower, upper = (len(values) + 1) // 2, len(values) // 2 + 1
    sample = values[:: max(1, len(values) // SAMPLE)].copy()
    half, margin = len(sample) // 2, 2 * int(np.sqrt(len(sample)))
    if half > margin:
        floor, ceiling = _nth_smallest(sample, half - margin), _nth_smallest(sample, half + margin)
        before, count = 0, 0
        for number in range(len(values)):
            before += values[number] < floor
        for number in range(len(values)):
            # Without a branch, which a processor would often guess wrong.
            near[count] = values[number]
            count += (values[number] >= floor) & (values[number] <= ceiling)
        if before < lower and upper <= before + count:
            values, lower, upper = near[:count], lower - before, upper - before
    value = _nth_smallest(values, upper)
    smaller, largest = 0, -np.float32(np.inf)
    for number in range(len(values)):
        smaller += values[number] < value
        largest = max(largest, values[number] if values[number] < value else largest)
    # Where fewer are smaller, the other one of the two in the middle is equal.
    return (np.float64(largest) + np.float64(value)) / 2 if smaller == lower < upper else np.float64(value)


@compiled()
@no_type_check
def _make_distinct(dims: np.ndarray, width: int) -> None:
    """Make uniform numbers below width, width - 1, ... distinct ones below width, all equally probable.

    Each row takes from an order of all what its numbers say, and lays it aside (Fisher and Yates). The next row finds
    another order; that is as good.
    """
    order = np.arange(width)
    for row in range(len(dims)):
        for number in range(dims.shape[1]):
            other = number + dims[row, number]
            order[number], order[other] = order[other], order[number]
            dims[row, number] = order[number]


@compiled(nogil=True)
@no_type_check
def _score_draws(
    start: int,
    stop: int,
    columns: np.ndarray,
    dims: np.ndarray,
    points: np.ndarray,
    edges: np.ndarray,
    penalty: tuple[int, float],
    scores: np.ndarray,
) -> None:
    """Each part of the draws adds to its own row of `scores`, so that threads do not meet.

    The penalty is shared by so many samples, and falls with distance to this power.
    """
    num_neighbors, exponent = penalty
    for part in range(start, stop):
        distances = np.empty(columns.shape[1], dtype=np.float32)
        near = np.empty(columns.shape[1] + 1, dtype=np.int64)
        for number in range(edges[part], edges[part + 1]):
            view = dims[number]
            nearest = _nearest(columns, view, points[number], distances[:TOGETHER])
            scores[part, nearest] += 1
            if num_neighbors == 0:
                continue
            _distances(columns, view, columns[:, nearest][view], 0, distances)
            distances[nearest] = np.inf
            _penalize(distances, num_neighbors, exponent, near, scores[part])


@compiled()
@no_type_check
def _nearest(columns: np.ndarray, dims: np.ndarray, point: np.ndarray, memory: np.ndarray) -> int:
    """The sample nearest to a point in a view, of equally near ones the first; takes memory for some distances."""
    total, nearest, smallest = columns.shape[1], 0, np.iinfo(np.int32).max
    for start in range(0, total, len(memory)):
        distances = memory[: min(len(memory), total - start)]
        _distances(columns, dims, point, start, distances)
        bits = distances.view(np.int32)
        least = _least(bits)
        if least < smallest:
            smallest = least
            nearest = start
            while bits[nearest - start] != least:
                nearest += 1
    return nearest


@compiled(fastmath=True)
@no_type_check
def _distances(columns: np.ndarray, dims: np.ndarray, point: np.ndarray, start: int, out: np.ndarray) -> None:
    """L1 distances of samples from `start` on to a point in a view."""
    stop = start + len(out)
    first, value = columns[dims[0]][start:stop], point[0]
    for row in range(len(out)):
        out[row] = abs(first[row] - value)
    for number in range(1, len(dims)):
        column, value = columns[dims[number]][start:stop], point[number]
        for row in range(len(out)):
            out[row] += abs(column[row] - value)


@compiled()
@no_type_check
def _least(bits: np.ndarray) -> int:
    """The least of numbers that are not negative, of which these are the bits: integers are compared many at once."""
    least = bits[0]
    for number in range(len(bits)):
        least = min(least, bits[number])
    return least


@compiled()
@no_type_check
def _penalize(distances: np.ndarray, num_neighbors: int, exponent: float, near: np.ndarray, scores: np.ndarray) -> None:
    """Spread a penalty of 1 over the nearest samples, by distance; of equally far ones the first rows."""
    count = _collect_nearest(distances, num_neighbors, near)
    candidates = distances[near[:count]]
    if _least(candidates.view(np.int32)) == 0:
        scores[near[candidates.argmin()]] -= 1
        return
    limit = _nth_smallest(candidates, num_neighbors)
    within = 0
    for number in range(count):
        within += candidates[number] <= limit
    for number in range(count - 1, -1, -1):
        if within == num_neighbors:
            break
        if candidates[number] == limit:
            candidates[number] = np.inf
            within -= 1
    weights = np.zeros(count, dtype=np.float64)
    for number in range(count):
        weights[number] = _fall(candidates[number], exponent) if candidates[number] <= limit else 0.0
    total = 0.0
    for number in range(count):
        total += weights[number]
    for number in range(count):
        weights[number] /= total
    for number in range(count):
        scores[near[number]] -= weights[number]


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

    Only those below a bound guessed from a sample are taken, so that few have to be looked at again.
    """
    total = len(distances)
    sample = distances[:: max(1, total // SAMPLE)].copy()
    rank = int(len(sample) * (wanted / total) * 1.2) + 9
    while True:
        bound = _nth_smallest(sample, rank) if rank <= len(sample) else np.float32(np.inf)
        count = 0
        for row in range(total):
            # Without a branch, which a processor would often guess wrong.
            near[count] = row
            count += distances[row] <= bound
        if count >= wanted:
            return count
        rank *= 2


@compiled()
@no_type_check
def _nth_smallest(values: np.ndarray, wanted: int) -> np.float32:
    """The value that `wanted` of them do not exceed: counted in steps, and sorted only within one of these."""
    low, high = _range(values)
    # One value may be infinite.
    span = min(high, np.finfo(np.float32).max) - low
    scale = np.float32(STEPS / np.float64(span)) if span > 0 else np.float32(0)
    counts, steps = np.zeros(STEPS, dtype=np.int64), np.empty(len(values), dtype=np.int32)
    for number in range(len(values)):
        steps[number] = _step(values[number], low, scale)
    for number in range(len(values)):
        counts[steps[number]] += 1
    step, before = 0, 0
    while before + counts[step] < wanted:
        before += counts[step]
        step += 1
    some, count = np.empty(counts[step], dtype=values.dtype), 0
    for number in range(len(values)):
        if steps[number] == step:
            some[count] = values[number]
            count += 1
    return value_at(some, wanted - before - 1)


@compiled()
@no_type_check
def _step(value: np.float32, low: np.float32, scale: np.float32) -> int:
    """Never a smaller step for a larger value; the last one for what is infinite, or no number."""
    scaled = (value - low) * scale
    return np.int32(scaled) if scaled < STEPS - 1 else STEPS - 1


@compiled(fastmath={"nnan", "nsz"})
@no_type_check
def _range(values: np.ndarray) -> tuple[np.float32, np.float32]:
    low = high = values[0]
    for number in range(len(values)):
        low, high = min(low, values[number]), max(high, values[number])
    return low, high
