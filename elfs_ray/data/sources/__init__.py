"""Where images come from.

An input is listed once, and its listing says where each image is: any process can read any chunk of it. Positions are
dense, in the order of the source. It says what it passes over (`Source.found`): all else that stands there is an input,
and becomes a sample or a row of the quarantine.

| source | inputs, in order | ids |
|---|---|---|
| folder | files, by path | paths below the folder |
| parquet | rows of a table, or of a folder of tables by path, with bytes or paths | a column, else FILE#ROW |
| manifest | rows of a CSV, TSV or JSON-lines file with paths | a column, else the paths |
| webdataset | samples of tar shards, by path | keys, or SHARD/KEY |
| hugging face | rows of a saved data set | a column, else the numbers of the rows |
| vectors | rows of embeddings, without images | a column, else the numbers of the rows |

Listing has three steps, which tasks do for a run and `open_source` does in memory: `look` finds the files and settles
what they are; `Source.entries_of` lists some of them; `Source.joined` and `numbered` make one listing of the pieces.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from elfs_ray.artifacts import filesystems
from elfs_ray.config import RunConfig
from elfs_ray.data.columns import Wanted
from elfs_ray.data.files import existing, files_signature, map_files
from elfs_ray.data.listing import Entry, list_folder
from elfs_ray.data.sources.base import About, Entries, Held, Source, numbered
from elfs_ray.data.sources.folder import FolderSource
from elfs_ray.data.sources.found import UNKNOWN, Found, counted, label
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
from elfs_ray.data.vectors import vectors_signature
from elfs_ray.errors import UsageError
from elfs_ray.locations import from_file_uri

__all__ = [
    "Looked",
    "Source",
    "listed",
    "look_at_input",
    "open_input",
    "open_source",
    "source_of",
]

_KINDS: dict[str, Any] = {
    FOLDER: FolderSource,
    PARQUET: ParquetSource,
    TABLE: ManifestSource,
    SHARDS: WebDatasetSource,
    HUGGING_FACE: HuggingFaceSource,
}
_BY_NAME: dict[str, Any] = {source.kind: source for source in (*_KINDS.values(), VectorSource)}
_BY_ENDING = {
    **dict.fromkeys(PARQUET_ENDINGS, PARQUET),
    **dict.fromkeys(MANIFESTS, TABLE),
    "tar": SHARDS,
    "arrow": HUGGING_FACE,
}


class Looked(NamedTuple):
    """An input of which is known what it is, and which files it has.

    Attributes:
        source: not listed yet.
        files: to list, in order.
    """

    source: Source
    files: list[Entry]

    @property
    def is_small(self) -> bool:
        """Whether it can be listed in a moment."""
        size = sum(file.size for file in self.files)
        return len(self.files) <= self.source.small_files and size <= self.source.small_bytes

    def runs(self) -> Iterator[tuple[int, int]]:
        """First file of each piece of the listing, and the file after its last."""
        step = self.source.files_at_once
        return ((start, min(start + step, len(self.files))) for start in range(0, len(self.files), step))


def source_of(about: About, entries: Entries | None = None) -> Source:
    """What reads an input."""
    source: Source = _BY_NAME[about.kind](about, entries)
    return source


def open_input(config: RunConfig, location: str | None) -> Source:
    """The candidates of a run, or its test images, listed in memory; raises as `look_at_input`."""
    return listed(look_at_input(config, location))


def look_at_input(config: RunConfig, location: str | None, most: int | None = None) -> Looked:
    """What the candidates of a run are, or its test images, with the columns that it names.

    Args:
        config: of the run.
        location: of the images; None: the run's embeddings stand for them.
        most: files to look at.

    Raises:
        UsageError: as `look`.
        TooManyError: there are more files.
    """
    ingest = config.ingest
    if location is None:
        if ingest.input_kind != AUTO:
            raise UsageError(
                f"ingest.input_kind={ingest.input_kind} is for images, and there are only embeddings; drop it"
            )
        return _look_at_vectors(str(config.embed.vectors), ingest.id_column)
    wanted = Wanted(ingest.image_column, ingest.id_column, ingest.chunk_rows)
    return look(location, wanted, ingest.input_kind, most)


def open_source(
    location: str,
    *,
    image_column: str | None = None,
    id_column: str | None = None,
    chunk_rows: int = 1024,
    kind: str = AUTO,
) -> Source:
    """The images at a local path or URI, listed in memory.

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
    return listed(look(location, Wanted(image_column, id_column, chunk_rows), kind))


