"""Where images come from.

A source lists its inputs once and cuts them into chunks; any process can read a chunk. Positions are dense, in the
order of the source.

| source | inputs, in order |
|---|---|
| folder | files, by path |
| parquet | rows of a table, or of a folder of tables by path, with bytes or paths |
"""

import pyarrow.fs as pafs

from elfs_ray.data.files import existing, list_files
from elfs_ray.data.sources.base import Chunk, Source
from elfs_ray.data.sources.columns import ID_COLUMNS
from elfs_ray.data.sources.folder import FolderSource
from elfs_ray.data.sources.parquet import ParquetSource
from elfs_ray.errors import UsageError

__all__ = ["ID_COLUMNS", "Chunk", "Source", "open_source"]


def open_source(
    location: str, *, image_column: str | None = None, id_column: str | None = None, chunk_rows: int = 1024
) -> Source:
    """List the images at a local path or URI.

    Raises:
        UsageError: nothing there, nothing in it, no permission, a table that cannot be read or lacks a column.
    """
    filesystem, info = existing(location)
    if info.type == pafs.FileType.File:
        if not info.path.endswith(".parquet"):
            raise UsageError(f"{location} is neither a folder nor a .parquet file; pass a folder of images or a table")
        return ParquetSource(location, filesystem, [info], image_column, id_column, chunk_rows)
    files = list_files(location, filesystem, info.path)
    if not files:
        raise UsageError(f"{location} holds no files; pass a folder with images")
    if all(file.path.endswith(".parquet") for file in files):
        return ParquetSource(location, filesystem, files, image_column, id_column, chunk_rows)
    if image_column or id_column:
        raise UsageError(f"{location} is a folder of images: ingest.image_column and ingest.id_column are for tables")
    return FolderSource(location, info.path, files, chunk_rows)
