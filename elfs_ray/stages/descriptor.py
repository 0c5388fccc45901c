"""What a stage says of itself: all that ordering, running, planning and showing it need."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elfs_ray.artifacts.record import Record, Unit
    from elfs_ray.config import RunConfig
    from elfs_ray.planning.cost import Cost, Rates, Work


class Scope(Enum):
    """How often a stage runs."""

    ONCE = "once"
    PER_INPUT = "for the candidates, and for separate test images"
    PER_BUDGET = "for each method and budget"


@dataclass(frozen=True)
class Case:
    """A unit of work in a run.

    Attributes:
        config: of the run.
        unit: the piece of work.
    """

    config: RunConfig
    unit: Unit


def on_demand(config: RunConfig, made: Set[str]) -> bool:  # noqa: ARG001
    """Only where something else reads what it makes, or where it is asked for by name."""
    return False


def always(config: RunConfig, made: Set[str]) -> bool:  # noqa: ARG001
    """In each run."""
    return True


@dataclass(frozen=True)
class Stage:
    """A kind of work.

    Attributes:
        name: in records and artifacts; on the command line with hyphens.
        version: raised when the stage gives other results than before for the same options.
        summary: what it does, a sentence for the command line.
        module: with its `run(context)`, or `run_together(contexts)`.
        outputs: the artifacts it makes, of its work folder's folders of the same name.
        inputs: the artifacts it reads, by name below the run folder without method and budget; what else it may read,
            `StageContext.if_current` gives.
        options: plain values that decide its result, beside its inputs.
        cost: what it takes.
        scope: how often it runs.
        wanted: whether a run needs it for its own sake, given the names of all that the run makes otherwise.
        doing: a sentence on what a unit does, given the number of images (0: not known yet).
        told: a sentence on what came out.
        brief: whether it ends in a moment, so that a run says nothing when it begins.
    """

    name: str
    version: int
    summary: str
    module: str | Callable[[RunConfig], str]
    outputs: tuple[str, ...]
    inputs: Callable[[Case], tuple[str, ...]]
    options: Callable[[Case], Any]
    cost: Callable[[Work, Rates], Cost]
    scope: Scope = Scope.ONCE
    wanted: Callable[[RunConfig, Set[str]], bool] = on_demand
    doing: Callable[[Case, int], str] | None = None
    told: Callable[[Record], str] | None = None
    brief: bool = False

    @property
    def command(self) -> str:
        """Its name on the command line."""
        return self.name.replace("_", "-")

    def sentence(self, case: Case, images: int) -> str:
        """What a unit does."""
        return self.doing(case, images) if self.doing else self.summary.rstrip(".")

    def result(self, record: Record) -> str:
        """What came out of a unit."""
        if self.told:
            return self.told(record)
        rows = ", ".join(f"{count:,} {name}" for name, count in record.rows.items())
        return f"{self.summary.rstrip('.')}: {rows}"
