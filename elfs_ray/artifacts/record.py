"""Units of work, and what the manifest says of those that are finished.

A record names what its unit rests on together with the content that this had. Where the content is another one now, or
gone, the unit is *stale*: its artifacts are of something that is no longer there. That follows from the records alone,
so that whoever shows results (status, report, comparison, export) can leave out the stale ones without knowing how to
redo them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

TEST, SUPERVISED = "test", "supervised"
PREFIXES = (TEST, SUPERVISED)


@dataclass(frozen=True, order=True)
class Unit:
    """One piece of work: a stage, for some images, and for some method and budget where it runs once for each.

    Attributes:
        stage: name of the stage.
        prefix: `test` for the separate test images, `supervised` for a baseline that sees labels, else empty.
        method: as `SelectConfig.name`; empty where the stage does not depend on it.
        budget: images to select; 0 where the stage does not depend on it.
    """

    stage: str
    prefix: str = ""
    method: str = ""
    budget: int = 0

    def __str__(self) -> str:
        """As in the manifest, in logs and in the names of folders: `embed`, `test/embed`, `select/elfs/5000`."""
        return self.artifact(self.stage)

    def artifact(self, name: str) -> str:
        """Name, below the run folder, of an artifact of this unit, or of another for the same images and budget."""
        own = [self.method, str(self.budget)] if self.method else []
        return "/".join([*([self.prefix] if self.prefix else []), name, *own])

    @property
    def coreset(self) -> str:
        """METHOD/BUDGET."""
        return f"{self.method}/{self.budget}"

    @classmethod
    def parse(cls, text: str) -> "Unit":
        """The unit that `str` gives this text for.

        Raises:
            ValueError: none does.
        """
        prefix, _, rest = text.partition("/")
        if prefix not in PREFIXES:
            prefix, rest = "", text
        stage, *own = rest.split("/")
        found = cls(stage, prefix, own[0], int(own[1])) if len(own) == 2 else cls(stage, prefix)
        if str(found) != text:
            raise ValueError(f"{text!r} names no unit of work")
        return found


@dataclass(frozen=True)
class Record:
    """What the manifest says of a finished unit.

    Attributes:
        unit: the piece of work.
        version: of its stage.
        fingerprint: of the stage's version, the options that decide its result, and what it rests on.
        content: changes when what it made does, for all that later units read of it.
        rests_on: units, as text -> the content that they had.
        artifacts: names below the run folder.
        chosen: the options used, each `auto` resolved.
        rows: artifact -> its rows.
        started: time in UTC.
        seconds: wall-clock time.
        peak_memory_mb: as this machine saw it.
        metrics: numbers for people, and facts for later units.
    """

    unit: Unit
    version: int
    fingerprint: str
    content: str
    rests_on: dict[str, str] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()
    chosen: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0
    peak_memory_mb: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "unit": str(self.unit), "artifacts": list(self.artifacts)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Record":
        """What `as_json` gave."""
        return cls(**{**values, "unit": Unit.parse(values["unit"]), "artifacts": tuple(values["artifacts"])})


class Records(Mapping[Unit, Record]):
    """The records of a run folder, or those of them that are current."""

    def __init__(self, records: Mapping[Unit, Record]) -> None:
        self._records = dict(records)

    @classmethod
    def from_json(cls, values: Mapping[str, Mapping[str, Any]]) -> "Records":
        """Those of a manifest."""
        records = map(Record.from_json, values.values())
        return cls({record.unit: record for record in records})

    def __getitem__(self, unit: Unit) -> Record:
        return self._records[unit]

    def __iter__(self) -> Iterator[Unit]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    @cached_property
    def stale(self) -> dict[Unit, str]:
        """The units that rest on something that has changed or is gone -> why, for a person."""
        found: dict[Unit, str] = {}
        judged: set[Unit] = set()

        def judge(unit: Unit) -> None:
            if unit in judged:
                return
            judged.add(unit)
            for name, content in self[unit].rests_on.items():
                below = Unit.parse(name)
                if below in self:
                    judge(below)
                if below not in self:
                    found[unit] = f"{name} is gone"
                elif self[below].content != content:
                    found[unit] = f"{name} has changed"
                elif below in found:
                    found[unit] = found[below]
                if unit in found:
                    return

        for unit in self:
            judge(unit)
        return found

    @cached_property
    def current(self) -> "Records":
        """Those that are not stale."""
        return Records({unit: record for unit, record in self.items() if unit not in self.stale})

    def of(self, stage: str, prefix: str = "") -> dict[Unit, Record]:
        """The records of a stage, in the order in which they were finished."""
        return {unit: record for unit, record in self.items() if (unit.stage, unit.prefix) == (stage, prefix)}

    def beside(self, unit: Unit, stage: str) -> Record | None:
        """The record of another stage for the same images, method and budget."""
        return self.get(Unit(stage, unit.prefix, unit.method, unit.budget))
