"""What an input holds, in words: what is read of it, and what is passed over."""

from collections import Counter
from dataclasses import dataclass, field

from elfs_ray.data.listing import HIDDEN_FILES, HIDDEN_FOLDERS, KNOWN_FOLDERS, SPECIAL_FILES, Entry, Listing

HIDDEN_MEMBERS, NAMELESS_MEMBERS, EMPTY_SHARDS = "hidden members", "members without an ending", "shards without samples"
EMPTY_TABLES = "tables without rows"
NO_ENDING, UNKNOWN = "files without an ending", "files of an unknown kind"
_ONE = {
    "images": "image",
    "rows": "row",
    "samples": "sample",
    HIDDEN_FILES: "hidden file",
    HIDDEN_FOLDERS: "hidden folder",
    KNOWN_FOLDERS: "link to a folder that is listed anyway",
    SPECIAL_FILES: "special file (a pipe, socket or device)",
    HIDDEN_MEMBERS: "hidden member",
    NAMELESS_MEMBERS: "member without an ending",
    EMPTY_SHARDS: "shard without samples",
    EMPTY_TABLES: "table without rows",
    NO_ENDING: "file without an ending",
    UNKNOWN: "file of an unknown kind",
}
_KINDS_TOLD, _LONGEST_ENDING = 8, 12


@dataclass
class Found:
    """What an input holds.

    Attributes:
        read: what becomes inputs, in words.
        passed_over: what does not -> how often.
        names: some of the names of what is passed over by name.
        folder: name of the input, where that is a folder.
    """

    read: str
    passed_over: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)
    folder: str = ""

    def add(self, listing: Listing, files: list[Entry]) -> None:
        """Pass over what the listing of a folder did, and these of its files."""
        self.folder = f"{_name(listing.root)}/"
        self.passed_over.update(listing.passed_over)
        self.names.update(listing.names)
        self.passed_over.update(label(file) for file in files)

    def line(self, location: str) -> str:
        """All of it on one line."""
        name = self.folder or _name(location.partition("?")[0])
        if not self.passed_over:
            return f"{name}: {self.read} read"
        kinds = sorted(self.passed_over.items(), key=lambda each: (not each[0].startswith("."), -each[1], each[0]))
        told = [self._told(what, count) for what, count in kinds[:_KINDS_TOLD]]
        rest = sum(count for _, count in kinds[_KINDS_TOLD:])
        return f"{name}: {self.read} read; passed over {', '.join(told + [f'{rest:,} others'] * (rest > 0))}"

    def _told(self, what: str, count: int) -> str:
        names = self.names.get(what, [])
        more = ", ..." if len(names) < count else ""
        return counted(what, count) + (f": {', '.join(map(repr, names))}{more}" if names else "")


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def label(file: Entry) -> str:
    """What files of this kind are called: their ending, where it looks like one."""
    ending, name = file.extension, file.base_name.lower()
    if not ending:
        return NO_ENDING
    if not (ending.isalnum() and len(ending) <= _LONGEST_ENDING):
        return UNKNOWN
    return f".tar.{ending}" if name.endswith(f".tar.{ending}") else f".{ending}"


def counted(what: str, count: int) -> str:
    """A count of things."""
    return f"{count:,} {_ONE.get(what, what) if count == 1 else what}"
