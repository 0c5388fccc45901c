"""Tar shards as WebDataset writes them: the members of a sample have one name and differ in what follows its first dot.

The shards are listed once, with the place of each image, so that any process can read any of them.
"""

import json
import re
import tarfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import Wanted
from elfs_ray.data.files import files_signature, map_files
from elfs_ray.data.image_kinds import IMAGE_ENDINGS
from elfs_ray.data.listing import Entry, is_hidden
from elfs_ray.data.sources.base import Chunk, Encoded, Source, attempt, runs, table_of
from elfs_ray.data.sources.found import EMPTY_SHARDS, HIDDEN_MEMBERS, NAMELESS_MEMBERS, Found, counted
from elfs_ray.data.tar import HEADER_BYTES, Reader, members, open_archive
from elfs_ray.errors import UsageError

LARGEST_IMAGE = 2**30
_ENDINGS_TOLD, _ENDINGS_HELD = 8, 1000


class _Listing(NamedTuple):
    """The samples of one shard, in the order in which they begin.

    Attributes:
        keys: of the samples, text.
        offsets: of their images in the shard, bytes, int64 [samples].
        sizes: of their images, bytes, int64 [samples]; -1 where there is none.
        errors: row -> why its image cannot be read.
        endings: of the members.
        passed_over: members that are no part of a sample -> how many.
    """

    keys: pa.Array
    offsets: np.ndarray
    sizes: np.ndarray
    errors: dict[int, str]
    endings: set[str]
    passed_over: Counter[str]


class WebDatasetSource(Source):
    """The samples of all shards in order of path. Ids are keys; where shards share keys, SHARD/KEY."""

    kind = "webdataset"
    carries_bytes = True

    def __init__(
        self,
        location: str,
        filesystem: pafs.FileSystem,
        root: str,
        files: Sequence[Entry | pafs.FileInfo],
        wanted: Wanted,
    ) -> None:
        if wanted.id_column:
            raise UsageError(f"{location} holds tar shards, where keys are the ids; leave ingest.id_column out")
        self.location, self._filesystem, self._signature = location, filesystem, files_signature(files)
        endings = (wanted.image_column.lower().lstrip("."),) if wanted.image_column else IMAGE_ENDINGS
        self._paths = [info.path for info in files]
        listings = list(map_files(lambda path: _list_shard(path, filesystem, endings), location, self._paths))
        self._firsts = np.cumsum([0, *(len(listing.keys) for listing in listings)])
        self.count = int(self._firsts[-1])
        self._offsets = np.concatenate([listing.offsets for listing in listings])
        self._sizes = np.concatenate([listing.sizes for listing in listings])
        self._errors = {
            int(first) + row: error
            for first, listing in zip(self._firsts[:-1], listings, strict=True)
            for row, error in listing.errors.items()
        }
        if not (self._sizes >= 0).any():
            seen = sorted(set().union(*(listing.endings for listing in listings)))
            raise UsageError(
                f"{location} holds no member that ends in {', '.join(f'.{one}' for one in endings[:4])}"
                f"{' or the like' if len(endings) > 1 else ''} (endings: {', '.join(seen[:_ENDINGS_TOLD]) or 'none'}); "
                "name that of the images with --set ingest.image_column=ENDING"
            )
        self.found = Found(counted("samples", self.count))
        for listing in listings:
            self.found.passed_over.update(listing.passed_over)
        self._keys = pa.concat_arrays([listing.keys for listing in listings])
        self._ids = self._unique_ids(root)
        self.chunks = self._cut(wanted.chunk_rows)

    def signature(self) -> str:
        """Of the shards."""
        return self._signature

    def read(self, chunk: Chunk) -> pa.Table:
        """The images of some samples of a shard."""
        path, rows = chunk.paths[0], range(chunk.first, chunk.first + chunk.rows)
        uri = filesystems.uri_of(path, self.location)
        keys = self._keys.slice(chunk.first, chunk.rows).to_pylist()
        file, error = attempt(lambda: self._filesystem.open_input_file(path), uri)
        encoded: list[Encoded] = [(None, error)] * chunk.rows
        if file is not None:
            with file:
                encoded = list(map_files(lambda row: self._read_member(file, uri, row), self.location, rows))
        ids = self._ids.slice(chunk.first, chunk.rows).to_pylist()
        return table_of(chunk, ids, [f"{uri}#{key}" for key in keys], encoded)

    def columns(self) -> list[str] | None:
        """What the samples have beside their images, no one knows before the end."""
        return None

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """What the member of each sample with this ending holds, or its `.json` under this name."""
        exact, described = dict[int, str](), dict[int, str]()
        for path, first, last in zip(self._paths, self._firsts[:-1], self._firsts[1:], strict=True):
            keys = self._keys.slice(first, last - first).to_pylist()
            rows = {key: int(first) + row for row, key in enumerate(keys)}
            with open_archive(path, self._filesystem) as reader:
                for key, ending, member in _parts(reader, path, Counter()):
                    if key in rows and ending == name.lower():
                        exact[rows[key]] = _text(reader, path, member).strip()
                    elif key in rows and ending == "json" and not exact:
                        value = _field(_text(reader, path, member), name)
                        described.update({} if value is None else {rows[key]: value})
        found = exact or described
        if not found:
            raise UsageError(f"{self.location}: no member ends in .{name}, and no .json member has {name!r}")
        return self._ids, pa.array([found.get(row) for row in range(self.count)], pa.string())

    def _read_member(self, file: pa.NativeFile, uri: str, row: int) -> Encoded:
        if row in self._errors:
            return None, self._errors[row]
        size, offset = int(self._sizes[row]), int(self._offsets[row])
        return attempt(lambda: file.read_at(size, offset), uri)

    def _unique_ids(self, root: str) -> pa.Array:
        """The keys, or shard and key where two shards hold one key."""
        if len(pc.unique(self._keys)) == self.count:
            return self._keys
        names = [re.sub(r"\.tar$", "", path[len(root) :].lstrip("/"), flags=re.IGNORECASE) for path in self._paths]
        shards = pa.array(names).take(pa.array(np.repeat(np.arange(len(names)), np.diff(self._firsts))))
        return pc.binary_join_element_wise(shards, self._keys, "/")

    def _cut(self, chunk_rows: int) -> list[Chunk]:
        """Chunks of one shard each."""
        chunks = list[Chunk]()
        for path, first, last in zip(self._paths, self._firsts[:-1], self._firsts[1:], strict=True):
            for start, rows in (
                runs(np.maximum(self._sizes[first:last], 0).tolist(), chunk_rows) if last > first else ()
            ):
                chunks.append(Chunk(len(chunks), int(first) + start, rows, (path,)))
        return chunks


