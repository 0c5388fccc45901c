"""What is in a folder: its files, and what is no input, with a count.

A local folder is walked here, because a file system library follows links in circles, drops dangling ones and fails at
names that are not UTF-8. Each folder is entered once, whatever leads to it: first by its own path, then by links.
"""

import errno
import heapq
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow.fs as pafs

from elfs_ray.artifacts import filesystems
from elfs_ray.errors import UsageError, one_line

HIDDEN_FILES, HIDDEN_FOLDERS = "hidden files", "hidden folders"
KNOWN_FOLDERS, SPECIAL_FILES = "links to folders that are listed anyway", "special files (pipes, sockets or devices)"
SYSTEM_FOLDERS = frozenset(
    ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
)  # made by systems beside the user's own files, as those with a leading dot are
_NAMES_TOLD = 3


class Entry(NamedTuple):
    """A file that is listed.

    Attributes:
        path: in its file system; of a name that is not UTF-8, a printable form.
        size: bytes.
        mtime_ns: of its last change; None where the store does not say.
        fault: why it cannot be read, if that shows already.
    """

    path: str
    size: int
    mtime_ns: int | None
    fault: str | None = None

    @property
    def base_name(self) -> str:
        """Without its folder."""
        return self.path.rpartition("/")[2]

    @property
    def extension(self) -> str:
        """What follows the last point of the name, in small letters."""
        _, point, ending = self.base_name.rpartition(".")
        return ending.lower() if point else ""


@dataclass
class Listing:
    """Files below a folder, in order of path.

    Attributes:
        root: the folder, in its file system.
        most: entries, or None.
        entries: all that may be inputs.
        passed_over: what is none -> how often.
        names: the first few names of what is told by name.
    """

    root: str
    most: int | None = None
    entries: list[Entry] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Take a file."""
        self.entries.append(entry)
        if self.most is not None and len(self.entries) > self.most:
            raise TooManyError

    def pass_over(self, what: str, path: str) -> None:
        """Count what is no input, and keep its name."""
        self.passed_over[what] += 1
        names = self.names.setdefault(what, [])
        if len(names) < _NAMES_TOLD:
            names.append(printable(path[len(self.root) :].lstrip("/")))


class TooManyError(Exception):
    """There are more files than the caller wants to look at."""


def list_folder(location: str, filesystem: pafs.FileSystem, root: str, most: int | None = None) -> Listing:
    """All files below a folder.

    Raises:
        UsageError: it, or a folder in it, cannot be listed, so that nobody can say what it holds.
        TooManyError: there are more than `most`; object stores, which list everything at once, always have.
    """
    listing = Listing(root, most)
    if isinstance(filesystem, pafs.LocalFileSystem):
        _Walk(location, listing).run()
    elif most is not None:
        raise TooManyError
    else:
        _list_objects(location, filesystem, listing)
    listing.entries.sort(key=lambda entry: entry.path)
    return listing


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no input: one with a leading dot, or a system's own."""
    return name.startswith(".") or name == "_SUCCESS" or name in SYSTEM_FOLDERS


