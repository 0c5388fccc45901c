"""Where images come from.

A source lists its inputs once and cuts them into chunks; any process can read a chunk. Positions are dense, in the
order of the source. It says what it passes over (`Source.found`): all else that stands there is an input, and becomes
a sample or a row of the quarantine.

| source | inputs, in order | ids |
|---|---|---|
| folder | files, by path | paths below the folder |
| parquet | rows of a table, or of a folder of tables by path, with bytes or paths | a column, else FILE#ROW |
| manifest | rows of a CSV, TSV or JSON-lines file with paths | a column, else the paths |
| webdataset | samples of tar shards, by path | keys, or SHARD/KEY |
| hugging face | rows of a saved data set | a column, else the numbers of the rows |
| vectors | rows of embeddings, without images | a column, else the numbers of the rows |
"""

from collections import Counter

import pyarrow.fs as pafs

from elfs_ray.artifacts import filesystems
from elfs_ray.config import RunConfig
from elfs_ray.data.columns import ID_COLUMNS, Wanted
from elfs_ray.data.files import existing
from elfs_ray.data.listing import Entry, list_folder
from elfs_ray.data.sources.base import Chunk, Source
from elfs_ray.data.sources.folder import FolderSource
from elfs_ray.data.sources.found import UNKNOWN, counted, label
from elfs_ray.data.sources.hugging_face import SAVED_WITH, SPLITS, STATE, HuggingFaceSource, in_order, refuse_splits
from elfs_ray.data.sources.kinds import (
    AUTO,
    FOLDER,
    HUGGING_FACE,
    PARQUET,
    PARQUET_ENDINGS,
    SHARDS,
    TABLE,
    Parts,
    check_kind,
    compressed,
    is_compressed,
    kind_of_folder,
)
from elfs_ray.data.sources.manifest import ManifestSource
from elfs_ray.data.sources.parquet import ParquetSource
from elfs_ray.data.sources.vectors import VectorSource
from elfs_ray.data.sources.webdataset import WebDatasetSource
from elfs_ray.data.text_tables import MANIFESTS
from elfs_ray.errors import UsageError
from elfs_ray.locations import from_file_uri

__all__ = ["ID_COLUMNS", "Chunk", "Source", "open_input", "open_source"]


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
        if ingest.input_kind != AUTO:
            raise UsageError(
                f"ingest.input_kind={ingest.input_kind} is for images, and there are only embeddings; drop it"
            )
        return VectorSource(str(config.embed.vectors), ingest.id_column)
    return open_source(
        location,
        image_column=ingest.image_column,
        id_column=ingest.id_column,
        chunk_rows=ingest.chunk_rows,
        kind=ingest.input_kind,
    )


def open_source(
    location: str,
    *,
    image_column: str | None = None,
    id_column: str | None = None,
    chunk_rows: int = 1024,
    kind: str = AUTO,
) -> Source:
    """List the images at a local path or URI.

    Args:
        location: of a folder or a file.
        image_column: of a table: with bytes or paths; of tar shards: the ending of the images.
        id_column: of a table: with the ids.
        chunk_rows: inputs that are read at once, at most.
        kind: what is there; `auto`: what the files say.

    Raises:
        UsageError: nothing there, nothing in it, no permission, a table or archive that cannot be read, no such column,
            or a folder that may be one thing as well as another.
    """
    try:
        location = from_file_uri(location)
    except ValueError as error:
        raise UsageError(f"{location} cannot be opened: {error}") from None
    filesystem, info = existing(location)
    wanted = Wanted(image_column, id_column, chunk_rows)
    if info.type == pafs.FileType.File:
        return _open_file(location, filesystem, info, wanted, kind)
    return _open_folder(location, filesystem, info.path, wanted, kind)


def _open_folder(location: str, filesystem: pafs.FileSystem, root: str, wanted: Wanted, kind: str) -> Source:
    listing = list_folder(location, filesystem, root)
    parts = Parts(listing)
    top = {entry.base_name for entry in listing.entries if entry.path.rpartition("/")[0] == root}
    arrow = parts.kinds[HUGGING_FACE]
    if kind == AUTO:
        saved = arrow and (SPLITS in top or STATE in top)
        kind = HUGGING_FACE if saved else kind_of_folder(location, listing, parts, filesystem)
    if kind == HUGGING_FACE and arrow and SPLITS in top:
        refuse_splits(location, filesystem, root)
    check_kind(location, kind, parts)
    files = parts.take(kind)
    if kind == HUGGING_FACE:
        files = in_order(location, filesystem, files, [one for one in listing.entries if one.base_name == STATE])
    source = _reader(location, filesystem, root, files, wanted, kind)
    source.found.read = _told(files, parts, kind)
    taken = {file.path for file in files}
    of_saved = SAVED_WITH if kind == HUGGING_FACE else ()
    left = [file for file in listing.entries if file.path not in taken and file.base_name not in of_saved]
    source.found.add(listing, left)
    return source


def _reader(
    location: str, filesystem: pafs.FileSystem, root: str, files: list[Entry], wanted: Wanted, kind: str
) -> Source:
    """What reads files of a kind."""
    if kind == PARQUET:
        return ParquetSource(location, filesystem, root, files, wanted)
    if kind == HUGGING_FACE:
        return HuggingFaceSource(location, filesystem, files, wanted)
    if kind == SHARDS:
        return WebDatasetSource(location, filesystem, root, files, wanted)
    if kind == TABLE:
        table = filesystems.with_options_of(filesystems.uri_of(files[0].path, location), location)
        return ManifestSource(table, filesystem, filesystem.get_file_info(files[0].path), wanted)
    if wanted.image_column or wanted.id_column:
        raise UsageError(
            f"{location} is a folder of images, and ingest.image_column and ingest.id_column are for tables; "
            "leave them out"
        )
    return FolderSource(location, root, files, wanted.chunk_rows)


def _told(files: list[Entry], parts: Parts, kind: str) -> str:
    """Files that are read, in words."""
    if kind != FOLDER:
        return ", ".join(counted(what, count) for what, count in Counter(map(label, files)).items())
    told = [counted("images", len(parts.kinds[FOLDER]))] if parts.kinds[FOLDER] else []
    return " and ".join([*told, *([counted(UNKNOWN, len(parts.unknown))] if parts.unknown else [])])


def _open_file(location: str, filesystem: pafs.FileSystem, info: pafs.FileInfo, wanted: Wanted, kind: str) -> Source:
    file = Entry(info.path, info.size, info.mtime_ns)
    if is_compressed(file):
        raise UsageError(compressed(location))
    if kind == AUTO:
        kind = _KINDS.get(file.extension, FOLDER)
    if kind == FOLDER:
        raise UsageError(
            f"{location} is neither a folder nor a .parquet file, nor .csv, .tsv, .jsonl, .tar or .arrow; "
            "pass a folder of images, or a table or archive that holds them"
        )
    return _reader(location, filesystem, info.path.rpartition("/")[0], [file], wanted, kind)


_KINDS = {
    **dict.fromkeys(PARQUET_ENDINGS, PARQUET),
    **dict.fromkeys(MANIFESTS, TABLE),
    "tar": SHARDS,
    "arrow": HUGGING_FACE,
}
