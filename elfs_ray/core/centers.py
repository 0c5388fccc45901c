"""Selecting by distance between embeddings: greedy k-centre, k-means centroids and regions, k-means++ on gradients.

Symbols: N samples, d dimensions, C classes.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64

K_MEANS_STEPS = 50
# Regions to draw from need no converged centroids: few steps, on so many rows for each region.
REGION_STEPS, REGION_ROWS, BLOCK_ROWS = 10, 64, 65_536


def greedy_k_center(
    vectors: Float[np.ndarray, "N d"], budget: int, *, covered: Bool[np.ndarray, " N"] | None = None, first: int = 0
) -> Int64[np.ndarray, " {budget}"]:
    """Take, again and again, the sample farthest from all taken ones (Sener and Savarese, ICLR 2018).

    Args:
        vectors: float [N, d].
        budget: samples to take.
        covered: bool [N], samples that count as taken before; never taken again.
        first: the sample to start with where nothing is covered.

    Returns:
        int64 [budget] in order; equal distances in order of position.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    nearest = np.full(len(vectors), np.inf, dtype=np.float32)

    def take(row: int) -> None:
        np.minimum(nearest, squares + squares[row] - 2 * (vectors @ vectors[row]), out=nearest)
        nearest[row] = -np.inf  # rounding must not bring it back

    for row in [] if covered is None else np.flatnonzero(covered).tolist():
        take(row)
    order = np.empty(budget, dtype=np.int64)
    for number in range(budget):
        row = first if number == 0 and nearest.max() == np.inf else int(nearest.argmax())
        order[number] = row
        take(row)
    return order


def k_means(
    vectors: Float[np.ndarray, "N d"], num_clusters: int, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "{num_clusters} d"], Int32[np.ndarray, " N"]]:
    """Centroids float64 [C, d] and the cluster of each sample, int32 [N], by k-means from a k-means++ start."""
    from scipy.cluster.vq import kmeans2

    centroids, labels = kmeans2(vectors.astype(np.float64), num_clusters, iter=K_MEANS_STEPS, minit="++", rng=rng)
    return centroids, labels


def regions(vectors: Float32[np.ndarray, "N d"], num_regions: int, rng: np.random.Generator) -> Int64[np.ndarray, " N"]:
    """Region of each sample, int64 [N] in 0..num_regions - 1, by a few steps of k-means on a sample; some may be empty.

    Args:
        vectors: float32 [N, d].
        num_regions: at most N.
        rng: draws the sample and its first centroids.
    """
    from scipy.sparse import csr_array

    sample = vectors[np.sort(rng.choice(len(vectors), min(len(vectors), num_regions * REGION_ROWS), replace=False))]
    centroids = sample[rng.choice(len(sample), num_regions, replace=False)]
    for _ in range(REGION_STEPS):
        nearest = _nearest(sample, centroids)
        counts = np.bincount(nearest, minlength=num_regions)[:, None]
        one = np.ones(len(sample), np.float32)
        members = csr_array((one, (nearest, np.arange(len(sample)))), (num_regions, len(sample)))
        centroids = np.where(counts > 0, (members @ sample) / np.maximum(counts, 1), centroids).astype(np.float32)
    return _nearest(vectors, centroids)


def _nearest(vectors: Float32[np.ndarray, "N d"], centroids: Float32[np.ndarray, "C d"]) -> Int64[np.ndarray, " N"]:
    """The nearest centroid of each sample; of equally near ones the first."""
    half_squares = np.einsum("cd,cd->c", centroids, centroids) / 2
    starts = range(0, len(vectors), BLOCK_ROWS)
    return np.concatenate(
        [(vectors[start : start + BLOCK_ROWS] @ centroids.T - half_squares).argmax(axis=1) for start in starts]
    )


def centroid_distances(
    vectors: Float[np.ndarray, "N d"], centroids: Float[np.ndarray, "C d"], labels: Int[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """Euclidean distance of each sample to the centroid of its cluster, float64 [N]."""
    return np.linalg.norm(vectors.astype(np.float64) - centroids[labels], axis=1)


def class_means(vectors: Float[np.ndarray, "N d"], labels: Int[np.ndarray, " N"]) -> Float64[np.ndarray, "C d"]:
    """Mean vector of each label, float64 [C, d]; zeros for a label that no sample has."""
    count = int(labels.max()) + 1
    sums = np.zeros((count, vectors.shape[1]), dtype=np.float64)
    np.add.at(sums, labels, vectors)
    return sums / np.maximum(np.bincount(labels, minlength=count), 1)[:, None]


def k_means_plus_plus(
    errors: Float[np.ndarray, "N C"],
    vectors: Float[np.ndarray, "N d"],
    budget: int,
    rng: np.random.Generator,
    *,
    covered: Bool[np.ndarray, " N"] | None = None,
) -> Int64[np.ndarray, " {budget}"]:
    """Draw samples with probability proportional to the squared distance of their gradients to the drawn ones (BADGE).

    The gradient of the last layer is the outer product of error and vector. Distances between outer products need
    products of the factors alone, so that no [N, C d] array is ever held.

    Args:
        errors: probabilities minus one-hot labels, float [N, C].
        vectors: inputs of the last layer, float [N, d].
        budget: samples to draw.
        rng: source of the draws.
        covered: bool [N], samples that count as drawn before.

    Returns:
        int64 [budget] in order of drawing. The first is the sample with the largest gradient.
    """
    squares = np.einsum("nc,nc->n", errors, errors) * np.einsum("nd,nd->n", vectors, vectors)
    nearest = np.full(len(vectors), np.inf)
    taken = np.zeros(len(vectors), dtype=bool)

    def take(row: int) -> None:
        inner = (errors @ errors[row]) * (vectors @ vectors[row])
        np.minimum(nearest, np.maximum(squares + squares[row] - 2 * inner, 0), out=nearest)
        taken[row] = True

    for row in [] if covered is None else np.flatnonzero(covered).tolist():
        take(row)
    order = np.empty(budget, dtype=np.int64)
    for number in range(budget):
        weights = np.where(taken, 0.0, nearest)
        total = weights.sum()
        if not taken.any():
            row = int(squares.argmax())
        elif total > 0:
            row = int(np.searchsorted(np.cumsum(weights), rng.random() * total, side="right"))
            row = min(row, int(np.flatnonzero(weights)[-1]))
        else:  # all that is left equals what was drawn
            row = int(rng.choice(np.flatnonzero(~taken)))
        order[number] = row
        take(row)
    return order
