"""One sample for each group: frames of one video, shots of one scene, near-duplicates.

Symbols: n samples, d dimensions, g groups.
"""

import numpy as np
from jaxtyping import Float32, Int64

from elfs_ray.core.features import normalize_rows


def representatives(vectors: Float32[np.ndarray, "n d"], groups: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " g"]:
    """The sample of each group that is nearest to the mean of its group; of equal ones the first.

    Args:
        vectors: rows of unit length, float32 [n, d].
        groups: number of each sample's group, int64 [n].

    Returns:
        Positions of the samples, ascending, int64 [g].
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order[:1]] - 1))
    means = normalize_rows(np.add.reduceat(vectors[order], starts, axis=0))
    of_group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    similarity = np.einsum("nd,nd->n", vectors[order], means[of_group])
    best_first = np.lexsort((order, -similarity, of_group))
    return np.sort(order[best_first[starts]])
