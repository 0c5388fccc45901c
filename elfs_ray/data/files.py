"""Local paths and object-store URIs behind one interface (pyarrow file systems)."""

import difflib
import os

import pyarrow.fs as pafs

from elfs_ray.errors import UsageError, one_line


def resolve(location: str) -> tuple[pafs.FileSystem, str]:
    """File system and path inside it of a local path or a URI.

    Raises:
        UsageError: the URI is not one that pyarrow knows, or the store refuses.
    """
    if "://" not in location:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    try:
        filesystem, path = pafs.FileSystem.from_uri(location)
    except (OSError, ValueError) as error:
        raise UsageError(f"{location} cannot be opened: {one_line(error)}") from None
    return filesystem, path.rstrip("/")


def existing(location: str) -> tuple[pafs.FileSystem, pafs.FileInfo]:
    """File system and description of a file or folder that is there.

    Raises:
        UsageError: there is no such file or folder, or it may not be looked at.
    """
    filesystem, path = resolve(location)
    try:
        info = filesystem.get_file_info(path)
    except OSError as error:
        raise UsageError(f"{location} cannot be opened: {one_line(error)}") from None
    if info.type == pafs.FileType.NotFound:
        raise UsageError(f"{location} does not exist; {_closest(path)}")
    return filesystem, info


def read_uri(uri: str) -> bytes:
    """The bytes of a file at a local path or URI; raises `OSError` when it cannot be read."""
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path) as stream:
        data: bytes = stream.read()
    return data


def _closest(path: str) -> str:
    parent, name = os.path.split(path)
    try:
        names = os.listdir(parent)
    except OSError:
        return "check the path"
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {os.path.join(parent, close[0])}?" if close else "check the path"
