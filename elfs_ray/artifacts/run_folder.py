"""The run folder: where artifacts live, how they are published whole or not at all, and what is complete.

A stage writes into a work folder of its own (`.work/STAGE-FINGERPRINT`), in files that each appear whole, so that a
killed stage finds its finished pieces again. Publishing has four steps, each safe to repeat: the record of the stage
is written to the work folder, its artifacts are brought to their place, the record enters `manifest.json`, the work
folder goes. A stage is complete when the manifest holds its fingerprint. Local folders and object stores (s3://, gs://)
work alike; object stores cannot rename, so there the artifacts are copied, and their source stays until the end.

On a disk each step is on the medium before the next begins: what a record names outlasts a loss of power, too.
"""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from elfs_ray.artifacts import filesystems
from elfs_ray.artifacts.manifest import FORMAT, MANIFEST, damaged, of_this_version, read_local
from elfs_ray.artifacts.parquet import encode
from elfs_ray.artifacts.record import Record, Records, Unit

WORK = ".work"
LOGS = "logs/"
"""Artifacts below it are for people, and no stage needs them."""
INDEX_FILE = "_index.json"
"""Beside the parts of an artifact: what they hold (`artifacts.table`)."""
# What is on its way, files to their place and folders out of it. They have one place of their own in the run folder
# (renames need the same file system), so that no reader lists them and one deletion clears what kills have left.
_ASIDE = ".tmp"
_PENDING_RECORD, _DISCARDED = "record.json", "discarded.json"
_FILES_AT_ONCE = 16
_READINGS = 4


