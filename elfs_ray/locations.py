"""Where files are, as users write it: `file:` URIs and `..` become one plain form, once, when they are read."""

import os
from urllib.parse import unquote

_FILE = "file:"
_HERE = ("", "localhost")


def absolute(text: str | None) -> str | None:
    """A location as all processes understand it: a local path is absolute; of a `file:` URI, it is its path.

    Raises:
        ValueError: as `from_file_uri`.
    """
    text = text and from_file_uri(text)
    return text if text is None or "://" in text else os.path.abspath(os.path.expanduser(text))


def from_file_uri(text: str) -> str:
    """The local path that a `file:` URI names, `%20` and the like decoded; any other text as it is.

    Raises:
        ValueError: it names another machine, or no file.
    """
    if text[: len(_FILE)].lower() != _FILE or not text[len(_FILE) :].startswith("/"):
        return text
    rest = text[len(_FILE) :]
    if rest.startswith("//"):
        host, _, rest = rest[2:].partition("/")
        if host.lower() not in _HERE:
            raise ValueError(f"it names a file on another machine, {host!r}; write file:///PATH")
    if not rest.strip("/"):
        raise ValueError("it names no file; write file:///PATH")
    # A `?` or a `#` is part of the name: a file has neither query nor fragment.
    return "/" + unquote(rest).lstrip("/")


def plain_path(path: str) -> str:
    """An absolute local path without `.` and `..`, which names what the system opens.

    The system goes up from where a link leads, not from where it stands.
    """
    plain = ""
    for part in path.split("/"):
        if part == "..":
            if os.path.islink(plain):
                plain = os.path.realpath(plain)
            plain = plain.rpartition("/")[0]
        elif part not in ("", "."):
            plain = f"{plain}/{part}"
    return plain or "/"


def without_dots(key: str) -> str:
    """A path in an object store without `.` and `..`, which names no object above its bucket."""
    parts = list[str]()
    for part in key.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
