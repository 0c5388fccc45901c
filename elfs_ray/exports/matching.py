"""Which sample each annotated picture is, by what the exports called it, and which label it gets. No files here.

A picture is known by exactly the name that an export gave it (compared in NFC, as some systems write names in NFD), or
by its sample id where the key of the export, or the lack of any name, says that the id is ours. Nothing is known by its
number, or by the end of its path, with one exception: of COCO files tools keep the bare file name, which is taken where
one exported sample alone has it, and one picture of the file. What is ambiguous is refused by name.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from elfs_ray.data.annotations import Annotations, Answer, Picture
from elfs_ray.errors import UsageError
from elfs_ray.exports.records import ExportRecord

SHOWN = 5
"""Names told of each kind of picture that is left out."""
LABEL, SEVERAL, SKIPPED, PARTIAL, UNANSWERED = "label", "several labels", "skipped", "another question", "not answered"
TIED, OUTVOTED, UNKNOWN = "tied", "outvoted", "unknown"
MISSING = "not in the file"
_REASONS = (TIED, SEVERAL, PARTIAL, SKIPPED, UNANSWERED, MISSING)
_WITH_LABELS = (LABEL, SEVERAL)
_BY_PLACE = ("label-studio", "fiftyone", "table")
_ONE_ENTRY_EACH = ("cvat", "coco", "fiftyone")
"""In these a second entry of one picture is a second picture, or a mistake; in others, another annotator's."""


@dataclass(frozen=True)
class Matched:
    """Annotations brought back.

    Attributes:
        labels: sample id -> label, in NFC.
        without: sample id -> why it has no label, of all other samples that were exported.
        unknown: what the file calls the pictures that are none of the export's.
        by_majority: labels that not all annotators gave.
        answers: how many answers the file held of each outcome.
    """

    labels: Mapping[str, str]
    without: Mapping[str, str]
    unknown: Sequence[str]
    by_majority: int
    answers: Mapping[str, int]

    @property
    def is_complete(self) -> bool:
        """Whether every exported sample has a label, and the file holds nothing else."""
        return not self.without and not self.unknown

    def summary(self, where: str) -> str:
        """One line on what is in a file of labels, and what is not."""
        majority = f" ({self.by_majority:,} by majority)" if self.by_majority else ""
        parts = [f"{_count(len(self.labels), 'label')} in {where}{majority}"]
        if self.without:
            reasons = [(why, [repr(one) for one, reason in self.without.items() if reason == why]) for why in _REASONS]
            told = "; ".join(f"{why}: {_some(names)}" for why, names in reasons if names)
            total = _count(len(self.labels) + len(self.without), "image")
            parts.append(
                f"{len(self.without):,} of {total} {'has' if len(self.without) == 1 else 'have'} none ({told})"
            )
        if self.unknown:
            parts.append(f"{_count(len(self.unknown), 'unknown image')} passed over: {_some(self.unknown)}")
        return "; ".join(parts)


class _Names:
    """Samples by one kind of name."""

    def __init__(self, names: Iterable[tuple[str | None, str]]) -> None:
        self._exact: dict[str, set[str]] = {}
        self._composed: dict[str, set[str]] = {}
        for name, sample_id in names:
            if name is not None:
                self._exact.setdefault(name, set()).add(sample_id)
                self._composed.setdefault(_nfc(name), set()).add(sample_id)

    def find(self, name: str | None) -> set[str]:
        """The ids of the samples called so."""
        if name is None:
            return set()
        return self._exact.get(name) or self._composed.get(_nfc(name)) or set()


class _Known:
    """What some exports called their samples."""

    def __init__(self, records: Sequence[ExportRecord]) -> None:
        self._samples = [one for record in records for one in record.samples]

    @cached_property
    def ids(self) -> _Names:
        return _Names((one.sample_id, one.sample_id) for one in self._samples)

    @cached_property
    def _names(self) -> _Names:
        return _Names((one.name, one.sample_id) for one in self._samples)

    @cached_property
    def _places(self) -> _Names:
        return _Names((one.place, one.sample_id) for one in self._samples)

    @cached_property
    def _file_names(self) -> _Names:
        """A tool that cuts the folders off a URL leaves its escapes."""
        bare = [(one.file_name, one.sample_id) for one in self._samples]
        return _Names([*bare, *(((one.place or "").rpartition("/")[2], one.sample_id) for one in self._samples)])

    def called(self, name: str | None, form: str, prefix: str = "") -> set[str]:
        """The ids of the samples that a picture in a file of a form may be; after a prefix stand names, whole."""
        if prefix:
            return self._names.find(name.removeprefix(prefix)) if name and name.startswith(prefix) else set()
        if form in _BY_PLACE:
            return self._places.find(name)
        if form != "coco":
            return self._names.find(name)
        # A bare name may be all that is left of a path, even if it is also a whole one.
        return self._places.find(name) or self._names.find(name) | self._file_names.find(name)