@dataclass(frozen=True)
class RunFolder:
    """A run folder at a local path or an object-store URI. Cheap to send to another process."""

    uri: str

    def __post_init__(self) -> None:
        """Make a local path absolute: workers have working directories of their own."""
        filesystems.refuse_credentials(self.uri)
        if "://" not in self.uri:
            object.__setattr__(self, "uri", os.path.abspath(os.path.expanduser(self.uri)))

    @cached_property
    def _location(self) -> tuple[pafs.FileSystem, str]:
        return filesystems.resolve(self.uri)

    def __reduce__(self) -> tuple[type["RunFolder"], tuple[str]]:
        return RunFolder, (self.uri,)

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system that holds the folder."""
        return self._location[0]

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a file system of this machine."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    @property
    def is_file(self) -> bool:
        """Whether something stands at the place that is no folder."""
        return self._kind(self.path()) == pafs.FileType.File

    def path(self, *parts: str) -> str:
        """Path inside `filesystem`."""
        return "/".join([self._location[1], *(part for part in parts if part)])

    def location(self, *parts: str) -> str:
        """Path or URI of something in the folder, for a person to open."""
        return filesystems.uri_of(self.path(*parts), self.uri)

    def make(self) -> None:
        """Make the run folder, if there is none."""
        if self.is_local:
            self._make_folder(self.path())

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return self._kind(self.path(*parts)) != pafs.FileType.NotFound

    def names(self, *parts: str) -> list[str]:
        """Sorted names of what a folder holds; empty when there is no such folder."""
        selector = pafs.FileSelector(self.path(*parts), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Write a file that appears whole or not at all, and stays."""
        target = self.path(*parts)
        if not self.is_local:
            # An object shows when its upload ends, and has no folder that would have to be there first.
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(data)
            return
        aside = self._aside()
        try:
            with self.filesystem.open_output_stream(aside) as stream:
                stream.write(data)
            _sync(aside)
            self._move(aside, target)
        except BaseException:
            if self._kind(aside) != pafs.FileType.NotFound:
                self.filesystem.delete_file(aside)
            raise

    def read_bytes(self, *parts: str) -> bytes:
        """Read a whole file."""
        with self.filesystem.open_input_stream(self.path(*parts)) as stream:
            return stream.read()

    def write_json(self, value: Any, *parts: str) -> None:
        """Write plain values as indented JSON, atomically."""
        self.write_bytes((json.dumps(value, indent=2) + "\n").encode(), *parts)

    def read_json(self, *parts: str) -> Any:
        """Read a JSON file.

        Raises:
            UsageError: the file is not valid JSON.
        """
        # An object is read by asking for its size, then for so many bytes: one that a longer one replaces in between
        # comes cut off.
        for _ in range(1 if self.is_local else _READINGS):
            with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
                return json.loads(self.read_bytes(*parts))
        raise damaged(self.location(*parts))

    def write_table(self, table: pa.Table, schema: pa.Schema, *parts: str) -> None:
        """Write one Parquet file, cast to `schema` and atomically.

        Raises:
            ValueError: the table lacks a column, or a column that may not be null holds nulls.
        """
        self.write_bytes(encode(table, schema).data, *parts)

    def read_table(self, *parts: str, columns: list[str] | None = None) -> pa.Table:
        """Read one Parquet file: all columns or some."""
        return pq.read_table(self.path(*parts), columns=columns, filesystem=self.filesystem, partitioning=None)

    def read_tables(self, *parts: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Read the Parquet files of a folder in order of their names; several at once."""
        names = [name for name in self.names(*parts) if name.endswith(".parquet")]
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            yield from pool.map(lambda name: self.read_table(*parts, name, columns=columns), names)

    def delete(self, *parts: str) -> None:
        """Remove a file or a folder if it is there; on a disk a folder goes as a whole or not at all."""
        path = self.path(*parts)
        kind = self._kind(path)
        if kind == pafs.FileType.Directory:
            if self.is_local:
                folder, path = path, self._aside()
                self.filesystem.move(folder, path)
                _sync(_parent(folder))
            self.filesystem.delete_dir(path)
        elif kind == pafs.FileType.File:
            self.filesystem.delete_file(path)

    def manifest(self) -> dict[str, Any]:
        """The content of `manifest.json`; empty when there is none yet."""
        if self.is_local:
            return read_local(self.path())
        try:
            found: dict[str, Any] = self.read_json(MANIFEST) if self.exists(MANIFEST) else {}
        except OSError as error:
            expected = filesystems.as_expected(error, "reading the manifest", self.uri)
            if expected is None:
                raise
            raise expected from error
        return of_this_version(found, self.uri)

    def update_manifest(self, **entries: Any) -> None:
        """Set top-level entries of the manifest. One driver writes a run folder at a time."""
        self.write_json({"format": FORMAT, **self.manifest(), **entries}, MANIFEST)

    def records(self) -> Records:
        """What the manifest says of finished units."""
        return Records.from_json(self.manifest().get("records", {}))

    def is_complete(self, record: Record | None, fingerprint: str) -> bool:
        """Whether a record is of a unit with exactly this fingerprint, and its artifacts are in place."""
        return (
            record is not None
            and record.fingerprint == fingerprint
            and all(self.exists(name) for name in record.artifacts if not name.startswith(LOGS))
        )

    def work_folder(self, unit: Unit, fingerprint: str) -> str:
        """Name, below the run folder, of the work folder of one stage."""
        return f"{WORK}/{_work_name(unit, fingerprint)}"

    def sole_work_folder(self, unit: Unit, fingerprint: str) -> str:
        """The same; work of the stage under other fingerprints is removed."""
        own, prefix = _work_name(unit, fingerprint), _work_name(unit, "")
        for name in self.names(WORK):
            if name.startswith(prefix) and name != own and len(name) == len(own):
                self._discard(f"{WORK}/{name}")
        return self.work_folder(unit, fingerprint)

    def recover(self) -> None:
        """Put in order what a kill left: complete what was begun, and remove the work of what is complete.

        For the driver alone: it removes files that another process is about to bring to their place.
        """
        if self.is_local:
            self.filesystem.delete_dir_contents(self.path(_ASIDE), missing_dir_ok=True)
        for work in [f"{WORK}/{name}" for name in self.names(WORK)]:
            if self.exists(work, _DISCARDED):
                self._discard(work)
            else:
                self.finish_publishing(work)
        published = {_work_name(unit, record.fingerprint) for unit, record in self.records().items()}
        for name in published.intersection(self.names(WORK)):
            self._discard(f"{WORK}/{name}")

    def publish(self, work: str, record: Record, folders: Mapping[str, str]) -> None:
        """Make the artifacts of a unit visible and complete.

        Args:
            work: its work folder.
            record: what the manifest shall say of it.
            folders: name of each of its artifacts -> folder below `work` that holds it.

        Raises:
            ValueError: a table has no part index, so that somebody may still write parts of it.
        """
        tables = {name: folder for name, folder in folders.items() if not name.startswith(LOGS)}
        for name, folder in tables.items():
            if not self.exists(work, folder, INDEX_FILE):
                raise ValueError(f"{name} has no part index")
        if self.is_local:
            for folder in tables.values():
                self._sync_all(self.path(work, folder))
        self.write_json({"record": record.as_json(), "folders": dict(folders)}, work, _PENDING_RECORD)
        self.finish_publishing(work)

    def finish_publishing(self, work: str) -> bool:
        """Complete a publication that a kill interrupted; returns whether there was one."""
        if not self.exists(work, _PENDING_RECORD):
            return False
        pending = self.read_json(work, _PENDING_RECORD)
        for artifact, source in pending["folders"].items():
            if self.exists(work, source):
                self.delete(artifact)
                self._bring(self.path(work, source), self.path(artifact))
        record = pending["record"]
        self.update_manifest(records={**self.manifest().get("records", {}), record["unit"]: record})
        self._discard(work)
        return True

    def remove(self, unit: Unit) -> None:
        """Take the artifacts of a unit out of the folder, and its record out of the manifest."""
        records = self.manifest()["records"]
        for name in records[str(unit)]["artifacts"]:
            self.delete(name)
        del records[str(unit)]  # last: what no record names would stay for ever
        self.update_manifest(records=records)

    def _kind(self, path: str) -> pafs.FileType:
        return self.filesystem.get_file_info(path).type

    def _bring(self, source: str, target: str) -> None:
        """Move a folder, or copy it where a move would be a copy and a deletion: a kill between would lose files."""
        if self.is_local:
            self._move(source, target)
            return
        found = self.filesystem.get_file_info(pafs.FileSelector(source, recursive=True))
        files = [info.path for info in found if info.type == pafs.FileType.File]
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            list(pool.map(self.filesystem.copy_file, files, [target + path[len(source) :] for path in files]))

    def _discard(self, work: str) -> None:
        """Remove a work folder; a kill leaves none that lacks some of its files and is published, or worked in."""
        if not self.is_local:
            self.write_json({}, work, _DISCARDED)
            for name in self.names(work):
                if name != _DISCARDED:
                    self.delete(work, name)
        self.delete(work)

    def _aside(self) -> str:
        """A new name for a file or folder of a disk that is on its way."""
        self._make_folder(self.path(_ASIDE))
        return self.path(_ASIDE, uuid.uuid4().hex)

    def _move(self, source: str, target: str) -> None:
        """Rename on a disk, for good."""
        self._make_folder(_parent(target))
        self.filesystem.move(source, target)
        _sync(_parent(target))

    def _make_folder(self, path: str) -> None:
        """Make a folder of a disk and those above it, for good."""
        missing = []
        while self._kind(path) == pafs.FileType.NotFound:
            missing.append(path)
            path = _parent(path)
        for folder in reversed(missing):
            self.filesystem.create_dir(folder, recursive=False)
            _sync(_parent(folder))

    def _sync_all(self, path: str) -> None:
        """Bring a folder of a disk to its medium, whoever wrote what is in it."""
        for info in self.filesystem.get_file_info(pafs.FileSelector(path, recursive=True)):
            _sync(info.path)
        _sync(path)


def _sync(path: str) -> None:
    """Bring a file, or the names in a folder, from the system's memory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that cannot do so for folders
            raise
    finally:
        os.close(descriptor)


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _work_name(unit: Unit, fingerprint: str) -> str:
    return f"{str(unit).replace('/', '-')}-{fingerprint}"