def printable(name: str) -> str:
    """A name as text; of bytes that are not UTF-8, their numbers after a backslash."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _list_objects(location: str, filesystem: pafs.FileSystem, listing: Listing) -> None:
    try:
        found = filesystem.get_file_info(pafs.FileSelector(listing.root, recursive=True))
    except OSError as error:
        raise UsageError(f"{location} cannot be listed: {filesystems.reason(error)}") from None
    for info in found:
        if info.type != pafs.FileType.File:
            continue
        if any(is_hidden(part) for part in info.path[len(listing.root) :].split("/")):
            listing.passed_over[HIDDEN_FILES] += 1
        else:
            listing.add(Entry(info.path, info.size, info.mtime_ns))


class _Walk:
    """One walk of a local folder."""

    def __init__(self, location: str, listing: Listing) -> None:
        self._location, self._listing = location, listing
        self._odd = list[Entry]()
        self._links = list[str]()  # to folders: a heap, so that they are entered in order of path
        # A link to a folder that holds this one leads back into it.
        real = os.path.realpath(listing.root)
        self._entered = {_identity(os.stat(folder)) for folder in _upwards(real)}

    def run(self) -> None:
        """List everything."""
        folders = [self._listing.root.rstrip("/")]
        while folders or self._links:
            if not folders:
                link = heapq.heappop(self._links)
                try:
                    found = os.stat(link)
                except OSError as error:  # it was there a moment ago
                    raise self._unlisted(link, error) from None
                if not self._is_new(found):
                    self._listing.pass_over(KNOWN_FOLDERS, link)
                    continue
                folders.append(link)
            folders += reversed(self._enter(folders.pop()))
        taken = {entry.path for entry in self._listing.entries}
        for entry in sorted(self._odd):
            path = printable(entry.path)
            while path in taken:
                path = path.replace("\\", "\\\\")
            taken.add(path)
            self._listing.entries.append(entry._replace(path=path))

    def _enter(self, folder: str) -> list[str]:
        """Take the files of a folder; returns the folders in it, without links."""
        try:
            with os.scandir(folder or "/") as scanned:
                inside = sorted(scanned, key=lambda each: each.name)
        except OSError as error:
            raise self._unlisted(folder, error) from None
        below = list[str]()
        for each in inside:
            path = f"{folder}/{each.name}"
            if is_hidden(each.name):
                hidden_folder = each.is_dir(follow_symlinks=False)
                self._listing.passed_over[HIDDEN_FOLDERS if hidden_folder else HIDDEN_FILES] += 1
                continue
            found = self._stat(each, folder)
            if isinstance(found, str):
                self._add(Entry(path, 0, None, found))
            elif stat.S_ISREG(found.st_mode):
                self._add(Entry(path, found.st_size, found.st_mtime_ns))
            elif not stat.S_ISDIR(found.st_mode):
                self._listing.pass_over(SPECIAL_FILES, path)  # opening a pipe waits for ever
            elif each.is_symlink():
                heapq.heappush(self._links, path)
            elif self._is_new(found):
                below.append(path)
            else:
                self._listing.pass_over(KNOWN_FOLDERS, path)
        return below

    def _stat(self, each: "os.DirEntry[str]", folder: str) -> os.stat_result | str:
        """What a path leads to, or why that is not known."""
        try:
            return each.stat()
        except OSError as error:
            if not each.is_symlink():
                if error.errno in (errno.EACCES, errno.EPERM):
                    raise self._unlisted(folder, error) from None
                return f"the file cannot be read: {one_line(error)}"
            if error.errno == errno.ELOOP:
                return "the link leads round in a circle"
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return f"the link leads nowhere: {printable(os.readlink(each.path))} is not there"
            return f"the link cannot be followed: {one_line(error)}"

    def _add(self, entry: Entry) -> None:
        try:
            entry.path.encode()
        except UnicodeEncodeError:
            self._odd.append(entry._replace(fault=entry.fault or "its name is not UTF-8 text; rename it"))
        else:
            self._listing.add(entry)

    def _is_new(self, found: os.stat_result) -> bool:
        """Whether a folder was not entered before; it is from now on."""
        if _identity(found) in self._entered:
            return False
        self._entered.add(_identity(found))
        return True

    def _unlisted(self, folder: str, error: OSError) -> UsageError:
        if folder == self._listing.root.rstrip("/"):
            if error.errno in (errno.EACCES, errno.EPERM):
                return UsageError(f"{self._location} may not be read by this user; change its permissions")
            return UsageError(f"{self._location} cannot be listed: {one_line(error)}")
        return UsageError(
            f"{printable(folder)} cannot be listed ({one_line(error)}), so that nobody can say which images it holds; "
            f"change its permissions, or move it out of {self._location}"
        )


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _upwards(path: str) -> list[str]:
    """A path and all folders that it is in."""
    folders = [path]
    while folders[-1] != os.path.dirname(folders[-1]):
        folders.append(os.path.dirname(folders[-1]))
    return folders
