"""Tar shards as WebDataset writes them: the members of a sample have one name up to its first dot."""

import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import Wanted
from elfs_ray.data.files import map_files
from elfs_ray.data.image_kinds import IMAGE_ENDINGS
from elfs_ray.data.listing import Entry, is_hidden
from elfs_ray.data.sources.base import PIECE, About, Chunk, Facts, Source, piece_of
from elfs_ray.data.sources.found import EMPTY_SHARDS, HIDDEN_MEMBERS, NAMELESS_MEMBERS
from elfs_ray.data.sources.reading import Encoded, attempt
from elfs_ray.data.tar import HEADER_BYTES, Reader, members, open_archive
from elfs_ray.errors import UsageError

LARGEST_IMAGE = 2**30
_ENDINGS_TOLD, _ENDINGS_HELD = 8, 1000


class WebDatasetSource(Source):
    """The samples of all shards in order of path. Ids are keys; where shards share keys, SHARD/KEY."""

    kind = "webdataset"
    small_files, small_bytes = 100, 2**28  # on object storage, they are read
    chunks_end_with_files = True
    unit = "samples"

    @classmethod
    def settle(cls, location: str, files: Sequence[Entry], wanted: Wanted) -> dict[str, Any]:  # noqa: ARG003
        """Which members are the images."""
        if wanted.id_column:
            raise UsageError(f"{location} holds tar shards, where keys are the ids; leave ingest.id_column out")
        endings = (wanted.image_column.lower().lstrip("."),) if wanted.image_column else IMAGE_ENDINGS
        return {"carries_bytes": True, "endings": list(endings), "chunk_entries": wanted.chunk_rows, "shard_ids": False}

    def entries_of(self, files: Sequence[Entry]) -> tuple[pa.Table, Facts]:
        """The samples of one shard; each has the image whose ending stands first, or a reason why it has none."""
        [shard], endings = files, self.about.reading["endings"]
        rows, seen, passed_over = dict[str, _Sample](), set[str](), Counter[str]()
        samples = list[_Sample]()
        with open_archive(shard.path, self.filesystem) as reader:
            for key, ending, member in _parts(reader, shard.path, passed_over):
                if len(seen) < _ENDINGS_HELD:
                    seen.add(ending)
                rank = endings.index(ending) if ending in endings else len(endings)
                # A second image with the same name is a sample of its own, which is refused as its id is not unique.
                if key not in rows or (rank < len(endings) and rank == rows[key].rank):
                    rows[key] = _Sample(key, len(endings))
                    samples.append(rows[key])
                if rank < rows[key].rank:
                    rows[key].take(rank, member)
        passed_over += Counter({EMPTY_SHARDS: int(not samples)})
        columns = {
            "id": [sample.key for sample in samples],
            "uri": [filesystems.uri_of(shard.path, self.location)] * len(samples),
            "offset": [sample.offset for sample in samples],
            "size": [sample.size for sample in samples],
            "error": [sample.error for sample in samples],
        }
        readable = sum(sample.size is not None for sample in samples)
        facts = Facts(len(samples), len(samples), readable, dict(passed_over), tuple(sorted(seen)))
        return piece_of(columns, len(samples)), facts

    def joined(self, facts: Sequence[Facts], ids: Callable[[], Iterator[pa.ChunkedArray]]) -> About:
        """With the form of the ids; refuses shards without a single image."""
        if not any(each.readable for each in facts):
            endings, seen = self.about.reading["endings"], sorted(set().union(*(each.endings for each in facts)))
            raise UsageError(
                f"{self.location} holds no member that ends in {', '.join(f'.{one}' for one in endings[:4])}"
                f"{' or the like' if len(endings) > 1 else ''} (endings: {', '.join(seen[:_ENDINGS_TOLD]) or 'none'}); "
                "name that of the images with --set ingest.image_column=ENDING"
            )
        about = super().joined(facts, ids)
        keys = pa.chunked_array([chunk for column in ids() for chunk in column.chunks], pa.string())
        repeat = pc.count_distinct(keys).as_py() < about.count
        return replace(about, reading={**about.reading, "shard_ids": repeat})

    def with_ids(self, piece: pa.Table) -> pa.Table:
        """The keys, or shard and key where two shards hold one key."""
        if not self.about.reading["shard_ids"] or not len(piece):
            return piece
        ids = pc.binary_join_element_wise(self._shard(piece["uri"][0].as_py()), piece["id"], "/")
        return piece.set_column(piece.schema.get_field_index("id"), PIECE.field("id"), ids)

    def _shard(self, uri: str) -> str:
        """What ids call a shard."""
        return re.sub(r"\.tar$", "", self.path_of(uri)[len(self.about.root) :].lstrip("/"), flags=re.IGNORECASE)

    def _keys(self, entries: pa.Table) -> list[str]:
        """Of entries of one shard."""
        ids: list[str] = entries["id"].to_pylist()
        start = len(self._shard(entries["uri"][0].as_py())) + 1 if self.about.reading["shard_ids"] and ids else 0
        return [one[start:] for one in ids]

    def read(self, chunk: Chunk) -> pa.Table:
        """The images of some samples of a shard."""
        entries = self.entries.read(chunk.start, chunk.stop)
        uri, rows = entries["uri"][0].as_py(), entries.select(["offset", "size", "error"]).to_pylist()
        path = self.path_of(uri)
        file, error = attempt(lambda: self.filesystem.open_input_file(path), uri)
        encoded: list[Encoded] = [(None, error)] * chunk.rows
        if file is not None:
            with file:
                encoded = list(map_files(partial(_read_member, file, uri), self.location, rows))
        uris = [f"{uri}#{key}" for key in self._keys(entries)]
        return self.table_of(chunk, entries["id"].to_pylist(), uris, encoded, path)

    def columns(self) -> list[str] | None:
        """What the samples have beside their images, no one knows before the end."""
        return None

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """What the member of each sample with this ending holds, or its `.json` under this name."""
        entries = self.entries.read(columns=["id", "uri"]).combine_chunks()
        shards = pc.run_end_encode(entries["uri"].combine_chunks())
        exact, described, first = dict[int, str](), dict[int, str](), 0
        for uri, last in zip(shards.values.to_pylist(), shards.run_ends.to_pylist(), strict=True):
            keys, path = self._keys(entries.slice(first, last - first)), self.path_of(uri)
            rows = {key: first + row for row, key in enumerate(keys)}
            with open_archive(path, self.filesystem) as reader:
                for key, ending, member in _parts(reader, path, Counter()):
                    if key in rows and ending == name.lower():
                        exact[rows[key]] = _text(reader, path, member).strip()
                    elif key in rows and ending == "json" and not exact:
                        value = _field(_text(reader, path, member), name)
                        described.update({} if value is None else {rows[key]: value})
            first = last
        found = exact or described
        if not found:
            raise UsageError(f"{self.location}: no member ends in .{name}, and no .json member has {name!r}")
        return entries["id"].combine_chunks(), pa.array([found.get(row) for row in range(self.count)], pa.string())


def _read_member(file: pa.NativeFile, uri: str, row: dict[str, Any]) -> Encoded:
    if row["error"]:
        return None, row["error"]
    return attempt(lambda: file.read_at(row["size"], row["offset"]), uri)


@dataclass
class _Sample:
    """A sample of a shard: its key, the rank of its image's ending, and where the image is, or why nowhere."""

    key: str
    rank: int
    offset: int | None = None
    size: int | None = None
    error: str | None = "no member of the sample is an image"

    def take(self, rank: int, member: tarfile.TarInfo) -> None:
        """This member is the image."""
        self.rank, self.offset, self.error = rank, member.offset_data, _unfit(member)
        self.size = 0 if self.error else member.size


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
