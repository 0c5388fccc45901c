"""Files with weights: whether they are there, where from, and a copy on this machine. No torch."""

import functools
import hashlib
from pathlib import Path

import pyarrow.fs as pafs
from filelock import FileLock

from elfs_ray.artifacts import filesystems
from elfs_ray.errors import UsageError
from elfs_ray.workers.machine import machine_folder


def weights_signature(location: str) -> str:
    """Changes when a weights file does: the hash of a local one, or size and time of one at a URI.

    Raises:
        UsageError: there is no such file, or it may not be read.
    """
    info = find_weights(location)
    if "://" in location:
        return f"{info.size} {info.mtime_ns}"
    try:
        return file_digest(Path(info.path), info.mtime_ns)
    except OSError as error:
        raise UsageError(f"weights file {location} cannot be opened: {filesystems.reason(error)}") from None


def find_weights(location: str) -> pafs.FileInfo:
    """What the store says of a weights file, at a local path or a URI.

    Raises:
        UsageError: there is no such file.
    """
    try:
        filesystem, path = filesystems.resolve(location, attempts=filesystems.QUICK_ATTEMPTS)
        info = filesystem.get_file_info(path)
    except OSError as error:
        raise UsageError(f"weights file {location} cannot be opened: {filesystems.reason(error)}") from None
    if info.type != pafs.FileType.File:
        raise UsageError(f"weights file {location} does not exist; check the path given with --weights")
    return info


def local_copy(location: str) -> Path:
    """The weights file on this machine. One at a URI is fetched once, by the first process that asks."""
    info = find_weights(location)
    if "://" not in location:
        return Path(info.path)
    name = hashlib.sha256(f"{location}\0{info.size} {info.mtime_ns}".encode()).hexdigest()[:16]
    copy = machine_folder("weights") / f"{name}{Path(filesystems.without_options(location)).suffix}"
    with FileLock(f"{copy}.lock"):
        if not copy.exists():
            filesystem, path = filesystems.resolve(location)
            aside = copy.with_suffix(".tmp")
            local = pafs.LocalFileSystem()
            pafs.copy_files(path, str(aside), source_filesystem=filesystem, destination_filesystem=local)
            aside.replace(copy)
    return copy


@functools.cache
def file_digest(path: Path, _changed: int) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file, read once by a process as long as its time is the same."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
