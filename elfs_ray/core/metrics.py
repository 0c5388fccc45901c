"""Numbers that judge clusters, coresets and repeated measurements.

Symbols: n samples, d dimensions, m selected samples, L labels, C clusters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64


class MeanInterval(NamedTuple):
    """A mean with its spread.

    Attributes:
        mean: of the values.
        std: sample standard deviation (n - 1); 0 for a single value.
        half_width: of the confidence interval of the mean, by Student's t; 0 for a single value.
        n: number of values.
    """

    mean: float
    std: float
    half_width: float
    n: int


def mean_and_interval(values: Sequence[float] | Float[np.ndarray, " n"]) -> MeanInterval:
    """Mean, deviation and 95 % confidence interval of repeated measurements."""
    values = np.asarray(values, dtype=np.float64)
    count = len(values)
    if count < 2:
        return MeanInterval(float(values.mean()), 0.0, 0.0, count)
    from scipy import special

    deviation = float(values.std(ddof=1))
    quantile = float(special.stdtrit(count - 1, 0.975))
    return MeanInterval(float(values.mean()), deviation, quantile * deviation / count**0.5, count)


def best_candidate(values: Float64[np.ndarray, "c s"], steps: Int[np.ndarray, "c s"], *, within_noise: bool) -> int:
    """The candidate with the best mean, of those whose trainings all went on the longest; ties go to the first.

    Args:
        values: of c candidates with the same s seeds, float64 [c, s]; larger is better.
        steps: after which each value was reached, int [c, s].
        within_noise: whether candidates about as good as the best are ties, too (`first_within_noise`).
    """
    farthest = np.flatnonzero(came_farthest(steps))
    compared = values[farthest]
    best = first_within_noise(compared) if within_noise else int(compared.mean(axis=1).round(12).argmax())
    return int(farthest[best])


def came_farthest(steps: Int[np.ndarray, "c s"]) -> Bool[np.ndarray, " c"]:
    """Which candidates a scheduler let train with every seed as long as any other, bool [c]: these can be compared.

    Args:
        steps: trained by c candidates with s seeds, int [c, s].
    """
    reached = steps.min(axis=1)
    return reached == reached.max()


def first_within_noise(values: Float64[np.ndarray, "c s"]) -> int:
    """The first candidate that is as good as the best, within one standard error of their paired difference.

    The standard error is the median of those of all candidates: of two or three seeds each alone says little.

    Args:
        values: of c candidates with the same s seeds, float64 [c, s]; larger is better.
    """
    best, seeds = int(values.mean(axis=1).argmax()), values.shape[1]
    if len(values) == 1:
        return 0
    differences = values[best] - values
    error = np.median(np.delete(differences, best, axis=0).std(axis=1, ddof=1)) / seeds**0.5 if seeds > 1 else 0.0
    return int(np.flatnonzero(differences.mean(axis=1) <= error + 1e-12)[0])


def contingency(labels: Int[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]) -> Int64[np.ndarray, "L C"]:
    """Counts int64 [L, C] of samples by label and cluster (both >= 0)."""
    width = int(clusters.max()) + 1
    flat = labels.astype(np.int64) * width + clusters
    return np.bincount(flat, minlength=(int(labels.max()) + 1) * width).reshape(-1, width)


def cluster_accuracy(labels: Int[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]) -> float:
    """Share of samples whose cluster stands for their label, in the best one-to-one matching (Hungarian algorithm).

    Args:
        labels: true labels, int [n], >= 0.
        clusters: int [n], >= 0; there may be more or fewer clusters than labels.
    """
    from scipy.optimize import linear_sum_assignment

    counts = contingency(labels, clusters)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / counts.sum())


def normalized_mutual_information(labels: Int[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]) -> float:
    """Mutual information over the arithmetic mean of the entropies; 1 where both are constant."""
    from scipy import special

    joint = contingency(labels, clusters) / len(labels)
    by_label, by_cluster = joint.sum(axis=1), joint.sum(axis=0)
    both = joint > 0
    information = float((joint[both] * np.log(joint[both] / np.outer(by_label, by_cluster)[both])).sum())
    entropy = float(special.entr(by_label).sum() + special.entr(by_cluster).sum()) / 2
    return information / entropy if entropy > 0 else 1.0


def nearest_similarity(
    queries: Float32[np.ndarray, "q d"],
    chosen: Float32[np.ndarray, "m d"],
    own: Int64[np.ndarray, " q"] | None = None,
    block_rows: int = 1024,
) -> Float32[np.ndarray, " q"]:
    """Cosine similarity of each query to the most similar chosen row, float32 [q].

    Its mean over all samples is how well the chosen ones cover them; over the chosen ones themselves, how redundant
    they are.

    Args:
        queries: rows of unit length, float32 [q, d].
        chosen: rows of unit length, float32 [m, d], m >= 1, or m >= 2 with `own`.
        own: which of the chosen rows each query is, int64 [q]; that one does not count.
        block_rows: queries compared at a time.
    """
    best = np.empty(len(queries), dtype=np.float32)
    for start in range(0, len(queries), block_rows):
        similarity = queries[start : start + block_rows] @ chosen.T
        if own is not None:
            similarity[np.arange(len(similarity)), own[start : start + block_rows]] = -np.inf
        best[start : start + block_rows] = similarity.max(axis=1)
    return best
