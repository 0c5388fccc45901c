"""Names of classes: their order, which are one, which cannot be told apart, and which folder of a path names one."""

import math
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elfs_ray.data.columns import numbered
from elfs_ray.errors import UsageError

UNLABELLED = -1
FOLDERS, LAST_FOLDERS = "folders", "folders:last"
FOLDER_FORMS = (FOLDERS, LAST_FOLDERS)
# Digits that a reader takes for a number: no `nan`, no `1_000`, no digits of other scripts.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# Characters whose compatibility form looks the same, such as full-width letters, ligatures and no-break spaces. Not
# those that anybody sees are others: superscripts, fractions, circled digits.
_LOOK_THE_SAME = ("<wide>", "<narrow>", "<noBreak>", "<compat>", "<initial>", "<medial>", "<final>", "<isolated>")
_ROW = re.compile(r"\.parquet#[0-9]+$")
_FILE_NAME = r"[^/]*[^/.][^/]*$"  # neither `.` nor `..`
_INVISIBLE = ("Cf", "Cc")
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)


def number_classes(names: pa.ChunkedArray | pa.Array, where: str) -> tuple[np.ndarray, list[str]]:
    """Classes in order of name (numbers by value), and the number of each label's.

    Args:
        names: of the class of each sample, text [n]; null where it has no label.
        where: the labels come from, for messages.

    Returns:
        int64 [n] with -1 for samples without a label, and the class names as first written.

    Raises:
        UsageError: two classes look the same.
    """
    numbers, first = numbered(names)
    written, first_written = names.take(first).to_pylist(), dict[str, str]()
    for name in written:
        first_written.setdefault(class_key(name), name)
    classes = sorted(first_written.values(), key=_order)
    refuse_look_alikes(classes, where)
    by_key = {class_key(name): number for number, name in enumerate(classes)}
    return np.array([*(by_key[class_key(name)] for name in written), UNLABELLED], dtype=np.int64)[numbers], classes


def class_key(name: str) -> str:
    """What names of one class have in common: the same letters, composed (NFC) or not."""
    return unicodedata.normalize("NFC", name)


def refuse_look_alikes(classes: Sequence[str], where: str) -> None:
    """Refuse names that differ, but not to the eye: in white space, invisible characters or forms of a letter.

    Raises:
        UsageError: two do, or one shows nothing at all.
    """
    seen: dict[str, str] = {}
    for name in classes:
        look = _look(name)
        if not look:
            raise UsageError(f"{where}: the class {name!a} is nothing but white space; name it, or leave it empty")
        other = seen.setdefault(look, name)
        if class_key(other) != class_key(name):
            raise UsageError(
                f"{where}: the classes {other!a} and {name!a} look the same; if they are one, write them the same, "
                "else name them apart"
            )


def folder_classes(form: str, sample_ids: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The class of each image: the first folder of its path below the input, or the one that it lies in.

    Args:
        form: one of `FOLDER_FORMS`.
        sample_ids: paths, text [n].

    Returns:
        Names, text [n].

    Raises:
        UsageError: an image lies in no such folder, or all would be of one class and the other form tells them apart.
    """
    of, other = (_first_folder, _last_folder) if form == FOLDERS else (_last_folder, _first_folder)
    # One image stands for all of its folder. What is no path, or names no file, stands for itself.
    folders = pc.replace_substring_regex(sample_ids, _FILE_NAME, "x")
    numbers, first = numbered(pc.if_else(pc.match_substring_regex(sample_ids, _ROW.pattern), sample_ids, folders))
    examples = sample_ids.take(first).to_pylist()
    names = [of(example) for example in examples]
    if len(sample_ids) > 1 and len(set(names)) == 1:
        try:
            others = len({other(example) for example in examples})
        except UsageError:
            others = 1
        if others > 1:
            which = "the first folder of each", "the folder that each lies in"
            instead = LAST_FOLDERS if form == FOLDERS else FOLDERS
            raise UsageError(
                f"labels '{form}': all {len(sample_ids):,} images would be of the class {names[0]!r}; pass "
                f"'{instead}', {which[form == FOLDERS]}, which gives {others:,} classes"
            )
    return pa.array(names, pa.string()).take(numbers)


def _first_folder(sample_id: str) -> str:
    if "://" in sample_id or sample_id.startswith("/"):
        raise UsageError(
            f"labels '{FOLDERS}': image {sample_id!r} is named by a whole path, not by one below the input; pass "
            f"'{LAST_FOLDERS}' for the folder that each image lies in, or a file of labels"
        )
    parts = _parts(sample_id)
    if ".." in parts:
        raise UsageError(f"labels '{FOLDERS}': image {sample_id!r} is not below the input; pass a file of labels")
    return _folder(FOLDERS, sample_id, parts, 0)


def _last_folder(sample_id: str) -> str:
    _, scheme, path = sample_id.partition("://")
    parts = _parts(path.partition("/")[2] if scheme else sample_id)
    return _folder(LAST_FOLDERS, sample_id, parts, -2)


def _folder(form: str, sample_id: str, parts: list[str], which: int) -> str:
    if _ROW.search(sample_id):
        raise UsageError(
            f"labels '{form}': {sample_id!r} is a row of a table, not a path; pass 'column:NAME', or a file"
        )
    if len(parts) < 2 or parts[which] == "..":
        raise UsageError(f"labels '{form}': image {sample_id!r} is in no class folder; put each class into a folder")
    return parts[which]


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _order(name: str) -> tuple[int, float, str]:
    """A total order, whatever the order in which the names come: numbers by value, then all others; ties by text."""
    if _NUMBER.fullmatch(name) and math.isfinite(value := float(name)):
        return 0, value, name
    return 1, 0.0, name


def _look(name: str) -> str:
    """A name as it shows."""
    spaced = " ".join(unicodedata.normalize("NFC", name).split())
    shown = (
        unicodedata.normalize("NFKC", char) if unicodedata.decomposition(char).startswith(_LOOK_THE_SAME) else char
        for char in spaced
        if unicodedata.category(char) not in _INVISIBLE and ord(char) not in _VARIATION_SELECTORS
    )
    return " ".join(unicodedata.normalize("NFC", "".join(shown)).split())
