"""Embeddings that the user has already: Parquet tables of ids and vectors."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from elfs_ray import storage
from elfs_ray.data.files import existing, files_signature, list_files, open_parquet, reading_parquet
from elfs_ray.data.sources import ID_COLUMNS
from elfs_ray.errors import UsageError

VECTOR_COLUMNS = ("vector", "embedding", "embeddings", "feature", "features")


@dataclass(frozen=True)
class VectorTable:
    """A listed table of vectors; any process can read one of its groups.

    Attributes:
        location: a Parquet file or a folder of such files, as the user named it.
        id_column: column with the sample ids.
        vector_column: column with lists of numbers.
        dim: width of the vectors.
        groups: row groups, as path and number within the file.
        rows: of all groups.
    """

    location: str
    id_column: str
    vector_column: str
    dim: int
    groups: tuple[tuple[str, int], ...]
    rows: int

    def read(self, number: int) -> tuple[pa.Array, np.ndarray]:
        """Ids and vectors float16 [rows, dim] of one group.

        Raises:
            UsageError: an id or a vector is missing, of another width, or not finite in half precision.
        """
        path, group = self.groups[number]
        with reading_parquet(path):
            table = open_parquet(path, storage.resolve(self.location)[0]).read_row_group(
                group, columns=[self.id_column, self.vector_column]
            )
            table.validate(full=True)  # what a damaged file holds may be no text, or lie outside of the memory read
        where = f"{path}, row group {group}"
        ids, lists = (table[name].combine_chunks() for name in (self.id_column, self.vector_column))
        if ids.null_count or lists.null_count:
            raise UsageError(f"{where}: {ids.null_count} ids and {lists.null_count} vectors are missing; fill them in")
        ids, values = ids.cast(pa.string()), lists.flatten()
        widths = np.unique(pc.list_value_length(lists).to_numpy(zero_copy_only=False))
        if len(widths) and widths.tolist() != [self.dim]:
            raise UsageError(f"{where}: vectors of {', '.join(map(str, widths))} values; all must have {self.dim}")
        with np.errstate(over="ignore"):
            vectors = values.to_numpy(zero_copy_only=False).astype(np.float16).reshape(-1, self.dim)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise UsageError(
                f"{where}: the vector of {ids[bad[0]].as_py()!r} holds a value that is not finite in half precision "
                "(up to 65,504); scale or mend it"
            )
        return ids, vectors


def open_vectors(location: str) -> VectorTable:
    """List a table of embeddings.

    Raises:
        UsageError: nothing there, no Parquet files, or no column of ids or of vectors.
    """
    filesystem, files = _list_tables(location)
    names = open_parquet(files[0].path, filesystem).schema_arrow
    id_column = next((name for name in ID_COLUMNS if name in names.names), None)
    vector_column = next((name for name in VECTOR_COLUMNS if name in names.names and _is_vector(names, name)), None)
    if id_column is None or vector_column is None:
        missing, usual = ("ids", ID_COLUMNS) if id_column is None else ("vectors (lists of numbers)", VECTOR_COLUMNS)
        raise UsageError(
            f"{location} has no column of {missing}; call it {' or '.join(usual)} "
            f"(its columns: {', '.join(names.names)})"
        )
    groups, rows = list[tuple[str, int]](), 0
    for file in files:
        metadata = open_parquet(file.path, filesystem).metadata
        rows += metadata.num_rows
        groups += [(file.path, group) for group in range(metadata.num_row_groups)]
    if not rows:
        raise UsageError(f"{location} holds no rows; pass a table with vectors")
    dim = len(next(_vectors(filesystem, files, vector_column)))
    if not dim:
        raise UsageError(f"{location}: the first vector of column {vector_column!r} is empty; mend the table")
    return VectorTable(location, id_column, vector_column, dim, tuple(groups), rows)


def vectors_signature(location: str) -> str:
    """Changes when the files of a table of embeddings do; looks into none of them."""
    return files_signature(_list_tables(location)[1])


def _list_tables(location: str) -> tuple[pafs.FileSystem, list[pafs.FileInfo]]:
    filesystem, info = existing(location)
    files = [info] if info.type == pafs.FileType.File else list_files(location, filesystem, info.path)
    files = [file for file in files if file.path.endswith(".parquet")]
    if not files:
        raise UsageError(f"{location} holds no .parquet file; pass a table with a column of ids and one of vectors")
    return filesystem, files


def _is_vector(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    return pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)


def _vectors(filesystem: pafs.FileSystem, files: list[pafs.FileInfo], column: str) -> Iterator[list[float]]:
    """The vectors, one after the other; `[]` for one that is missing."""
    for file in files:
        with reading_parquet(file.path):
            for batch in open_parquet(file.path, filesystem).iter_batches(1, columns=[column]):
                yield batch[column][0].as_py() or []
