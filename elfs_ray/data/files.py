"""The files that the user names: whether they are there, and their bytes."""

import contextlib
import difflib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.fs as pafs

from elfs_ray import storage
from elfs_ray.errors import UsageError

T = TypeVar("T")
READERS = 8


def existing(location: str) -> tuple[pafs.FileSystem, pafs.FileInfo]:
    """File system and description of a file or folder that is there.

    Raises:
        UsageError: there is no such file or folder, or it may not be looked at.
    """
    quick, path = storage.resolve(location, attempts=storage.QUICK_ATTEMPTS)
    try:
        info = quick.get_file_info(path)
    except OSError as error:
        raise UsageError(f"{location} cannot be opened: {storage.reason(error)}") from None
    if info.type == pafs.FileType.NotFound:
        raise UsageError(f"{location} does not exist; {_closest(path) if '://' not in location else 'check the path'}")
    return storage.resolve(location)[0], info


def read_uri(uri: str, like: str = "") -> bytes:
    """The bytes of a file at a local path or URI, reached as `like` is; raises `OSError` when it cannot be read."""
    filesystem, path = storage.resolve(storage.with_options_of(uri, like))
    with filesystem.open_input_stream(path) as stream:
        data: bytes = stream.read()
    return data


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write in; becomes `target`, not there or empty, when the block ends well, and else is removed."""
    aside = target.with_name(f".{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
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
