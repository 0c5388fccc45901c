"""Preparing embeddings for the numerics: unit length and principal components.

Symbols: n rows, d dimensions.
"""

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy import linalg


def normalize_rows(vectors: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Rows of unit L2 length, float32 [n, d]; rows of zeros stay zero."""
    vectors = vectors.astype(np.float32, copy=False)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.float32(1e-12))


def unit_distances(similarity: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, "n k"]:
    """Euclidean distances of vectors of unit length, float64 [n, k], from their cosine similarity."""
    return np.sqrt(np.maximum(2 - 2 * similarity.astype(np.float64), 0))


class PrincipalComponents:
    """Projection on the leading principal components of some rows.

    The sign of each component is fixed by its largest entry, so that the result is repeatable.
    """

    def __init__(self, vectors: Float32[np.ndarray, "m d"], dim: int) -> None:
        """Take the components of `vectors` float32 [m, d]; `dim`, at most d, are kept."""
        self._mean = vectors.mean(axis=0)
        centred = vectors - self._mean
        covariance = centred.T @ centred / len(vectors)
        width = len(covariance)
        _, basis = linalg.eigh(covariance, subset_by_index=(width - dim, width - 1))
        basis = basis[:, ::-1]
        largest = basis[np.abs(basis).argmax(axis=0), np.arange(dim)]
        self._basis = basis * np.sign(largest)

    def project(self, vectors: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n dim"]:
        """Rows centred and projected, float32 [n, dim]."""
        return ((vectors - self._mean) @ self._basis).astype(np.float32, copy=False)
