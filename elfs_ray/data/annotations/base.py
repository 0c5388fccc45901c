"""What every reader of annotations gives: the pictures of a file, and what each annotator said of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LABEL_CONTROL = "label"
"""The question that exports ask: in Label Studio, the name of the control in its labelling interface."""
ID_COLUMN = "sample_id"
EXPORT_KEY = "elfs_ray_export"
"""The field in which an export's key travels through a tool."""


@dataclass(frozen=True)
class Answer:
    """What one annotator said of one picture.

    Attributes:
        given: question -> the labels chosen. One is an answer; several are no single label.
        skipped: whether the annotator refused the picture.
        other: whether there is something beside the labels: text, boxes, an answer to something else.
        ground_truth: whether it is marked as the right one.
    """

    given: Mapping[str, tuple[str, ...]]
    skipped: bool = False
    other: bool = False
    ground_truth: bool = False


NO_ANSWER = Answer({})


@dataclass(frozen=True)
class Picture:
    """One picture of a tool's file.

    Attributes:
        name: path, URL or name that the tool has for it; None where it has none.
        sample_id: as the file has it; None where the tool has dropped it.
        export: key of the export that it came from, likewise.
        answers: of all annotators; `NO_ANSWER` alone where nobody said anything.
        shown: what to call it in a message, where it has no name.
    """

    name: str | None
    answers: tuple[Answer, ...]
    sample_id: str | None = None
    export: str | None = None
    shown: str = ""

    def __str__(self) -> str:
        """What to call it in a message."""
        return repr(self.name if self.name is not None else self.sample_id) if self.is_named else self.shown

    @property
    def is_named(self) -> bool:
        """Whether anything says which picture it is."""
        return self.name is not None or self.sample_id is not None

    @classmethod
    def of_row(cls, row: Mapping[str, Any], name: Any, shown: str, *answers: Answer) -> "Picture":
        """The picture of a row, with the id and the key that an export wrote into it."""
        sample_id, export = optional(row.get(ID_COLUMN)), optional(row.get(EXPORT_KEY))
        return cls(optional(name), answers or (NO_ANSWER,), sample_id, export, shown)


@dataclass(frozen=True)
class Annotations:
    """A file of annotations.

    Attributes:
        where: the file, for messages.
        form: the export format that its tool reads; `table` for tables.
        pictures: in the order of the file.
        question: whose answers are labels if nobody says otherwise.
    """

    where: str
    form: str
    pictures: tuple[Picture, ...]
    question: str = LABEL_CONTROL


def text(value: Any) -> str:
    """A name or a label, which tools also write as a number.

    Raises:
        TypeError: it is something else, such as nothing at all.
        ValueError: it is no text that a file can hold.
    """
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no name")
    found = str(value)
    found.encode()
    return found


def optional(value: Any) -> str | None:
    """The same, where there may be nothing."""
    return None if value is None or value == "" else text(value)


def chosen(labels: list[Any]) -> tuple[str, ...]:
    """The labels of an answer, each once, without empty ones."""
    return tuple(dict.fromkeys(found for found in map(text, labels) if found.strip()))