def _list_shard(path: str, filesystem: pafs.FileSystem, endings: Sequence[str]) -> _Listing:
    """The samples of one shard; each has the image whose ending stands first, or a reason why it has none."""
    rows, ranks, errors, seen = dict[str, int](), list[int](), dict[int, str](), set[str]()
    keys, offsets, sizes, passed_over = list[str](), array("q"), array("q"), Counter[str]()
    with open_archive(path, filesystem) as reader:
        for key, ending, member in _parts(reader, path, passed_over):
            if len(seen) < _ENDINGS_HELD:
                seen.add(ending)
            rank = endings.index(ending) if ending in endings else len(endings)
            # A second image with the same name is a sample of its own, which is refused as its id is not unique.
            if key not in rows or (rank < len(endings) and rank == ranks[rows[key]]):
                rows[key] = len(keys)
                keys.append(key)
                ranks.append(len(endings))
                offsets.append(0)
                sizes.append(-1)
                errors[rows[key]] = "no member of the sample is an image"
            row = rows[key]
            if rank < ranks[row]:
                error = _unfit(member)
                ranks[row], offsets[row], sizes[row] = rank, member.offset_data, 0 if error else member.size
                errors.pop(row, None)
                if error:
                    errors[row] = error
    passed_over += Counter({EMPTY_SHARDS: int(not keys)})
    return _Listing(pa.array(keys, pa.string()), np.array(offsets), np.array(sizes), errors, seen, passed_over)


def _unfit(member: tarfile.TarInfo) -> str | None:
    """Why a member cannot be read as an image, if it cannot."""
    if not member.isreg() or member.issparse():
        return "the member is a link or special, not a plain file"
    if not 0 < member.size <= LARGEST_IMAGE:
        return "the image is empty (0 bytes)" if member.size <= 0 else f"the member has {member.size:,} bytes"
    return None


def _parts(reader: Reader, path: str, passed_over: Counter[str]) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, ending in small letters, and member; counts hidden ones and those without an ending."""
    for member in members(reader, path):
        name = member.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
        name = re.sub(r"^(\./+)+", "", name)
        folders, _, last = name.rpartition("/")
        stem, _, ending = last.partition(".")
        if any(is_hidden(part) and part not in (".", "..") for part in (*folders.split("/"), last)):
            passed_over[HIDDEN_MEMBERS] += 1
        elif not ending:
            passed_over[NAMELESS_MEMBERS] += 1
        else:
            yield f"{folders}/{stem}" if folders else stem, ending.lower(), member


def _text(reader: Reader, path: str, member: tarfile.TarInfo) -> str:
    """The content of a member that holds a label.

    Raises:
        UsageError: it is no text, or far too long.
    """
    if member.isreg() and not member.issparse() and 0 <= member.size <= HEADER_BYTES:
        try:
            return reader.body(member).decode()
        except UnicodeDecodeError:
            pass
    raise UsageError(f"{path}: member {member.name!r} is no label: not a plain file of UTF-8 text")


def _field(text: str, name: str) -> str | None:
    """A text or number in a JSON object; None if it has none of this name, or is no such object."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    value = content.get(name) if isinstance(content, dict) else None
    return str(value) if isinstance(value, (str, int, float)) else None
