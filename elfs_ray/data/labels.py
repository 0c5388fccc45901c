"""True labels from where the user has them, for evaluation alone."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs

from elfs_ray import storage
from elfs_ray.data.columns import ID_COLUMNS, check_column, listed, refuse_repeated
from elfs_ray.data.files import existing
from elfs_ray.data.sources import Source
from elfs_ray.data.text_tables import ENDINGS, read_text_table, text_table_schema
from elfs_ray.errors import UsageError, one_line

LABEL_COLUMNS = ("label", "class", "target", "category", "y")
FOLDERS = "folders"
COLUMN_PREFIX = "column:"
UNLABELLED = -1


def labels_signature(spec: str) -> str:
    """Changes when a label file changes; the other forms depend on the images' source alone."""
    if spec == FOLDERS or spec.startswith(COLUMN_PREFIX):
        return spec
    _, info = existing(spec)
    return hashlib.blake2b(f"{info.path}\0{info.size}\0{info.mtime_ns}".encode(), digest_size=16).hexdigest()


def check_labels(spec: str, source: Source, id_column: str | None = None) -> None:
    """Refuse labels of which columns or names of folders show, before any image is read, that they cannot be read.

    Raises:
        UsageError: as `read_labels`, which takes the same.
    """
    if spec == FOLDERS:
        for sample_id in source.ids():
            _folder(sample_id)
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
    """Labels of the samples, numbered in order of class name (numbers in order of value).

    Args:
        spec: a CSV, TSV, JSON-lines or Parquet file with an id and a label column; `folders`: the name of the folder
            that each image is in; `column:NAME`: that column of the images' table, or member of their tar shards.
        sample_ids: ids of the samples, in order.
        source: lists the images, for `column:NAME`.
        id_column: name of the id column, if it is not one of the usual.

    Returns:
        int64 [n] with -1 for samples without a label, and the class names.

    Raises:
        UsageError: no such file or column, two labels for one id, or no id that matches.
    """
    names: list[str | None]
    if spec == FOLDERS:
        names = [_folder(sample_id) for sample_id in sample_ids]
    else:
        by_id = _from_table(spec, source, id_column)
        names = [by_id.get(sample_id) for sample_id in sample_ids]
        if all(name is None for name in names):
            raise UsageError(
                f"no id in {spec} is a sample id: labels have ids like {next(iter(by_id), '')!r}, "
                f"samples like {sample_ids[0]!r}; give both the same ids"
            )
    classes = sorted({name for name in names if name is not None}, key=_class_order)
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([UNLABELLED if name is None else numbers[name] for name in names], dtype=np.int64), classes


def _folder(sample_id: str) -> str:
    parent, separator, _ = sample_id.rpartition("/")
    if not separator:
        raise UsageError(f"labels 'folders': image {sample_id!r} is in no class folder; put each class into a folder")
    return parent.rsplit("/", 1)[-1]


def _class_order(name: str) -> tuple[float, str]:
    try:
        return (float(name), "")
    except ValueError:
        return (float("inf"), name)


def _from_table(spec: str, source: Callable[[], Source], id_column: str | None) -> dict[str, str]:
    where = spec
    with _readable(spec):
        if spec.startswith(COLUMN_PREFIX):
            images = source()
            where, (id_values, values) = images.location, images.read_column(spec.removeprefix(COLUMN_PREFIX))
        else:
            table = _read_file(spec)
            id_values, values = (table[name] for name in _id_and_label(where, table.column_names, id_column))
        ids, labels = (column.cast(pa.string()).to_pylist() for column in (id_values, values))
    by_id: dict[str, str] = {}
    for sample_id, label in zip(ids, labels, strict=True):
        if label is not None and by_id.setdefault(sample_id, label) != label:
            raise UsageError(f"{where} gives {sample_id!r} two labels, {by_id[sample_id]!r} and {label!r}; keep one")
    return by_id


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """A block that reads labels; raises `UsageError` where they are damaged, or no text."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        told = storage.reason(error) if isinstance(error, OSError) else one_line(error)
        raise UsageError(f"labels file {where} cannot be read: {told}; mend it") from None


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
        raise UsageError(f"{where} has no {what} column {' or '.join(map(repr, wanted))}; its columns: {listed(names)}")
    return found
