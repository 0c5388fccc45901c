"""Where images come from.

A source lists its inputs once and cuts them into chunks; any process can read a chunk. Positions are dense, in the
order of the source.

| source | inputs, in order | ids |
|---|---|---|
| folder | files, by path | paths below the folder |
| parquet | rows of a table, or of a folder of tables by path, with bytes or paths | a column, else FILE#ROW |
| manifest | rows of a CSV, TSV or JSON-lines file with paths | a column, else the paths |
| webdataset | samples of tar shards, by path | keys, or SHARD/KEY |
| hugging face | rows of a saved data set | a column, else the numbers of the rows |
| vectors | rows of embeddings, without images | a column, else the numbers of the rows |
"""

import pyarrow.fs as pafs

from elfs_ray.config import RunConfig
from elfs_ray.data.columns import ID_COLUMNS, Wanted
from elfs_ray.data.files import existing, list_files
from elfs_ray.data.sources.base import Chunk, Source
from elfs_ray.data.sources.folder import FolderSource
from elfs_ray.data.sources.hugging_face import SPLITS, STATE, HuggingFaceSource, refuse_splits
from elfs_ray.data.sources.manifest import ManifestSource
from elfs_ray.data.sources.parquet import ParquetSource
from elfs_ray.data.sources.vectors import VectorSource
from elfs_ray.data.sources.webdataset import WebDatasetSource
from elfs_ray.data.text_tables import MANIFESTS
from elfs_ray.errors import UsageError

__all__ = ["ID_COLUMNS", "Chunk", "Source", "open_input", "open_source"]

_BESIDE_SHARDS = ("json", "jsonl", "txt", "md", "idx", "csv", "yaml", "yml")
"""Endings of files that may stand beside tar shards, and say something of them."""


def open_input(config: RunConfig, location: str | None) -> Source:
    """List the candidates of a run, or its test images, with the columns that it names.

    Args:
        config: of the run.
        location: of the images; None: the run's embeddings stand for them.

    Raises:
        UsageError: as `open_source`.
    """
    ingest = config.ingest
    if location is None:
        return VectorSource(str(config.embed.vectors), ingest.id_column)
    return open_source(
        location, image_column=ingest.image_column, id_column=ingest.id_column, chunk_rows=ingest.chunk_rows
    )


def open_source(
    location: str, *, image_column: str | None = None, id_column: str | None = None, chunk_rows: int = 1024
) -> Source:
    """List the images at a local path or URI.

    Raises:
        UsageError: nothing there, nothing in it, no permission, a table or archive that cannot be read, no such column.
    """
    filesystem, info = existing(location)
    wanted = Wanted(image_column, id_column, chunk_rows)
    if info.type == pafs.FileType.File:
        return _open_file(location, filesystem, info, wanted)
    files = list_files(location, filesystem, info.path)
    if not files:
        raise UsageError(f"{location} holds no files; pass a folder with images")
    endings = {file.extension for file in files}
    top = {file.base_name for file in files if file.path.rpartition("/")[0] == info.path}
    if endings == {"parquet"}:
        return ParquetSource(location, filesystem, files, wanted)
    if SPLITS in top and "arrow" in endings:
        refuse_splits(location, filesystem, info.path)
    if endings == {"arrow"} or ("arrow" in endings and STATE in top):
        return HuggingFaceSource(location, filesystem, files, wanted)
    if "tar" in endings and endings <= {"tar", *_BESIDE_SHARDS}:
        shards = [file for file in files if file.extension == "tar"]
        return WebDatasetSource(location, filesystem, info.path, shards, wanted)
    if image_column or id_column:
        raise UsageError(
            f"{location} is a folder of images, and ingest.image_column and ingest.id_column are for tables; "
            "leave them out"
        )
    return FolderSource(location, info.path, files, chunk_rows)


def _open_file(location: str, filesystem: pafs.FileSystem, info: pafs.FileInfo, wanted: Wanted) -> Source:
    ending = info.extension.lower()
    if ending == "parquet":
        return ParquetSource(location, filesystem, [info], wanted)
    if ending in MANIFESTS:
        return ManifestSource(location, filesystem, info, wanted)
    if ending == "tar":
        return WebDatasetSource(location, filesystem, info.path.rpartition("/")[0], [info], wanted)
    if ending == "arrow":
        return HuggingFaceSource(location, filesystem, [info], wanted)
    if info.path.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise UsageError(f"{location} is compressed, so that no image in it can be read alone; unpack it to .tar")
    raise UsageError(
        f"{location} is neither a folder nor a .parquet file, nor .csv, .tsv, .jsonl, .tar or .arrow; "
        "pass a folder of images, or a table or archive that holds them"
    )
