"""Annotations brought back: from the file of a tool to a table of labels for the next run."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

from elfs_ray.data.annotations import read_annotations
from elfs_ray.errors import UsageError, one_line
from elfs_ray.exports.rows import coreset_names
from elfs_ray.store import Store

# Label Studio puts eight digits before the name of a file that is uploaded, and takes some characters out of it.
_UPLOADED = re.compile(r"(?:.*/)?[0-9a-f]{8}-([^/]+)")
_TAKEN_OUT = re.compile(r"[^-\w.]")


def write_labels(store: Store, annotations: str | Path, out: str | Path) -> int:
    """Write a CSV file with the columns sample_id and label; returns how many there are.

    Pictures are known again by their sample id, where the tool gives it back, or by the end of their path or URL.

    Raises:
        UsageError: annotations that cannot be read, or that are of other images; an `out` that cannot be written.
    """
    names = PictureNames({sample_id: index for name in coreset_names(store) for sample_id, index in _ids(store, name)})
    labels = read_annotations(annotations, names.find)
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["sample_id", "label"])
    writer.writerows(labels.items())
    out = Path(out).expanduser().resolve()
    if out.is_dir():
        raise UsageError(f"{out} is a folder; pass the CSV file to write as --out")
    try:
        Store(str(out.parent)).write_bytes(table.getvalue().encode(), out.name)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({one_line(error)}); choose another --out") from None
    return len(labels)


def _ids(store: Store, name: str) -> Iterator[tuple[str, int]]:
    table = store.read_table(f"coresets/{name}", columns=["sample_id", "index"])
    return zip(table["sample_id"].to_pylist(), table["index"].to_pylist(), strict=True)


class PictureNames:
    """Samples by what tools call their pictures."""

    def __init__(self, indices: Mapping[str, int]) -> None:
        """Sample id -> index."""
        self._ids = {**{f"index-{index}": sample_id for sample_id, index in indices.items()}, **{i: i for i in indices}}
        self._by_end: dict[str, list[str]] = {}
        for sample_id in indices:
            self._by_end.setdefault(_clean(sample_id)[-1], []).append(sample_id)

    def find(self, name: str) -> str | None:
        """The sample id that a picture's name, path or URL is, or ends with, or is the end of; None if there is none.

        Raises:
            UsageError: the name is the end of several ids.
        """
        if name in self._ids:
            return self._ids[name]
        forms = list(_forms(name))
        for form in forms:
            parts = form.split("/")
            for start in range(len(parts)):
                end = "/".join(parts[start:])
                for known in (end, end.rpartition(".")[0]):  # exports of tables have added an ending
                    if known in self._ids:
                        return self._ids[known]
        for form in forms:
            uploaded = _UPLOADED.fullmatch(form)
            last = _clean(uploaded[1] if uploaded else form)
            found = sorted(one for one in self._by_end.get(last[-1], []) if _clean(one)[-len(last) :] == last)
            if len(found) > 1:
                raise UsageError(
                    f"annotations name {name!r}, which may be {found[0]!r} or {found[1]!r}; give the tool names "
                    "with their folders (Label Studio: import tasks.json, upload no images)"
                )
            if found:
                return found[0]
        return None


def _forms(name: str) -> Iterator[str]:
    """A name as it stands and with its escapes undone: a URL without its query, or the path in Label Studio's."""
    address, _, query = name.partition("?")
    if address.endswith("/local-files/"):
        name = query.partition("d=")[2]
    elif "://" in name:
        name = address
    once = unquote(name)
    yield from dict.fromkeys((name, once, unquote(once)))


def _clean(path: str) -> list[str]:
    """The parts of a path as Label Studio names a file that is uploaded."""
    return [_TAKEN_OUT.sub("", part.strip().replace(" ", "_")) for part in path.split("/")]
