"""What a folder is: images, tables, shards or a saved data set. What most of its files and most of its bytes are."""

import re
from collections import Counter
from collections.abc import Callable, Iterable

import pyarrow.fs as pafs

from elfs_ray.artifacts.filesystems import uri_of
from elfs_ray.data.image_kinds import IMAGE_ENDINGS, OTHER_ENDINGS, ending_of
from elfs_ray.data.listing import Entry, Listing
from elfs_ray.data.sources.found import counted, label
from elfs_ray.data.text_tables import MANIFESTS
from elfs_ray.errors import UsageError

AUTO, FOLDER, PARQUET, TABLE, SHARDS, HUGGING_FACE = "auto", "folder", "parquet", "table", "webdataset", "hugging-face"
PARQUET_ENDINGS = ("parquet", "parq", "pq")
COMPRESSED = re.compile(r"\.(tar\.\w+|t(gz|bz2?|xz|zst)|(parquet|parq|pq|arrow)\.(gz|bz2|xz|zst))$", re.IGNORECASE)
_NAMES = "readme license licence copying notice authors contributors changelog citation version manifest makefile"
_TEXTS = frozenset((*_NAMES.split(), "_metadata", "_common_metadata"))
_TOLD = {FOLDER: "images", PARQUET: ".parquet", SHARDS: ".tar", HUGGING_FACE: ".arrow"}
_KINDS_TOLD, _LOOKED_INTO, _LOOKED_AT_BYTES = 4, 8, 2**24


class Parts:
    """The files of a folder by what they may be.

    Attributes:
        kinds: `FOLDER` (images by their endings), `PARQUET`, `SHARDS`, `HUGGING_FACE`, `TABLE` -> files.
        unknown: that have no known ending: only their bytes tell whether they are images.
        compressed: archives and tables that have to be unpacked.
        other: what is surely none of these.
    """

    def __init__(self, listing: Listing) -> None:
        self.kinds = dict[str, list[Entry]]({kind: [] for kind in (*_TOLD, TABLE)})
        self.unknown, self.compressed, self.other = list[Entry](), list[Entry](), list[Entry]()
        for entry in listing.entries:
            self._place(entry, listing.root).append(entry)

    def _place(self, entry: Entry, root: str) -> list[Entry]:
        ending = entry.extension
        if is_compressed(entry):
            return self.compressed
        if ending in PARQUET_ENDINGS or ending == "arrow":
            # As Spark, Dask and Arrow have it: `_metadata`, `_temporary/...`, `_delta_log/...` are no data.
            below = entry.path[len(root) :].lstrip("/").split("/")
            data = not any(part.startswith("_") for part in below)
            return self.kinds[HUGGING_FACE if ending == "arrow" else PARQUET] if data else self.other
        if ending in IMAGE_ENDINGS:
            return self.kinds[FOLDER]
        if ending == "tar":
            return self.kinds[SHARDS]
        if ending in MANIFESTS:
            return self.kinds[TABLE]
        known = ending in OTHER_ENDINGS or entry.base_name.lower() in _TEXTS
        return self.other if known else self.unknown

    def take(self, kind: str) -> list[Entry]:
        """The files that are read where the folder is of this kind."""
        files = [*self.kinds[kind], *self.unknown] if kind == FOLDER else self.kinds[kind]
        return sorted(files, key=lambda file: file.path)


def kind_of_folder(location: str, listing: Listing, parts: Parts, filesystem: pafs.FileSystem) -> str:
    """What a folder is, where the user does not say.

    Raises:
        UsageError: nothing there can be read, or it may be one thing as well as another.
    """
    stems = {_stem(file) for file in parts.kinds[SHARDS]}
    held = {kind: list(parts.kinds[kind]) for kind in _TOLD}
    # What img2dataset writes beside a shard says something of it.
    held[PARQUET] = [file for file in held[PARQUET] if _stem(file) not in stems]
    if parts.unknown and (not any(held.values()) or _are_images(parts.unknown, filesystem)):
        held[FOLDER] += parts.unknown
    held = {kind: files for kind, files in held.items() if files}
    if not held:
        raise UsageError(_nothing(location, listing, parts))
    most_files = _most(held, len)
    most_bytes = _most(held, lambda files: sum(file.size for file in files))
    if len(most_files & most_bytes) == 1:
        kind = next(iter(most_files & most_bytes))
        _check_found(location, kind, parts)
        return kind
    told = [f"{counted(_TOLD[kind], len(files))} ({_size(files)})" for kind, files in held.items()]
    raise UsageError(
        f"{location} holds {_listed(told, 'and')}; most files are not most bytes, so say which to read: "
        f"--input-kind {_listed(list(held), 'or')}"
    )