def match(
    found: Annotations, records: Sequence[ExportRecord], *, question: str | None = None, prefix: str = ""
) -> Matched:
    """Labels of the samples that were exported.

    Args:
        found: a file of annotations.
        records: of the exports that it may be of; where the pictures say which they are of, those count.
        question: whose answers are the labels; None: the one that was exported.
        prefix: what the tool has put before the exported name (`Exported.name`) of each picture.

    Raises:
        UsageError: a picture that may be several samples, or is said to be two; no picture that was exported, or no
            answer to the question.
    """
    records = [record for record in records if record.form == found.form] or list(records)
    ours, strangers = _identify(found, records, prefix)
    if found.pictures and not ours:
        raise _nothing_known(found, records)
    exported = next((record.question for record in records if record.form == found.form and record.question), None)
    asked = question or exported or found.question
    _check_question(found, asked)
    labels, without, counts, majority = dict[str, str](), dict[str, str](), Counter[str](), 0
    for sample_id, pictures in ours.items():
        label, outcomes = _decide([answer for picture in pictures for answer in picture.answers], asked)
        counts.update(outcomes)
        if label is None:
            without[sample_id] = next(why for why in _REASONS if why in outcomes)
        else:
            labels[sample_id] = label
            majority += OUTVOTED in outcomes
    counts.update(UNKNOWN for picture in strangers for _ in picture.answers)
    left = [sample_id for sample_id in _expected(records, ours) if sample_id not in ours]
    without.update(dict.fromkeys(left, MISSING))
    return Matched(labels, without, [str(picture) for picture in strangers], majority, dict(counts))


def _identify(
    found: Annotations, records: Sequence[ExportRecord], prefix: str
) -> tuple[dict[str, list[Picture]], list[Picture]]:
    """Pictures by sample id, and those of none."""
    everyone, by_key = _Known(records), {record.key: _Known([record]) for record in records}
    ours, strangers = dict[str, list[Picture]](), list[Picture]()
    for picture in found.pictures:
        known = by_key.get(picture.export or "")
        sample_id = _find(found, picture, prefix, known or everyone, is_ours=known is not None)
        if sample_id is None:
            strangers.append(picture)
            continue
        others = ours.setdefault(sample_id, [])
        if others and found.form in _ONE_ENTRY_EACH:
            raise UsageError(
                f"annotations {found.where} hold two pictures, {others[0]} and {picture}, that are both {sample_id!r} "
                "of the export; keep one"
            )
        others.append(picture)
    return ours, strangers


def _find(found: Annotations, picture: Picture, prefix: str, known: _Known, *, is_ours: bool) -> str | None:
    """The sample that a picture is; None if it is none of the export's."""
    called, by_id = known.called(picture.name, found.form, prefix), known.ids.find(picture.sample_id)
    if called and picture.sample_id is not None:
        called, several = called & by_id, called
        if not called:
            raise UsageError(
                f"annotations {found.where} give {picture} the sample_id {picture.sample_id!r}; it was exported with "
                f"{min(several)!r}; put the right one back"
            )
    elif not called and (is_ours or (picture.name is None and picture.export is None)):
        called = by_id
    if len(called) > 1:
        first, second = sorted(called)[:2]
        raise UsageError(
            f"annotations {found.where} name {picture}, which may be {first!r} or {second!r}; give the tool the names "
            "that were exported, or say with --export which export it is of"
        )
    return next(iter(called), None)


def _nothing_known(found: Annotations, records: Sequence[ExportRecord]) -> UsageError:
    """One line with an example of both sides."""
    record = records[-1]
    wanted = "nothing"
    if record.samples:
        one = record.samples[0]
        wanted = repr(one.place if found.form in (*_BY_PLACE, "coco") and one.place else one.name)
    return UsageError(
        f"annotations {found.where} name no image that was exported: they name {found.pictures[0]}, the {record.form} "
        f"export of {record.coreset} {wanted}; pass the run that they are of, and keep the names that were exported"
    )


def _check_question(found: Annotations, asked: str) -> None:
    questions = dict.fromkeys(one for picture in found.pictures for answer in picture.answers for one in answer.given)
    if asked not in questions:
        if questions:
            others = _some(list(map(repr, questions)))
            raise UsageError(
                f"annotations {found.where} hold no answer to {asked!r}, but to {others}; name one with --question"
            )
        raise UsageError(f"annotations {found.where} hold no label; finish some images first")


def _decide(answers: Sequence[Answer], question: str) -> tuple[str | None, Counter[str]]:
    """The label that most annotators gave, or the one marked as ground truth; and what became of each answer."""
    outcomes = [_outcome(answer, question) for answer in answers]
    both = list(zip(answers, outcomes, strict=True))
    if any(answer.ground_truth and outcome in _WITH_LABELS for answer, outcome in both):  # which nobody outvotes
        outcomes = [
            OUTVOTED if outcome in _WITH_LABELS and not answer.ground_truth else outcome for answer, outcome in both
        ]
    given = [
        _nfc(answer.given[question][0]) for answer, outcome in zip(answers, outcomes, strict=True) if outcome == LABEL
    ]
    ranked = Counter(given).most_common(2)
    if not ranked:
        return None, Counter(outcomes)
    if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
        return None, Counter(TIED if outcome == LABEL else outcome for outcome in outcomes)
    counts = Counter(outcomes)
    counts[LABEL], counts[OUTVOTED] = ranked[0][1], counts[OUTVOTED] + len(given) - ranked[0][1]
    return ranked[0][0], +counts


def _outcome(answer: Answer, question: str) -> str:
    labels = set(map(_nfc, answer.given.get(question, ())))
    if answer.skipped:
        return SKIPPED
    if labels:
        return LABEL if len(labels) == 1 else SEVERAL
    return PARTIAL if answer.other else UNANSWERED


def _expected(records: Sequence[ExportRecord], ours: Mapping[str, Sequence[Picture]]) -> list[str]:
    """The samples that a file should hold: all of the exports that it is of.

    Where the pictures do not say which these are: those of the newest export that has all of them.
    """
    keys = {picture.export for pictures in ours.values() for picture in pictures}
    used = [record for record in records if record.key in keys]
    if not used:
        held = [(record, {one.sample_id for one in record.samples}) for record in records]
        whole = [record for record, ids in held if ids >= ours.keys()]
        used = whole[-1:] or [record for record, ids in held if ids & ours.keys()]
    return list(dict.fromkeys(one.sample_id for record in used for one in record.samples))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
