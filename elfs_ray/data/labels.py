"""True labels from where the user has them: every one given is used, or counted and named."""

import contextlib
import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs

from elfs_ray.artifacts import filesystems
from elfs_ray.data.classes import FOLDER_FORMS, FOLDERS, class_key, folder_classes, number_classes
from elfs_ray.data.columns import ID_COLUMNS, as_text, check_column, ids_of, listed, refuse_repeated
from elfs_ray.data.files import existing
from elfs_ray.data.sources import Source
from elfs_ray.data.text_tables import ENDINGS, read_text_table, text_table_schema
from elfs_ray.errors import UsageError, one_line

LABEL_COLUMNS = ("label", "class", "target", "category", "y")
COLUMN_PREFIX = "column:"
_COLUMNS_TOLD = 20


@dataclass(frozen=True)
class Labels:
    """What labels say of the samples, and what became of each that was given.

    Attributes:
        spec: where they come from.
        numbers: of the classes, int64 [n], -1 where a sample has none.
        classes: names by number.
        given: labels, each with an id of its own.
        matched: of these, those of samples.
        quarantined: those of inputs that cannot be used.
        unmatched: ids of all others, as given.
        elsewhere: those of other known images.
        likeness: a sample's id, to hold against those.
    """

    spec: str
    numbers: np.ndarray
    classes: list[str]
    given: int
    matched: int
    quarantined: int
    unmatched: list[str]
    elsewhere: int = 0
    likeness: str = ""

    @property
    def labelled(self) -> int:
        """Samples that have a label."""
        return int((self.numbers >= 0).sum())

    @property
    def counts(self) -> dict[str, int]:
        """What became of the labels, for the manifest."""
        return {
            "given": self.given,
            "matched": self.matched,
            "quarantined": self.quarantined,
            "elsewhere": self.elsewhere,
            "unmatched": len(self.unmatched),
        }

    def told(self, images: str | None) -> list[str]:
        """What is worth a line: labels of no sample, or of no image (where all are known), and unlabelled samples."""
        lines = []
        if self.quarantined:
            lines.append(f"{self.quarantined:,} of {self.given:,} labels belong to images in quarantine")
        if self.unmatched and images is not None:
            lines.append(self._mismatch(images))
        if self.labelled < len(self.numbers):
            lines.append(f"{self.labelled:,} of {len(self.numbers):,} images have a label")
        return lines

    def refuse_unmatched(self, images: str) -> None:
        """Refuse labels that belong to no image.

        Raises:
            UsageError: some do.
        """
        if self.unmatched:
            raise UsageError(f"{self._mismatch(images)}; fix the ids, or pass --allow-unmatched")

    def _mismatch(self, images: str) -> str:
        unmatched = len(self.unmatched)
        return (
            f"{self.spec}: {self.given - unmatched:,} of {self.given:,} labels belong to images of {images}; "
            f"{unmatched:,} {'does' if unmatched == 1 else 'do'} not, such as {self.unmatched[0]!r} (images are called "
            f"like {self.likeness!r})"
        )


def is_file(spec: str) -> bool:
    """Whether labels are a file, which may also hold those of other images, and not a part of the images' source."""
    return spec not in FOLDER_FORMS and not spec.startswith(COLUMN_PREFIX)


def labels_signature(spec: str) -> str:
    """Changes when a label file changes; the other forms depend on the images' source alone."""
    if not is_file(spec):
        return spec
    if spec.startswith(f"{FOLDERS}:"):
        raise UsageError(f"labels {spec!r} are of no known form; pass {' or '.join(map(repr, FOLDER_FORMS))}")
    _, info = existing(spec)
    return hashlib.blake2b(f"{info.path}\0{info.size}\0{info.mtime_ns}".encode(), digest_size=16).hexdigest()


def check_labels(spec: str, source: Source, id_column: str | None = None) -> None:
    """Refuse labels of which columns or names of folders show, before any image is read, that they cannot be read.

    Raises:
        UsageError: as `match_labels`, which takes the same.
    """
    if spec in FOLDER_FORMS:
        folder_classes(spec, list(source.ids()))
    elif spec.startswith(COLUMN_PREFIX):
        name, columns = spec.removeprefix(COLUMN_PREFIX), source.columns()
        if columns:
            check_column(source.location, columns, name)
        elif columns is not None:
            source.read_column(name)  # which has none, and says what else to pass
    else:
        with _readable(spec):
            _id_and_label(spec, _file_columns(spec), id_column)


