"""The files that the user names: whether they are there, and their bytes."""

import contextlib
import difflib
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import refuse_repeated
from elfs_ray.data.listing import Entry, list_folder, printable
from elfs_ray.errors import UsageError, one_line

T = TypeVar("T")
READERS = 8
READ_BUFFER_BYTES = 2**20


def existing(location: str) -> tuple[pafs.FileSystem, pafs.FileInfo]:
    """File system and description of a file or folder that is there.

    Raises:
        UsageError: there is no such file or folder, or it may not be looked at.
    """
    try:
        location.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{printable(location)!r} is not UTF-8 text; rename it, or pass a link to it") from None
    quick, path = filesystems.resolve(location, attempts=filesystems.QUICK_ATTEMPTS)
    try:
        info = quick.get_file_info(path)
    except OSError as error:
        raise UsageError(f"{location} cannot be opened: {filesystems.reason(error)}") from None
    if info.type == pafs.FileType.NotFound:
        raise UsageError(f"{location} does not exist; {_closest(path) if '://' not in location else 'check the path'}")
    return filesystems.resolve(location)[0], info


def list_files(location: str, filesystem: pafs.FileSystem, root: str) -> list[Entry]:
    """Files below a folder in order of path, without hidden ones, each of which can be read.

    Raises:
        UsageError: the folder cannot be listed, or a file of it cannot be read.
    """
    files = list_folder(location, filesystem, root).entries
    for file in files:
        if file.fault:
            raise UsageError(f"{file.path}: {file.fault}; restore it, or remove it from {location}")
    return files


def files_signature(files: Sequence[Entry | pafs.FileInfo]) -> str:
    """Hash of the names, sizes and times of files: changes when they do."""
    digest = hashlib.blake2b(digest_size=16)
    for info in files:
        digest.update(f"{info.path}\0{info.size}\0{info.mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def open_parquet(path: str, filesystem: pafs.FileSystem) -> pq.ParquetFile:
    """A Parquet file that the user names.

    Raises:
        UsageError: it is damaged or none, or two columns have one name; `OSError` where the store does not answer.
    """
    with reading_parquet(path):
        file = pq.ParquetFile(path, filesystem=filesystem, buffer_size=READ_BUFFER_BYTES)
        names = file.schema_arrow.names
    refuse_repeated(path, names)
    return file


@contextlib.contextmanager
def reading_parquet(path: str) -> Iterator[None]:
    """A block that reads a Parquet file of the user's, of which any part may be damaged.

    Raises:
        UsageError: it is; `OSError` where the store does not answer.
    """
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError, StopIteration) as error:
        if isinstance(error, OSError) and filesystems.is_outage(error):
            raise
        raise UsageError(f"{path} cannot be read as Parquet ({one_line(error)}); mend or remove it") from None


def read_uri(uri: str, like: str = "") -> bytes:
    """The bytes of a file at a local path or URI, reached as `like` is; raises `OSError` when it cannot be read."""
    filesystem, path = filesystems.resolve(filesystems.with_options_of(uri, like))
    if isinstance(filesystem, pafs.LocalFileSystem) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is a folder, pipe, socket or device")  # opening a pipe would wait for ever
    with filesystem.open_input_stream(path) as stream:
        data: bytes = stream.read()
    return data


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write in; becomes `target`, not there or empty, when the block ends well, and else is removed.

    Raises:
        UsageError: no folder can be made there.
    """
    aside = target.with_name(f".{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{target} cannot be made ({one_line(error)}); choose another --out") from None
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if target.exists():
        target.rmdir()
    aside.rename(target)


def map_files(read: Callable[..., T], location: str, *columns: Iterable[Any]) -> Iterator[T]:
    """`read` of each row in order: a few at a time if `location` is one where each answer has to be waited for."""
    if "://" not in location:
        yield from map(read, *columns)
        return
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(read, *columns)


def _closest(path: str) -> str:
    parent, name = os.path.split(path)
    try:
        names = os.listdir(parent)
    except OSError:
        return "check the path"
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {os.path.join(parent, close[0])}?" if close else "check the path"