def check_kind(location: str, kind: str, parts: Parts) -> None:
    """Refuse a folder where the files of a kind are not there, are not all there, or are compressed.

    Raises:
        UsageError: they are.
    """
    files = parts.take(kind)
    if parts.compressed and kind not in (FOLDER, TABLE):
        raise UsageError(compressed(uri_of(parts.compressed[0].path, location)))
    if not files:
        told = {FOLDER: "images", TABLE: f".{', .'.join(MANIFESTS)}"}.get(kind, _TOLD.get(kind))
        raise UsageError(f"{location} holds no {told} to read with --input-kind {kind}; leave it out, or pass another")
    if kind == TABLE and len(files) > 1:
        raise UsageError(
            f"{location} holds {len(files)} tables; pass one of them, such as --input {uri_of(files[0].path, location)}"
        )
    for file in files if kind != FOLDER else []:
        if file.fault:  # nobody knows what it would have held
            raise UsageError(f"{file.path}: {file.fault}; restore it, or remove it from {location}")


def is_compressed(file: Entry) -> bool:
    """Whether a file is a compressed archive or table."""
    return COMPRESSED.search(file.base_name) is not None


def compressed(path: str) -> str:
    """Why an archive is refused."""
    return f"{path} is compressed, so that no image in it can be read alone; unpack it" + (
        " to .tar" if re.search(r"\.t\w+(\.\w+)?$", path) else ""
    )


def _check_found(location: str, kind: str, parts: Parts) -> None:
    """Refuse a folder whose files do not say all that is to be known of them."""
    if len(parts.compressed) > len(parts.take(kind)):
        raise UsageError(compressed(uri_of(parts.compressed[0].path, location)))
    if kind == PARQUET and any("/_delta_log/" in file.path for file in parts.other):
        raise UsageError(
            f"{location} is a Delta table, whose log says which of its files count; write it out as plain Parquet, or "
            f"read all files with --input-kind {PARQUET}"
        )


def _most(held: dict[str, list[Entry]], size: Callable[[list[Entry]], int]) -> set[str]:
    sizes = {kind: size(files) for kind, files in held.items()}
    return {kind for kind, each in sizes.items() if each == max(sizes.values())}


def _stem(file: Entry) -> str:
    return file.path.rpartition(".")[0]


def _are_images(files: list[Entry], filesystem: pafs.FileSystem) -> bool:
    """Whether most of some of the files are, by their bytes."""
    some = [file for file in files[:: -(-len(files) // _LOOKED_INTO)] if not file.fault]
    return 2 * sum(_is_image(file, filesystem) for file in some) > len(some)


def _is_image(file: Entry, filesystem: pafs.FileSystem) -> bool:
    try:
        with filesystem.open_input_stream(file.path) as stream:
            return ending_of(stream.read(_LOOKED_AT_BYTES)) is not None
    except (OSError, ValueError):
        return False


def _nothing(location: str, listing: Listing, parts: Parts) -> str:
    """Why a folder cannot be read in which nothing looks like images."""
    if parts.compressed:
        return compressed(uri_of(parts.compressed[0].path, location))
    if tables := parts.take(TABLE):
        held, them = ("a table", "it") if len(tables) == 1 else (f"{len(tables)} tables", "one of them")
        return f"{location} holds {held} and no images; pass {them}: --input {uri_of(tables[0].path, location)}"
    kinds = Counter(label(file) for file in parts.other) + listing.passed_over
    if not kinds:
        return f"{location} holds no files; pass a folder with images"
    told = [counted(what, count) for what, count in kinds.most_common(_KINDS_TOLD)]
    return f"{location} holds no images, only {_listed(told, 'and')}; pass a folder with images"


def _listed(words: Iterable[str], last: str) -> str:
    *first, end = words
    return f"{', '.join(first)} {last} {end}" if first else end


def _size(files: list[Entry]) -> str:
    size = float(sum(file.size for file in files))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