def read_labels(
    spec: str, sample_ids: Sequence[str], *, source: Callable[[], Source], id_column: str | None = None
) -> tuple[np.ndarray, list[str]]:
    """Numbers of the samples' classes, int64 [n], -1 without a label, and the class names: all labels have a sample.

    Raises:
        UsageError: one has none; else as `match_labels`.
    """
    labels = match_labels(spec, sample_ids, source=source, id_column=id_column)
    labels.refuse_unmatched("the samples")
    return labels.numbers, labels.classes


def match_labels(
    spec: str,
    sample_ids: Sequence[str],
    *,
    source: Callable[[], Source],
    id_column: str | None = None,
    quarantined: Sequence[str] = (),
    elsewhere: Sequence[str] = (),
) -> Labels:
    """Labels of the samples, numbered in order of class name (numbers in order of value).

    Ids are one where they are written with the same letters, composed or not (NFC), unless both ways are samples.

    Args:
        spec: a CSV, TSV, JSON-lines or Parquet file with an id and a label column; `folders`, `folders:last`: the name
            of the first folder of each image's path, or of the last; `column:NAME`: that column of the images' table,
            or member of their tar shards.
        sample_ids: ids of the samples, in order.
        source: lists the images, for `column:NAME`.
        id_column: name of the id column, if it is not one of the usual.
        quarantined: ids of inputs that could not be used.
        elsewhere: ids of other images that a file may have labels of.

    Raises:
        UsageError: no such file or column, two labels for one id, an id that may be two samples, classes that cannot be
            told apart, or no id that matches.
    """
    if spec in FOLDER_FORMS:
        names: list[str | None] = list(folder_classes(spec, sample_ids))
        numbers, classes = number_classes(names, f"labels {spec!r}")
        return Labels(spec, numbers, classes, len(names), len(names), 0, [])
    where, given = _from_table(spec, source, id_column)
    if not given:
        raise UsageError(f"{where} holds no label: the column is empty; pass one with labels")
    uses = _use(where, given, sample_ids, quarantined, elsewhere, in_inputs=not is_file(spec))
    if not uses.matched:
        raise UsageError(_none_matches(spec, given, sample_ids, uses.quarantined))
    numbers, classes = number_classes(uses.names, where)
    return Labels(spec, numbers, classes, len(given), *uses[1:], likeness=sample_ids[0])


class _Uses(NamedTuple):
    """The label of each sample, and what became of all that were given; see `Labels`."""

    names: list[str | None]
    matched: int
    quarantined: int
    unmatched: list[str]
    elsewhere: int


def _use(
    where: str,
    given: dict[str, str],
    sample_ids: Sequence[str],
    quarantined: Sequence[str],
    elsewhere: Sequence[str],
    *,
    in_inputs: bool,
) -> _Uses:
    """Bring each label to its sample; with `in_inputs`, all ids are those of inputs, if not of samples."""
    inputs, others = _Ids(where, [*sample_ids, *quarantined]), _Ids(where, elsewhere)
    positions = {sample_id: position for position, sample_id in enumerate(sample_ids)}
    names: list[str | None] = [None] * len(sample_ids)
    matched, aside, other, unmatched = 0, 0, 0, list[str]()
    for label_id, label in given.items():
        found = inputs.find(label_id)
        position = None if found is None else positions.get(found)
        if position is not None:
            before = names[position]
            if before is not None and class_key(before) != class_key(label):
                raise UsageError(_two_labels(where, sample_ids[position], before, label))
            names[position] = before or label
            matched += 1
        elif found is not None or in_inputs:
            aside += 1
        elif others.find(label_id) is not None:
            other += 1
        else:
            unmatched.append(label_id)
    return _Uses(names, matched, aside, unmatched, other)


