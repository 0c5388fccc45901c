"""Preparing embeddings for the numerics: unit length and principal components.

Symbols: n rows, d dimensions.
"""

import numpy as np
from jaxtyping import Float, Float32, Int64
from scipy import linalg


def normalize_rows(vectors: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Rows of unit L2 length, float32 [n, d]; rows of zeros stay zero."""
    vectors = vectors.astype(np.float32, copy=False)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.float32(1e-12))


def principal_components(
    vectors: Float32[np.ndarray, "n d"], dim: int, sample: Int64[np.ndarray, " m"] | None = None
) -> Float32[np.ndarray, "n {dim}"]:
    """Rows centred and projected on the leading principal components.

    Args:
        vectors: float32 [n, d].
        dim: components kept, at most d.
        sample: positions of the rows that determine the components; without: all.

    Returns:
        float32 [n, dim]. The sign of each component is fixed by its largest entry, so that the result is repeatable.
    """
    fitted = vectors if sample is None else vectors[sample]
    mean = fitted.mean(axis=0)
    centred = fitted - mean
    covariance = centred.T @ centred / len(fitted)
    width = len(covariance)
    _, basis = linalg.eigh(covariance, subset_by_index=(width - dim, width - 1))
    basis = basis[:, ::-1]
    largest = basis[np.abs(basis).argmax(axis=0), np.arange(dim)]
    return ((vectors - mean) @ (basis * np.sign(largest))).astype(np.float32, copy=False)
