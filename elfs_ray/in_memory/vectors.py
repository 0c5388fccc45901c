"""Embeddings as people hold them in memory: NumPy, torch, Arrow, pandas, lists of numbers."""

from typing import Any

import numpy as np
import pyarrow as pa

from elfs_ray.core.features import UnitRows, unit_half
from elfs_ray.data.vectors import undirected
from elfs_ray.errors import UsageError

FORMS = "a matrix of numbers (NumPy, torch, Arrow or pandas) with a row for each sample, or a list of images"


def as_unit_rows(X: Any) -> UnitRows:
    """The rows scaled to unit length, as a run scales and stores embeddings.

    Raises:
        UsageError: no matrix of numbers, or rows that have no direction: NaN, infinite, zero or constant.
    """
    matrix = _as_matrix(X)
    told = undirected(matrix, np.arange(len(matrix)))
    if told:
        raise UsageError(f"X: {told} (its row); cosine cannot compare them: leave them out, or embed these again")
    return unit_half(matrix)


def _as_matrix(given: Any) -> np.ndarray:
    """Real numbers [rows, dim]."""
    given = _as_numpy(given)
    try:
        matrix = np.asarray(given)
        if matrix.dtype == object and len(matrix):  # a column of vectors, or numbers that are objects
            matrix = np.stack([np.asarray(row, dtype=np.float64) for row in matrix])
    except (ValueError, TypeError) as error:
        raise UsageError(f"X is no matrix of numbers ({error}); pass {FORMS}") from None
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
        raise UsageError(f"X holds {matrix.dtype} of shape {matrix.shape}; pass {FORMS}")
    if 0 in matrix.shape:
        raise UsageError(f"X is empty, its shape is {matrix.shape}; pass {FORMS}")
    return matrix.astype(np.float32) if matrix.dtype.kind == "b" else matrix


def _as_numpy(given: Any) -> Any:
    """What NumPy can make an array of, from the types of other libraries, which are not imported for it."""
    library = type(given).__module__.partition(".")[0]
    if library == "torch":
        given = given.detach().cpu()
        return (given.float() if given.is_floating_point() else given).numpy()
    if library == "scipy" and hasattr(given, "toarray"):
        raise UsageError("X is a sparse matrix; pass a dense one: X.toarray()")
    if isinstance(given, pa.Table):
        raise UsageError("X is an Arrow table; pass the column of vectors, such as table['embedding']")
    if isinstance(given, (pa.Array, pa.ChunkedArray)):
        return _of_arrow(given)
    return given.to_numpy() if library == "pandas" else given


def _of_arrow(column: pa.Array | pa.ChunkedArray) -> np.ndarray | list[Any]:
    """The matrix in a column of lists, with NaN for a missing value."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ExtensionArray):  # as tensors are
        column = column.storage
    kind = column.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise UsageError(f"X is an Arrow column of {kind}; pass one of lists of numbers, a vector for each sample")
    if column.null_count:
        raise UsageError(f"X: {column.null_count:,} of {len(column):,} vectors are missing; leave these samples out")
    if pa.types.is_fixed_size_list(kind):
        values: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(column), kind.list_size)
    return column.to_numpy(zero_copy_only=False)
