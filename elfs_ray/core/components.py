"""Principal components of embeddings.

Symbols: m, n rows, d dimensions.
"""

import numpy as np
import torch
from jaxtyping import Float32, Int64
from threadpoolctl import threadpool_limits

from elfs_ray.core.features import blocks

SAMPLE_ROWS = 50_000
"""Of so many rows at most are components taken."""


def sample_for_components(count: int) -> Int64[np.ndarray, " m"]:
    """The rows, of so many, that principal components are taken of: all, or a random sample; in ascending order."""
    if count <= SAMPLE_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, SAMPLE_ROWS, replace=False))


class PrincipalComponents:
    """Projection on the leading principal components of some rows.

    The sign of each component is fixed by its largest entry, so that the result is repeatable.
    """

    def __init__(self, vectors: Float32[np.ndarray, "m d"], dim: int) -> None:
        """Take the components of `vectors` float32 [m, d]; `dim`, at most d, are kept."""
        from scipy import linalg

        width = vectors.shape[1]
        self._mean = vectors.mean(axis=0, dtype=np.float64)
        products = torch.zeros(width, width, dtype=torch.float64)
        for rows in blocks(vectors):
            centred = torch.from_numpy(vectors[rows] - self._mean)
            products.addmm_(centred.T, centred)
        # One thread: how several share the work changes the last bits, and so all that is trained on them.
        with threadpool_limits(1, "blas"):
            _, basis = linalg.eigh(products.numpy() / len(vectors), subset_by_index=(width - dim, width - 1))
        basis = basis[:, ::-1]
        largest = basis[np.abs(basis).argmax(axis=0), np.arange(dim)]
        self._basis = torch.from_numpy(basis * np.sign(largest)).float()

    def project(self, vectors: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n dim"]:
        """Rows centred and projected, float32 [n, dim]."""
        centred: Float32[np.ndarray, "n d"] = vectors - self._mean.astype(np.float32)
        return (torch.from_numpy(centred) @ self._basis).numpy()