def listed(looked: Looked) -> Source:
    """An input, listed in memory."""
    source, files = looked
    pieces = list(map_files(lambda run: source.entries_of(files[slice(*run)]), source.location, looked.runs()))
    tables = [table for table, _ in pieces]
    about = source.joined([facts for _, facts in pieces], lambda: (table["id"] for table in tables))
    return source_of(about, Held(pa.concat_tables(numbered(source_of(about), tables))))


def look(location: str, wanted: Wanted, kind: str = AUTO, most: int | None = None) -> Looked:
    """What is at a local path or URI; arguments and errors as those of `open_source` and `look_at_input`."""
    try:
        location = from_file_uri(location)
    except ValueError as error:
        raise UsageError(f"{location} cannot be opened: {error}") from None
    filesystem, info = existing(location)
    if info.type == pafs.FileType.File:
        return _look_at_file(location, info, wanted, kind)
    return _look_at_folder(location, filesystem, info.path, wanted, kind, most)


def _look_at_folder(
    location: str, filesystem: pafs.FileSystem, root: str, wanted: Wanted, kind: str, most: int | None
) -> Looked:
    listing = list_folder(location, filesystem, root, most)
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
    if kind == FOLDER and (wanted.image_column or wanted.id_column):
        raise UsageError(
            f"{location} is a folder of images, and ingest.image_column and ingest.id_column are for tables; "
            "leave them out"
        )
    found = Found(_told(files, parts, kind))
    taken = {file.path for file in files}
    of_saved = SAVED_WITH if kind == HUGGING_FACE else ()
    found.add(listing, [file for file in listing.entries if file.path not in taken and file.base_name not in of_saved])
    if kind == TABLE:
        location = filesystems.with_options_of(filesystems.uri_of(files[0].path, location), location)
    return _settled(location, root, files, wanted, kind, found)


def _look_at_file(location: str, info: pafs.FileInfo, wanted: Wanted, kind: str) -> Looked:
    file = Entry(info.path, info.size, info.mtime_ns)
    if is_compressed(file):
        raise UsageError(compressed(location))
    if kind == AUTO:
        kind = _BY_ENDING.get(file.extension, FOLDER)
    if kind == FOLDER:
        raise UsageError(
            f"{location} is neither a folder nor a .parquet file, nor .csv, .tsv, .jsonl, .tar or .arrow; "
            "pass a folder of images, or a table or archive that holds them"
        )
    return _settled(location, info.path.rpartition("/")[0], [file], wanted, kind, Found(""))


def _settled(location: str, root: str, files: list[Entry], wanted: Wanted, kind: str, found: Found) -> Looked:
    source = _KINDS[kind]
    reading = source.settle(location, files, wanted)
    about = About(source.kind, location, root, files_signature(files), reading=reading, found=found)
    return Looked(source(about), files)


def _look_at_vectors(location: str, id_column: str | None) -> Looked:
    signature = vectors_signature(location)
    reading = VectorSource.settle(location, (), Wanted(None, id_column, 1))
    about = About(VectorSource.kind, location, "", signature, reading=reading, found=Found(""))
    # One piece: what reads vectors lists their files itself.
    return Looked(VectorSource(about), [Entry(location, 0, None)])


def _told(files: Sequence[Entry], parts: Parts, kind: str) -> str:
    """Files that are read, in words."""
    if kind != FOLDER:
        return ", ".join(counted(what, count) for what, count in Counter(map(label, files)).items())
    told = [counted("images", len(parts.kinds[FOLDER]))] if parts.kinds[FOLDER] else []
    return " and ".join([*told, *([counted(UNKNOWN, len(parts.unknown))] if parts.unknown else [])])
