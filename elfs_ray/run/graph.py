"""Which units of work a run has, in which order, and what each rests on. All of it follows from the stages' entries.

A unit has a fingerprint over its stage's version, its own options, and the content of all that it rests on. Content is
what a stage says of what it gave (`StageResult.content`): inputs that were only copied anew cost no more than reading
them again. Where a stage says nothing, its fingerprint stands for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from elfs_ray import stages
from elfs_ray.artifacts.record import Records, Unit
from elfs_ray.config import RunConfig, fingerprint
from elfs_ray.core.pruning import budget_count
from elfs_ray.run.preflight import check_sizes
from elfs_ray.stages.descriptor import Case, Scope, Stage
from elfs_ray.stages.parts.listed import prefixes_of

FIRST = ("listing", "ingest", "labels", "labeled")
"""Stages that run before the images are counted; what they give has content of its own."""

REPORT_COMMAND = "report"
"""What comes after the last stage, on the command line."""


def stage_of(command: str) -> str:
    """Name of the stage with this command; empty for the report, which needs all of them."""
    return "" if command == REPORT_COMMAND else next(each.name for each in stages.STAGES if each.command == command)


@dataclass(frozen=True)
class Planned:
    """A unit of work as a run would do it now.

    Attributes:
        config: of the method that it is for; of any where methods share it.
        fingerprint: of its stage's version, its options and `rests_on`.
        rests_on: units, as text -> their content, or their fingerprint where they have yet to run.
    """

    unit: Unit
    stage: Stage
    config: RunConfig
    fingerprint: str
    rests_on: dict[str, str]


def first_units(
    config: RunConfig, records: Records, *, looked: Mapping[str, str] | None = None, presumed: bool = False
) -> list[Planned]:
    """The units that are known before the images are counted.

    Args:
        config: of the run.
        records: of what is finished.
        looked: prefix -> content of an input that was looked at again; of others, the record of the listing tells.
        presumed: as if inputs that look new held what they held when they were last read.
    """
    graph = _Graph(records, looked or {}, presumed=presumed)
    for stage in map(stages.stage_named, FIRST):
        if stage.wanted(config, graph.made):
            for unit in _units_of(stage, config, 0):
                graph.plan(unit, config)
    return graph.ordered()


def all_units(
    configs: Sequence[RunConfig],
    records: Records,
    num_samples: int,
    *,
    until: str = "",
    looked: Mapping[str, str] | None = None,
    presumed: bool = False,
) -> list[Planned]:
    """The units of all methods in the order of the stages; what methods share is there once.

    Args:
        configs: one for each method.
        records: of what is finished.
        num_samples: usable images.
        until: name of the last stage, which is wanted whatever the methods need; empty: of all stages.
        looked: as for `first_units`.
        presumed: the same.

    Raises:
        UsageError: sizes that do not fit the number of images.
    """
    graph = _Graph(records, looked or {}, presumed=presumed)
    for stage in stages.STAGES:
        for config in configs:
            if stage.wanted(config, graph.made):
                for unit in _units_of(stage, config, num_samples):
                    graph.plan(unit, config)
        if stage.name == until and stage.scope is not Scope.PER_BUDGET:
            graph.plan_one(stage, configs[0])
    for config in configs:
        check_sizes(config, num_samples, graph.made)
    order = [stage.name for stage in stages.STAGES]
    last = order.index(until) if until else len(order)
    return [planned for planned in graph.ordered() if order.index(planned.unit.stage) <= last]


def _units_of(stage: Stage, config: RunConfig, num_samples: int) -> list[Unit]:
    """What a stage has to do for a method."""
    if stage.scope is Scope.PER_BUDGET:
        counts = dict.fromkeys(budget_count(budget, num_samples) for budget in config.budgets)
        return [Unit(stage.name, method=config.select.name, budget=count) for count in counts]
    return [Unit(stage.name, prefix) for prefix in (prefixes_of(config) if stage.scope is Scope.PER_INPUT else ("",))]


@dataclass
class _Graph:
    """Plans units together with all that they rest on.

    Attributes:
        made: names of the artifacts that planned units make, without prefix, method and budget.
    """

    records: Records
    looked: Mapping[str, str]
    presumed: bool
    made: set[str] = field(default_factory=set)
    _planned: dict[Unit, Planned] = field(default_factory=dict)

    def plan(self, unit: Unit, config: RunConfig) -> Planned:
        """A unit, planned with what it rests on, once."""
        if unit not in self._planned:
            stage, case = stages.stage_named(unit.stage), Case(config, unit)
            below = [self.plan(self._maker(name, unit), config) for name in stage.inputs(case)]
            rests_on = {str(each.unit): self._content(each) for each in below}
            key = fingerprint(stage.name, stage.version, stage.options(case), rests_on)
            self._planned[unit] = Planned(unit, stage, config, key, rests_on)
            self.made.update(stage.outputs)
        return self._planned[unit]

    def plan_one(self, stage: Stage, config: RunConfig) -> None:
        """A unit of a stage, where none is planned yet."""
        if not any(unit.stage == stage.name for unit in self._planned):
            self.plan(Unit(stage.name), config)

    def ordered(self) -> list[Planned]:
        """All that was planned, in the order of the stages."""
        order = {stage.name: number for number, stage in enumerate(stages.STAGES)}
        return sorted(self._planned.values(), key=lambda planned: order[planned.unit.stage])

    def _content(self, planned: Planned) -> str:
        """What stands for the content of a unit where others rest on it."""
        record = self.records.get(planned.unit)
        if record is not None and self.presumed and planned.unit.stage in FIRST:
            return record.content
        if planned.unit.stage == "listing" and planned.unit.prefix in self.looked:
            return self.looked[planned.unit.prefix]
        if record is not None and record.fingerprint == planned.fingerprint:
            return record.content
        return planned.fingerprint

    @staticmethod
    def _maker(artifact: str, reader: Unit) -> Unit:
        """The unit that makes an artifact which another one reads."""
        prefix, _, name = artifact.rpartition("/")
        stage = stages.maker_of(name)
        if stage.scope is Scope.PER_BUDGET:
            return Unit(stage.name, prefix, reader.method, reader.budget)
        return Unit(stage.name, prefix)
