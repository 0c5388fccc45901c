"""The nearest neighbours of all samples in one process.

Symbols: n rows, d dimensions, k neighbours.
"""

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64

from elfs_ray.core.features import normalize_rows
from elfs_ray.core.knn import drop_self
from elfs_ray.core.product_index import ProductIndex
from elfs_ray.core.progress import Progress
from elfs_ray.core.small_index import Index, exact_index

QUERY_ROWS = 4096


def nearest_others(
    vectors: Float16[np.ndarray, "n d"], k: int, device: torch.device, progress: Progress, *, bfloat16: bool = False
) -> tuple[Int64[np.ndarray, "n {k}"], Float32[np.ndarray, "n {k}"]]:
    """The k other rows most similar to each, ranked by exact similarity.

    Args:
        vectors: rows of unit length as they are stored, float16 [n, d].
        k: at most n - 1.
        device: where the products run.
        progress: told of each block of rows.
        bfloat16: whether the processors have instructions for it; the answer is the same.

    Returns:
        Positions int64 [n, k] and similarity float32 [n, k], most similar first.
    """
    index = _index(vectors, device, bfloat16=bfloat16)
    starts, found = range(0, len(vectors), QUERY_ROWS), []
    for number, start in enumerate(starts):
        rows = np.arange(start, min(start + QUERY_ROWS, len(vectors)))
        similarity, ids = index.search(normalize_rows(vectors[rows]), k + 1)
        found.append(drop_self(ids, similarity, rows, k))
        progress(number, len(starts), len(rows) + start)
    ids, similarity = (np.concatenate(column) for column in zip(*found, strict=True))
    return ids, similarity


def _index(vectors: Float16[np.ndarray, "n d"], device: torch.device, *, bfloat16: bool) -> Index:
    """All rows, to be compared with queries on a device."""
    if device.type != "cuda":
        return exact_index(normalize_rows(vectors), bfloat16=bfloat16, threads=torch.get_num_threads())
    count, dim = vectors.shape
    index = ProductIndex(count, dim, device)
    index.add(vectors)
    return index