class _Ids:
    """Ids of images, found as they are written, else by their letters alone (NFC)."""

    def __init__(self, where: str, ids: Iterable[str]) -> None:
        self._where, self._exact = where, set(ids)
        self._composed: dict[str, list[str]] = {}
        for one in self._exact:
            if not unicodedata.is_normalized("NFC", one):
                self._composed.setdefault(unicodedata.normalize("NFC", one), []).append(one)

    def find(self, label_id: str) -> str | None:
        """The id of the image that a label is of.

        Raises:
            UsageError: it may be of two.
        """
        if label_id in self._exact:
            return label_id
        composed = unicodedata.normalize("NFC", label_id)
        found = [*self._composed.get(composed, []), *([composed] if composed in self._exact else [])]
        if len(found) > 1:
            one, other = sorted(found)[:2]
            raise UsageError(
                f"{self._where} has a label for {label_id!a}, which may be the image {one!a} or {other!a}: the same "
                "letters in two forms of Unicode; write the id exactly as that of the image"
            )
        return found[0] if found else None


def _none_matches(spec: str, given: dict[str, str], sample_ids: Sequence[str], quarantined: int) -> str:
    if quarantined:
        return f"{spec}: no label belongs to an image that can be used, and {quarantined:,} to images in quarantine"
    return (
        f"no id in {spec} is a sample id: labels have ids like {next(iter(given))!r}, "
        f"samples like {next(iter(sample_ids), '')!r}; give both the same ids"
    )


def _two_labels(where: str, sample_id: str, one: str, other: str) -> str:
    return f"{where} gives {sample_id!r} two labels, {one!r} and {other!r}; keep one"


def _from_table(spec: str, source: Callable[[], Source], id_column: str | None) -> tuple[str, dict[str, str]]:
    """Where the labels stand, and each label by its id; rows without one are left out."""
    where = spec
    with _readable(spec):
        if spec.startswith(COLUMN_PREFIX):
            images = source()
            name = spec.removeprefix(COLUMN_PREFIX)
            where, (id_values, values) = images.location, images.read_column(name)
            labels = as_text(values, f"column {name!r} of {where}")
        else:
            table = _read_file(spec)
            id_name, name = _id_and_label(where, table.column_names, id_column)
            id_values = ids_of(table[id_name], f"column {id_name!r} of {where}")
            labels = as_text(table[name], f"column {name!r} of {where}")
        pairs = zip(id_values.to_pylist(), labels.to_pylist(), strict=True)
    by_id: dict[str, str] = {}
    for sample_id, label in pairs:
        if label and class_key(by_id.setdefault(sample_id, label)) != class_key(label):
            raise UsageError(_two_labels(where, sample_id, by_id[sample_id], label))
    return where, by_id


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """A block that reads labels; raises `UsageError` where they are damaged, or no text."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        told = filesystems.reason(error) if isinstance(error, OSError) else one_line(error)
        raise UsageError(f"labels file {where} cannot be read: {told}; fix it") from None


def _read_file(path: str) -> pa.Table:
    filesystem, info, as_text = _existing_table(path)
    if as_text:
        return read_text_table(f"labels file {path}", filesystem, info)
    table = pads.dataset(info.path, filesystem=filesystem, format="parquet").to_table()
    refuse_repeated(path, table.column_names)
    return table


def _file_columns(path: str) -> list[str]:
    filesystem, info, as_text = _existing_table(path)
    if as_text:
        return list(text_table_schema(f"labels file {path}", filesystem, info).names)
    return list(pads.dataset(info.path, filesystem=filesystem, format="parquet").schema.names)


def _existing_table(path: str) -> tuple[pafs.FileSystem, pafs.FileInfo, bool]:
    """A file of labels, and whether it is text."""
    filesystem, info = existing(path)
    ending = info.extension.lower()
    if ending not in (*ENDINGS, "parquet"):
        raise UsageError(f"labels file {path} is of no known kind; pass .csv, .tsv, .jsonl or .parquet")
    return filesystem, info, ending in ENDINGS


def _id_and_label(where: str, names: list[str], id_column: str | None) -> tuple[str, str]:
    """The columns of ids and of labels."""
    return _column(where, names, id_column, ID_COLUMNS, "id"), _column(where, names, None, LABEL_COLUMNS, "label")


def _column(where: str, names: list[str], asked: str | None, usual: tuple[str, ...], what: str) -> str:
    wanted = (asked,) if asked else usual
    found = next((name for name in wanted if name in names), None)
    if found is None:
        some = listed(names[:_COLUMNS_TOLD]) + (", ..." if len(names) > _COLUMNS_TOLD else "")
        raise UsageError(f"{where} has no {what} column {' or '.join(map(repr, wanted))}; its columns: {some}")
    return found
