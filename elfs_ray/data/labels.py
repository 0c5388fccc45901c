"""True labels from where the user has them: every one given is used, or counted and named."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs

from elfs_ray.artifacts import filesystems
from elfs_ray.data.classes import FOLDER_FORMS, FOLDERS, folder_classes, number_classes
from elfs_ray.data.columns import (
    ID_COLUMNS,
    as_text,
    check_column,
    composed,
    ids_of,
    listed,
    numbered,
    refuse_repeated,
)
from elfs_ray.data.files import existing
from elfs_ray.data.sources import Source
from elfs_ray.data.text_tables import ENDINGS, read_text_table, text_table_schema
from elfs_ray.errors import UsageError, one_line

LABEL_COLUMNS = ("label", "class", "target", "category", "y")
COLUMN_PREFIX = "column:"
_COLUMNS_TOLD = 20
_NONE, _SEVERAL = -1, -2
_NO_IDS = pa.array([], pa.string())


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
        unmatched: all others.
        elsewhere: those of other known images.
        stray: an id of the unmatched, as given.
        likeness: a sample's id, to hold against those.
    """

    spec: str
    numbers: np.ndarray
    classes: list[str]
    given: int
    matched: int
    quarantined: int
    unmatched: int
    elsewhere: int = 0
    stray: str = ""
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
            "unmatched": self.unmatched,
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
        return (
            f"{self.spec}: {self.given - self.unmatched:,} of {self.given:,} labels belong to images of {images}; "
            f"{self.unmatched:,} {'does' if self.unmatched == 1 else 'do'} not, such as {self.stray!r} (images are "
            f"called like {self.likeness!r})"
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
        folder_classes(spec, source.ids())
    elif spec.startswith(COLUMN_PREFIX):
        name, columns = spec.removeprefix(COLUMN_PREFIX), source.columns()
        if columns:
            check_column(source.location, columns, name)
        elif columns is not None:
            source.read_column(name)  # which has none, and says what else to pass
    else:
        with _readable(spec):
            _id_and_label(spec, _file_columns(spec), id_column)


def match_labels(
    spec: str,
    sample_ids: pa.ChunkedArray | pa.Array,
    *,
    source: Callable[[], Source],
    id_column: str | None = None,
    quarantined: pa.ChunkedArray | pa.Array = _NO_IDS,
    elsewhere: pa.ChunkedArray | pa.Array = _NO_IDS,
) -> Labels:
    """Labels of the samples, numbered in order of class name (numbers in order of value).

    Ids are one where they are written with the same letters, composed or not (NFC), unless both ways are samples.

    Args:
        spec: a CSV, TSV, JSON-lines or Parquet file with an id and a label column; `folders`, `folders:last`: the name
            of the first folder of each image's path, or of the last; `column:NAME`: that column of the images' table,
            or member of their tar shards.
        sample_ids: ids of the samples, text [n], in order.
        source: lists the images, for `column:NAME`.
        id_column: name of the id column, if it is not one of the usual.
        quarantined: ids of inputs that could not be used.
        elsewhere: ids of other images that a file may have labels of.

    Raises:
        UsageError: no such file or column, two labels for one id, an id that may be two samples, classes that cannot be
            told apart, or no id that matches.
    """
    if spec in FOLDER_FORMS:
        numbers, classes = number_classes(folder_classes(spec, sample_ids), f"labels {spec!r}")
        return Labels(spec, numbers, classes, len(numbers), len(numbers), 0, 0)
    given = _from_table(spec, source, id_column)
    if not len(given.ids):
        raise UsageError(f"{given.where} holds no label: the column is empty; pass one with labels")
    return _match(spec, given, _joined(sample_ids, quarantined), _joined(elsewhere), len(sample_ids))


class _Given(NamedTuple):
    """Labels as they were given, the first of each id.

    Attributes:
        where: they stand.
        ids: text [n], each another.
        labels: text [n].
        keys: int32 [n], one number for the labels of a class.
    """

    where: str
    ids: pa.ChunkedArray
    labels: pa.ChunkedArray
    keys: np.ndarray


def _match(spec: str, given: _Given, inputs: pa.ChunkedArray, elsewhere: pa.ChunkedArray, count: int) -> Labels:
    """Bring each label to its sample; the first `count` of `inputs` are samples, the others are in quarantine."""
    found = _find(given.ids, inputs)
    if not is_file(spec):
        found[found == _NONE] = count  # a part of the source has no ids but those of inputs
    strange = np.flatnonzero(found == _NONE)
    others = _find(given.ids.take(strange), elsewhere)
    mine, unmatched = np.flatnonzero((found >= 0) & (found < count)), strange[others == _NONE]
    label_of = np.full(count, _NONE)
    label_of[found[mine][::-1]] = mine[::-1]  # of several, the first is assigned last
    clashes = mine[given.keys[label_of[found[mine]]] != given.keys[mine]]
    several = np.sort(np.append(np.flatnonzero(found == _SEVERAL), strange[others == _SEVERAL]))
    if len(several) and not (clashes < several[0]).any():
        raise UsageError(_two_images(given, several[0], inputs, elsewhere))
    if len(clashes):
        sample, clash = found[clashes[0]], clashes[0]
        raise UsageError(_two_labels(given.where, inputs[sample], given.labels[label_of[sample]], given.labels[clash]))
    aside = int((found >= count).sum())
    if not len(mine):
        raise UsageError(_none_matches(spec, given, inputs[:count], aside))
    numbers, classes = number_classes(given.labels.take(pa.array(label_of, mask=label_of == _NONE)), given.where)
    return Labels(
        spec,
        numbers,
        classes,
        given=len(found),
        matched=len(mine),
        quarantined=aside,
        unmatched=len(unmatched),
        elsewhere=int((others >= 0).sum()),
        stray=given.ids[unmatched[0]].as_py() if len(unmatched) else "",
        likeness=inputs[0].as_py(),
    )


def _find(wanted: pa.ChunkedArray, ids: pa.ChunkedArray) -> np.ndarray:
    """Where each id stands among those of images, int64 [n]: as it is written, else by its letters alone (NFC).

    `_NONE` for one that does not, `_SEVERAL` where it may be more than one image.
    """
    at = _positions(wanted, ids)
    missing = np.flatnonzero(at == _NONE)
    if not len(missing):
        return at
    letters, of_ids = composed(wanted.take(missing)), composed(ids)
    alike = np.flatnonzero(pc.is_in(of_ids, value_set=letters))
    alike = alike[numbered(ids.take(alike))[1]]
    numbers, first = numbered(of_ids.take(alike))
    is_one = np.bincount(numbers, minlength=len(first)) == 1
    place = np.append(np.where(is_one, alike[first], _SEVERAL), _NONE)
    at[missing] = place[_positions(letters, of_ids.take(alike[first]))]
    return at


def _positions(wanted: pa.ChunkedArray, values: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(pc.index_in(wanted, value_set=values), _NONE).to_numpy().astype(np.int64)


def _two_images(given: _Given, number: int, *known: pa.ChunkedArray) -> str:
    letters = composed(given.ids.slice(number, 1))[0]
    alike = (sorted(ids.filter(pc.equal(composed(ids), letters)).unique().to_pylist()) for ids in known)
    one, other, *_ = next(filter(None, alike))
    return (
        f"{given.where} has a label for {given.ids[number].as_py()!a}, which may be the image {one!a} or {other!a}: "
        "the same letters in two forms of Unicode; write the id exactly as that of the image"
    )


def _none_matches(spec: str, given: _Given, sample_ids: pa.ChunkedArray, quarantined: int) -> str:
    if quarantined:
        return f"{spec}: no label belongs to an image that can be used, and {quarantined:,} to images in quarantine"
    return (
        f"no id in {spec} is a sample id: labels have ids like {given.ids[0].as_py()!r}, "
        f"samples like {sample_ids[0].as_py() if len(sample_ids) else ''!r}; give both the same ids"
    )


def _two_labels(where: str, image_id: pa.Scalar, one: pa.Scalar, other: pa.Scalar) -> str:
    return f"{where} gives {image_id.as_py()!r} two labels, {one.as_py()!r} and {other.as_py()!r}; keep one"


def _from_table(spec: str, source: Callable[[], Source], id_column: str | None) -> _Given:
    """The labels; rows without one are left out."""
    where = spec
    with _readable(spec):
        if spec.startswith(COLUMN_PREFIX):
            images = source()
            name = spec.removeprefix(COLUMN_PREFIX)
            where, (id_values, values) = images.location, images.read_column(name)
            labels = as_text(values, f"column {name!r} of {where}")
        else:
            table = _read_file(spec, id_column)
            id_name, name = _id_and_label(where, table.column_names, id_column)
            id_values = ids_of(table[id_name], f"column {id_name!r} of {where}")
            labels = as_text(table[name], f"column {name!r} of {where}")
        ids, labels = _joined(id_values), _joined(labels)
        for column in (ids, labels):
            column.validate(full=True)  # that texts are UTF-8
    there = pc.not_equal(labels, "")
    ids, labels = ids.filter(there), labels.filter(there)
    keys, (numbers, first) = numbered(composed(labels))[0], numbered(ids)
    before = first[numbers]
    clashes = np.flatnonzero(keys[before] != keys)
    if len(clashes):
        raise UsageError(_two_labels(where, ids[clashes[0]], labels[before[clashes[0]]], labels[clashes[0]]))
    return _Given(where, ids.take(first), labels.take(first), keys[first])


def _joined(*columns: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
    """Columns of text, one after the other; with long offsets, because all may be hashed together."""
    parts = [part for column in columns for part in getattr(column, "chunks", [column])]
    return pa.chunked_array([part.cast(pa.large_string()) for part in parts], pa.large_string())


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """A block that reads labels; raises `UsageError` where they are damaged, or no text."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        told = filesystems.reason(error) if isinstance(error, OSError) else one_line(error)
        raise UsageError(f"labels file {where} cannot be read: {told}; fix it") from None


def _read_file(path: str, id_column: str | None) -> pa.Table:
    filesystem, info, as_text = _existing_table(path)
    if as_text:
        return read_text_table(f"labels file {path}", filesystem, info)
    dataset = pads.dataset(info.path, filesystem=filesystem, format="parquet")
    refuse_repeated(path, dataset.schema.names)
    return dataset.to_table(columns=list(dict.fromkeys(_id_and_label(path, dataset.schema.names, id_column))))


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
