"""What a run says: a sentence when something long begins, one for what came out. The words are the stages' own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from elfs_ray.artifacts.record import TEST, Record, Records, Unit
from elfs_ray.stages import STAGES, stage_named
from elfs_ray.stages.descriptor import Case
from elfs_ray.stages.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elfs_ray.config import RunConfig
    from elfs_ray.console import Reporter
    from elfs_ray.run.graph import Planned


LOOKED_AT = ("listing", "ingest")
"""Stages that work on inputs of which it is not known yet whether they can be used."""


def opening(configs: Sequence[RunConfig], place: str, until: str) -> str:
    """The first sentence of a run, before anything is known of its input."""
    config, stages = configs[0], [stage.command for stage in STAGES]
    if until in stages[: stages.index("select")]:
        return f"Working on {config.location} up to the stage {until}, in {place}"
    methods = ", ".join(dict.fromkeys(each.select.name for each in configs))
    budgets = [
        counted(budget, "image") if isinstance(budget, int) else f"{100 * budget:g} % of the images"
        for budget in config.budgets
    ]
    return f"Selecting {' and '.join(budgets)} from {config.location} by {methods}, in {place}"


def sentence(planned: Planned, records: Records) -> str:
    """What a unit does, or would do."""
    prefix = TEST if planned.unit.prefix == TEST else ""
    listed, ingested = (records.get(Unit(stage, prefix)) for stage in ("listing", "ingest"))
    if ingested and planned.unit.stage not in LOOKED_AT:
        images = ingested.rows[ingested.unit.artifact("samples")]
    else:
        images = listed.metrics["inputs"] if listed else 0
    return planned.stage.sentence(Case(planned.config, planned.unit), images)


def result(record: Record) -> str:
    """What came out of a unit."""
    return stage_named(record.unit.stage).result(record)


def begun(reporter: Reporter, planned: Planned, records: Records) -> None:
    """Say what a unit does now, if that may take a while."""
    reporter.line("" if planned.stage.brief else sentence(planned, records), **_about(planned.unit, "begun"))


def ended(reporter: Reporter, record: Record) -> None:
    """Say what came out of a unit, and how long it took."""
    told = f"{result(record)} ({record.seconds:.1f} s)"
    reporter.line(told, **_about(record.unit, "done"), seconds=record.seconds)


def there(reporter: Reporter, record: Record, more: str = "") -> None:
    """Say what came out of a unit in an earlier run, and holds."""
    reporter.line(f"{result(record)} (there already{more})", **_about(record.unit, "there"))


def removed(reporter: Reporter, unit: Unit, why: str) -> None:
    """Say that what a unit made is gone."""
    reporter.line(f"Removed {unit}, because {why}", **_about(unit, "removed"))


def _about(unit: Unit, state: str) -> dict[str, Any]:
    """What a program may want to know beside a sentence."""
    own = {"method": unit.method, "budget": unit.budget} if unit.method else {}
    return {"state": state, "stage": unit.stage, "unit": str(unit), **own}
