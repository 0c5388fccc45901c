"""Preparing embeddings for the numerics: rows of unit length.

Symbols: n rows, d dimensions.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float16, Float32, Float64, Int64, Real

BLOCK_VALUES = 2**20
"""That are held in double precision at once."""


class UnitRows(NamedTuple):
    """Rows scaled to unit length.

    Attributes:
        vectors: float16 [n, d], of length 1 up to rounding.
        norms: float64 [n], the lengths before; infinite where one exceeds double precision.
    """

    vectors: Float16[np.ndarray, "n d"]
    norms: Float64[np.ndarray, " n"]


class Undirected(NamedTuple):
    """Positions of rows that have no direction to compare, each in ascending order and in one of the three.

    Attributes:
        not_finite: rows with a NaN or an infinite value.
        zero: rows of zeros.
        constant: rows of more than one value, all equal but not zero.
    """

    not_finite: Int64[np.ndarray, " a"]
    zero: Int64[np.ndarray, " b"]
    constant: Int64[np.ndarray, " c"]


def unit_half(vectors: Real[np.ndarray, "n d"]) -> UnitRows:
    """Finite rows scaled to unit length, in half precision, and their norms; rows of zeros stay zero.

    Lengths are computed in double precision, each row divided by a power of two first: no square over- or underflows,
    and the same rows on another scale give the same result (to the bit where the scale is a power of two).
    """
    units, norms = np.empty(vectors.shape, np.float16), np.empty(len(vectors), np.float64)
    with np.errstate(over="ignore", under="ignore"):
        for rows in blocks(vectors):
            wide = np.array(vectors[rows], dtype=np.float64, order="C")
            exponents = np.frexp(np.abs(wide).max(axis=1))[1]
            # In two steps: no float is large enough to bring a denormal value to 1.
            for part in (exponents // 2, exponents - exponents // 2):
                wide *= np.ldexp(1.0, -part)[:, None]
            lengths = np.sqrt(np.square(wide).sum(axis=1))
            norms[rows] = np.ldexp(lengths, exponents)
            units[rows] = wide / np.where(lengths > 0, lengths, 1)[:, None]
    return UnitRows(units, norms)


def undirected_rows(vectors: Real[np.ndarray, "n d"]) -> Undirected:
    """The rows that no cosine can compare, or that say nothing."""
    finite, zero, equal = (np.empty(len(vectors), bool) for _ in range(3))
    for rows in blocks(vectors):
        block = vectors[rows]
        finite[rows] = np.isfinite(block).all(axis=1)
        zero[rows] = ~block.any(axis=1)
        equal[rows] = (block == block[:, :1]).all(axis=1) & (block.shape[1] > 1)
    return Undirected(*(np.flatnonzero(found) for found in (~finite, zero, equal & finite & ~zero)))


def blocks(vectors: Real[np.ndarray, "n d"]) -> Iterator[slice]:
    """Some rows at a time."""
    step = max(1, BLOCK_VALUES // vectors.shape[1])
    for start in range(0, len(vectors), step):
        yield slice(start, start + step)


def normalize_rows(vectors: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Rows of unit L2 length, float32 [n, d]; rows of zeros stay zero."""
    vectors = vectors.astype(np.float32, copy=False)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.float32(1e-12))


def unit_distances(similarity: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, "n k"]:
    """Euclidean distances of vectors of unit length, float64 [n, k], from their cosine similarity."""
    return np.sqrt(np.maximum(2 - 2 * similarity.astype(np.float64), 0))
