"""What a run would do, before it does anything."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from elfs_ray.artifacts.record import Records, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config import RunConfig
from elfs_ray.data.sources import Source, open_input
from elfs_ray.run import told
from elfs_ray.run.graph import FIRST, Planned, all_units, first_units, stage_of
from elfs_ray.run.preflight import check_before_start
from elfs_ray.stages.parts.listed import location_of, prefixes_of


class State(StrEnum):
    """How a unit stands before a run."""

    COMPLETE = "there already"
    PRESUMED = "there already, if the input holds the same as before"
    TO_DO = "to do"


class Step(NamedTuple):
    """A piece of work of a run.

    Attributes:
        doing: what it does, as a run says it.
    """

    unit: Unit
    doing: str
    state: State


def outline(configs: Sequence[RunConfig], store: RunFolder, *, until: str = "report") -> list[Step]:
    """What a run would do: its units in order, and how each stands. Changes nothing.

    Before the images are counted, every input stands for a usable image.

    Raises:
        UsageError: as a run, as far as it can be known without work.
    """
    config = configs[0]

    def list_inputs() -> dict[str, Source]:
        return {prefix: open_input(config, location_of(config, prefix)) for prefix in prefixes_of(config)}

    inputs = check_before_start(configs, store, until, list_inputs)
    records, last = store.records(), stage_of(until)
    ingested, count = records.get(Unit("ingest")), inputs[""].count
    as_many = ingested is not None and ingested.metrics.get("inputs") == count
    num_samples = ingested.rows["samples"] if ingested and as_many else count
    looked = {prefix: source.about.identity() for prefix, source in inputs.items()}

    def planned(*, presumed: bool) -> list[Planned]:
        if last in FIRST:
            first = first_units(config, records, looked=looked, presumed=presumed)
            return [each for each in first if FIRST.index(each.unit.stage) <= FIRST.index(last)]
        return all_units(configs, records, num_samples, until=last, looked=looked, presumed=presumed)

    def state(now: Planned, presumed: Planned) -> State:
        record = records.current.get(now.unit)
        if now.unit.stage == "listing" and record and record.content != looked[now.unit.prefix]:
            return State.TO_DO
        if store.is_complete(record, now.fingerprint):
            return State.COMPLETE
        if now.unit.stage in FIRST:
            return State.TO_DO
        return State.PRESUMED if store.is_complete(record, presumed.fingerprint) else State.TO_DO

    pairs = zip(planned(presumed=False), planned(presumed=as_many), strict=True)
    known = records if as_many else Records({})
    return [Step(now.unit, told.sentence(now, known), state(now, presumed)) for now, presumed in pairs]
