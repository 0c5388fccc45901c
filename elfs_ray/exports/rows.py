"""The samples of a coreset with all that an export may name, and their pictures."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

import numpy as np

from elfs_ray.artifacts.filesystems import without_options
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.schema import shows_pictures
from elfs_ray.artifacts.table import Table
from elfs_ray.data.files import read_uri
from elfs_ray.data.image_kinds import IMAGE_KINDS, ending_of
from elfs_ray.errors import UsageError
from elfs_ray.exports.records import Exported

IMAGES = "images"
UNKNOWN_KIND = "img"
"""Ending of an image whose kind no ending is known for: it claims nothing."""
_LOCAL_URI = "file://"
_ENDINGS = {
    first: frozenset(ending for kind in IMAGE_KINDS if kind.endings[0] == first for ending in kind.endings)
    for first in (kind.endings[0] for kind in IMAGE_KINDS)
}
"""Ending that exports give a kind -> all that its files have."""
ROWS_AT_ONCE = 256
LONGEST_NAME = 255
"""Of a file or a folder, in bytes, in the usual file systems."""


@dataclass(frozen=True)
class Sample:
    """One selected sample.

    Attributes:
        rank: 0 is the best.
        uri: of the file, or of the table that holds it.
        width: pixels; None, as the height, where embeddings stand for the images.
        cluster: its pseudo-label as a word; None where there is none or none is wanted.
    """

    rank: int
    index: int
    sample_id: str
    uri: str
    width: int | None
    height: int | None
    score: float | None
    pseudo_label: int | None
    labeled: bool
    cluster: str | None


@dataclass(frozen=True)
class Coreset:
    """A coreset to export.

    Attributes:
        name: METHOD/BUDGET.
        samples: in order of rank.
        clusters: the words of all pseudo-labels.
        out: where the export will stand.
        in_table: whether the pictures lie in a table, so that they have no files of their own.
    """

    store: RunFolder
    name: str
    samples: list[Sample]
    clusters: list[str]
    location: str
    url: str | None
    in_table: bool
    out: Path = Path()

    def at(self, out: Path) -> "Coreset":
        """The same, to stand in a folder."""
        return replace(self, out=out)

    def pictures(self) -> Iterator[tuple[Sample, bytes]]:
        """Each sample with the bytes of its file, some in memory at a time.

        Raises:
            UsageError: a file that cannot be read any more.
        """
        table, column = Table(self.store, "samples"), "image" if self.in_table else "uri"
        for start in range(0, len(self.samples), ROWS_AT_ONCE):
            some = self.samples[start : start + ROWS_AT_ONCE]
            rows = table.take(np.sort([sample.index for sample in some]), ["index", column]).to_pylist()
            found = {row["index"]: row[column] for row in rows}
            for sample in some:
                yield sample, self._read(sample, found[sample.index])

    def _read(self, sample: Sample, source: bytes | str) -> bytes:
        if isinstance(source, bytes):
            return source
        try:
            return read_uri(source, self.location)
        except OSError as error:
            raise UsageError(
                f"image {sample.sample_id!r} cannot be read any more ({error}); restore it, then export"
            ) from None

    def exported(self, folder: Path) -> list[Exported]:
        """Each sample, in order of rank, with its name and place; pictures in a table are written below `folder`."""
        return [
            Exported(sample.sample_id, sample.index, name, self.place(sample, name))
            for sample, name in self.names(folder)
        ]

    def place(self, sample: Sample, name: str) -> str:
        """The path or URL of a picture with one of `names`."""
        if self.url is not None:
            return f"{self.url.rstrip('/')}/{quote(f'{IMAGES}/{name}' if self.in_table else name)}"
        return str(self.out / IMAGES / name) if self.in_table else local_path(sample.uri)

    def names(self, folder: Path) -> Iterator[tuple[Sample, str]]:
        """Each sample with the path of its picture below the folder of all; those in a table are written there first.

        The folder is the input of the run; for pictures in a table, `images` in `folder`. A picture that lies elsewhere
        is named by its path from the root.
        """
        if not self.in_table:
            yield from ((sample, self._below_input(local_path(sample.uri))) for sample in self.samples)
            return
        for sample, data in self.pictures():
            name = _free_name(folder / IMAGES, sample, data)
            path = folder / IMAGES / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            yield sample, name

    @cached_property
    def _roots(self) -> list[str]:
        """Folders that names begin below, the first that fits: the input, or what a table that names files lies in."""
        root = without_options(local_path(self.location)).rstrip("/")
        roots = [root, root.rpartition("/")[0]]
        if "://" in root:
            return [unquote(one) for one in roots]
        return [*roots, *(os.path.realpath(one) for one in roots if one)]

    def _below_input(self, path: str) -> str:
        if "://" in path:
            path = unquote(path)
        for folder in self._roots:
            if path.startswith(f"{folder}/"):
                return path.removeprefix(f"{folder}/")
        return (path.partition("://")[2] or path).lstrip("/")


def local_path(location: str) -> str:
    """A location as other programs open it: `file://` and `..` undone in local paths, URIs of objects as they are."""
    if location.startswith(_LOCAL_URI):
        location = unquote(location.removeprefix(_LOCAL_URI).removeprefix("localhost"))
    if "://" not in location and ".." in location.split("/"):
        return os.path.realpath(location)  # not by leaving parts out: one of them may be a link
    return location


def only_coreset(store: RunFolder) -> str:
    """The name of the run's coreset, if there is one and no other.

    Raises:
        UsageError: there is none, or there are several.
    """
    names = [unit.coreset for unit in store.records().current.of("select")]
    if not names:
        raise UsageError(f"{store.uri} holds no coreset; run `elfs-ray select` first")
    if len(names) > 1:
        raise UsageError(f"{store.uri} holds the coresets {', '.join(names)}; choose one with --coreset")
    return names[0]


def read_coreset(store: RunFolder, name: str, *, pre_annotations: bool, url: str | None) -> Coreset:
    """Read a coreset of a run folder.

    Raises:
        UsageError: there is no such coreset, or it has no pseudo-labels and they are wanted.
    """
    records = store.records()
    there = {unit.coreset: unit for unit in records.current.of("select")}
    unit = there.get(name)
    if unit is None:
        held = ", ".join(there) or "none: run `elfs-ray select` first"
        stale = {each.coreset: why for each, why in records.stale.items() if each.stage == "select"}
        if name in stale:
            raise UsageError(f"coreset {name!r} of {store.uri} is stale ({stale[name]}); run the same command again")
        raise UsageError(f"{store.uri} holds no coreset {name!r}; it holds {held}")
    rows = Table(store, unit.artifact("coresets")).read().to_pylist()
    every = Table(store, "samples")
    columns = ["index", *(["width", "height"] if shows_pictures(every.schema) else [])]
    sizes = every.take(np.sort([row["index"] for row in rows]), columns).to_pylist()
    by_index = {row["index"]: row for row in sizes}
    labels = {row["pseudo_label"] for row in rows} - {None}
    if pre_annotations and not labels:
        raise UsageError(f"coreset {name!r} has no pseudo-labels to give as pre-annotations; leave the option out")
    samples = [
        Sample(
            **row,
            width=by_index[row["index"]].get("width"),
            height=by_index[row["index"]].get("height"),
            cluster=_word(row["pseudo_label"]) if pre_annotations and row["pseudo_label"] is not None else None,
        )
        for row in rows
    ]
    clusters = list[str]()
    if pre_annotations:
        count = store.manifest()["config"]["num_classes"] or 1 + max(labels)
        clusters = [_word(number) for number in range(count)]
    in_table = "image" in every.schema.names
    return Coreset(store, name, samples, clusters, store.manifest()["input"], url, in_table)


def file_name(sample: Sample, data: bytes) -> str:
    """A relative path made of the sample's id that stays below its folder, with the ending of its kind."""
    parts = [quote(part, safe=" ") for part in PurePosixPath(sample.sample_id).parts if part not in ("/", "..", ".")]
    name = "/".join(parts) or f"index-{sample.index}"
    ending = ending_of(data) or UNKNOWN_KIND
    return name if PurePosixPath(name).suffix[1:].lower() in _ENDINGS.get(ending, ()) else f"{name}.{ending}"


def _free_name(folder: Path, sample: Sample, data: bytes) -> str:
    """`file_name`, unless that is too long for a file or another sample's: then `index-NUMBER`."""
    name = file_name(sample, data)
    path = folder / name
    is_long = max(map(len, path.parts)) > LONGEST_NAME
    if is_long or path.exists() or any(parent.is_file() for parent in path.parents):
        return f"index-{sample.index}.{name.rpartition('.')[2]}"
    return name


def _word(label: int) -> str:
    return f"cluster {label}"
