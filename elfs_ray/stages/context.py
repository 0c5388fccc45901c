"""What every stage is given and what it gives back. Stages meet only through the artifacts in the run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.record import TEST, Records, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.config import RunConfig, Section
from elfs_ray.console import Reporter
from elfs_ray.core.seeds import derived_seed
from elfs_ray.stages import maker_of
from elfs_ray.workers.base import Workers
from elfs_ray.workers.hardware import Hardware
from elfs_ray.workers.progress import Counter, showing

CHOSEN = "chosen.json"
SectionT = TypeVar("SectionT", bound=Section)


@dataclass(frozen=True)
class StageContext:
    """Everything that a stage may use.

    Attributes:
        unit: the piece of work.
        work: its work folder, below the run folder; what is finished there survives a kill.
        workers: who does the work.
        records: of what was finished before (of stages whose units run together: before the first), but what is stale.
        version: of the stage.
        fingerprint: of the unit.
        used_if_current: units, as text -> the content they had when `if_current` said so.
    """

    config: RunConfig
    store: RunFolder
    unit: Unit
    work: str
    workers: Workers
    reporter: Reporter
    records: Records = field(default_factory=lambda: Records({}))
    version: int = 0
    fingerprint: str = ""
    used_if_current: dict[str, str] = field(default_factory=dict)

    @property
    def hardware(self) -> Hardware:
        """What the workers compute on."""
        return self.workers.hardware

    @property
    def of_test_images(self) -> bool:
        """Whether this unit works on the separate test images."""
        return self.unit.prefix == TEST

    def table(self, name: str) -> Table:
        """An artifact of the images this unit works on."""
        return Table(self.store, f"{TEST}/{name}" if self.of_test_images else name)

    def if_current(self, artifact: str) -> bool:
        """Whether an artifact of the candidates that this unit can do without is there, and not stale.

        It may be read then, and the record of this unit will say that it rests on it.
        """
        maker = Unit(maker_of(artifact).name)
        if maker not in self.records:
            return False
        self.used_if_current[str(maker)] = self.records[maker].content
        return True

    @property
    def embeddings(self) -> Embeddings:
        """Those of the candidates."""
        return Embeddings(self.store)

    def write(self, name: str, table: pa.Table, layout: pa.Schema) -> None:
        """Write one of the stage's outputs, in one part."""
        write_table(self.store, f"{self.work}/{name}", table, layout)

    def seed(self, *keys: int, unit: str | None = None) -> int:
        """A 63-bit seed of its own for this unit (and keys, such as an epoch), derived from the run's seed."""
        return derived_seed(self.config.seed, unit or str(self.unit), *keys)

    def as_begun(self, options: SectionT) -> SectionT:
        """Options of which those that decide results are what they were when this unit began, on whatever machine.

        For stages whose results from before an interruption stand beside those from after it: each says with `begin`
        what it goes by.
        """
        if self.store.exists(self.work, CHOSEN):
            began = self.store.read_json(self.work, CHOSEN)
            return options.model_copy(update={name: began[name] for name in options.identity()})
        return options

    def begin(self, options: Section) -> None:
        """Keep the options for whoever goes on with this unit."""
        self.store.write_json(options.model_dump(mode="json"), self.work, CHOSEN)

    @contextmanager
    def counting(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Counter]:
        """Show progress that any process can advance."""
        counter = self.workers.counter(done)
        with self.reporter.meter(title, total, unit, done) as meter, showing(counter, meter):
            yield counter


@dataclass(frozen=True)
class StageResult:
    """What the manifest shall say of what a stage made: its outputs, each in the work folder's folder of its name.

    Attributes:
        chosen: the options used, with each `auto` resolved.
        metrics: numbers for the manifest and the report.
        content: changes when what it made does, for all that later stages read of it; None: not known, so that its
            options and inputs stand for it.
    """

    chosen: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    content: str | None = None
