"""Running the units of work whose result is not there yet, in the order of `graph`.

A unit is skipped if its record is current: its fingerprint is that of now, and what it rests on has not changed since.
"""

import contextlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module, metadata
from itertools import groupby
from typing import TYPE_CHECKING, Any

from elfs_ray.artifacts.manifest import REPORT
from elfs_ray.artifacts.mapped import remove_arrays
from elfs_ray.artifacts.pixels import remove_stale_pixels
from elfs_ray.artifacts.record import Record, Records, Unit
from elfs_ray.artifacts.run_folder import LOGS, RunFolder
from elfs_ray.artifacts.run_lock import sole_driver
from elfs_ray.artifacts.table import Table
from elfs_ray.config import RunConfig
from elfs_ray.console import Reporter
from elfs_ray.core.pruning import budget_count
from elfs_ray.data.unusable import UnusableImagesError
from elfs_ray.run import told
from elfs_ray.run.errors_seen import expected_errors
from elfs_ray.run.graph import FIRST, REPORT_COMMAND, Planned, all_units, first_units, stage_of
from elfs_ray.run.preflight import check_before_start, check_inputs, check_test_set
from elfs_ray.run.where import IN_PROCESS, ON_RAY, check_where, workers_of, works_on_ray
from elfs_ray.stages.parts.listed import listed_source, prefixes_of, small_inputs

SHOWN = ("evaluate", "duplicates", "map", "coverage")
"""Stages whose results are for a reader of the report."""

if TYPE_CHECKING:
    from elfs_ray.data.sources import Source
    from elfs_ray.stages.context import StageContext, StageResult
    from elfs_ray.workers.base import Workers
    from elfs_ray.workers.usage import Usage


def run(
    config: RunConfig, store: RunFolder, reporter: Reporter, *, until: str = "report", verbose: bool = False
) -> dict[str, Any]:
    """`run_methods` for one method."""
    return run_methods([config], store, reporter, until=until, verbose=verbose)


def run_methods(
    configs: Sequence[RunConfig],
    store: RunFolder,
    reporter: Reporter,
    *,
    until: str = "report",
    verbose: bool = False,
    keep: Sequence[str] = (),
    look_again: bool = True,
) -> dict[str, Any]:
    """Run every stage up to `until` whose result is missing, for one or several methods; returns the manifest.

    It goes stage by stage: what methods share is done once, and all their coresets are evaluated together.

    Args:
        configs: one for each method, over the same images and with the same other options; the run folder remembers
            the last.
        store: the run folder.
        reporter: is told of the progress.
        until: last stage to run, as on the command line.
        verbose: whether Ray may speak.
        keep: names of options that hold for this run alone; the folder remembers its own.
        look_again: whether to look if the inputs have changed since the run folder listed them.

    Raises:
        UsageError: the input, an option or the run folder is wrong.
        RunError: a stage failed for another cause; running again goes on where it stopped.
    """

    def list_inputs() -> "Mapping[str, Source]":
        nonlocal look_again
        records = store.records()
        look_again = look_again or Unit("listing") not in records
        return small_inputs(configs[0], records) if look_again else {}

    with expected_errors("the run", store.uri), contextlib.ExitStack() as stack:
        check_where(configs)
        small = check_before_start(configs, store, until, list_inputs)
        check_sole = stack.enter_context(sole_driver(store, reporter))
        store.recover()
        store.update_manifest(**_identity(configs[-1], store, keep))
        execution = _Execution(configs, look_again, small, store, reporter, stack, verbose, check_sole)
        while not execution.run_up_to(stage_of(until)):
            pass  # again, without the images that were set aside
        if until not in FIRST:
            execution.put_away_stale()
        if until in ("evaluate", REPORT_COMMAND):
            write_comparison(store)
        # A report that is there would go on to show the evaluations of before, or none of what was made for it alone.
        if until == REPORT_COMMAND or (until in SHOWN and store.exists(REPORT)):
            write_report(store)
            reporter.line("Wrote the report", state="done", stage=REPORT_COMMAND)
        execution.clean_up()
        store.update_manifest(finished=_now())
    return store.manifest()


@dataclass
class _Execution:
    """Runs units; connects to Ray when the first one has work to do.

    Attributes:
        look_again: whether the inputs may have changed since they were listed.
        small: inputs that were listed in memory before anything began, by prefix.
    """

    configs: Sequence[RunConfig]
    look_again: bool
    small: "Mapping[str, Source]"
    store: RunFolder
    reporter: Reporter
    stack: contextlib.ExitStack
    verbose: bool
    check_sole: Callable[[], None]
    _workers: "Workers | None" = None
    _running: str = ""
    _looked: bool = False

    def run_up_to(self, last: str) -> bool:
        """Run all units that are not complete; returns False if images had to be set aside on the way.

        Args:
            last: name of the last stage; empty: all.

        Raises:
            UsageError: more images are unusable than the run bears.
        """
        try:
            # One by one: what they give has content that the next one rests on.
            for name in FIRST[: FIRST.index(last) + 1] if last in FIRST else FIRST:
                for unit in (Unit(name, prefix) for prefix in prefixes_of(self.configs[0])):
                    first = first_units(self.configs[0], self.store.records())
                    self._run_stage([planned for planned in first if planned.unit == unit])
                if name == "listing":
                    self._looked = True
                    self._check_listed()
            if last not in FIRST:
                later = [planned for planned in self._plan(last) if planned.unit.stage not in FIRST]
                self._check_labels(later)
                for _, group in groupby(later, key=lambda planned: planned.unit.stage):
                    self._run_stage(list(group))
        except UnusableImagesError as found:
            self._set_aside(found)
            return False
        return True

    def put_away_stale(self) -> None:
        """Remove units that rest on what has changed and that no stage of this run would do again; say so of each."""
        stale = self.store.records().stale
        if not stale:
            return
        kept = {planned.unit for planned in self._plan("")}
        for unit, why in stale.items():
            if unit not in kept:
                self.check_sole()
                self.store.remove(unit)
                told.removed(self.reporter, unit, why)

    def _plan(self, last: str) -> list[Planned]:
        records = self.store.records()
        num_samples = records[Unit("ingest")].rows["samples"]
        return all_units(self.configs, records, num_samples, until=last)

    def _check_listed(self) -> None:
        """Before images are read: refuse what does not fit inputs that were too large to check before the start."""
        config, records = self.configs[0], self.store.records()
        prefixes = prefixes_of(config)
        first = [planned for planned in first_units(config, records) if planned.unit.stage != "listing"]
        pending = any(not self.store.is_complete(records.current.get(each.unit), each.fingerprint) for each in first)
        if pending and set(self.small) != set(prefixes):
            listed = {prefix: listed_source(self.store, config, prefix) for prefix in prefixes}
            for each in self.configs:
                self._connect().call(check_inputs, each, listed, here=True)

    def _check_labels(self, planned: Sequence[Planned]) -> None:
        """Refuse budgets that labels do not fit, before the long stages."""
        from elfs_ray.methods import check_labeled

        records = self.store.records()
        num_samples, labeled = records[Unit("ingest")].rows["samples"], records.get(Unit("labeled"))
        for each in planned:
            if each.unit.stage == "evaluate":
                check_test_set(each.config, num_samples, records[Unit("labels")].metrics["labelled"])
        if labeled is None or self.configs[0].select.labeled is None:
            return
        for budget in self.configs[0].budgets:
            check_labeled(labeled.metrics["labelled"], budget_count(budget, num_samples))

    def _set_aside(self, found: UnusableImagesError) -> None:
        """Take images out of the samples that a stage could not read, and keep the embeddings of the others."""
        from elfs_ray.run.set_aside import carry_embeddings, without

        config, store, records = self.configs[0], self.store, self.store.records()
        [ingest] = [planned for planned in first_units(config, records)
                    if planned.unit == Unit("ingest", found.prefix)]  # fmt: skip
        work = store.sole_work_folder(ingest.unit, ingest.fingerprint)
        store.delete(work)
        smaller = without(
            store, self._connect(), work, found, records[ingest.unit], self._running, config.ingest.max_bad_fraction
        )
        if config.embed.vectors is None:
            after = Records({**records, ingest.unit: smaller.record})
            for old, new in zip(*(self._embed_units(each) for each in (records, after)), strict=True):
                if old.fingerprint != new.fingerprint:
                    source, target = (store.work_folder(each.unit, each.fingerprint) for each in (old, new))
                    removed = smaller.removed if old.unit.prefix == found.prefix else smaller.removed[:0]
                    carry_embeddings(store, self._connect(), old.unit, records.get(old.unit), source, target, removed)
        self.check_sole()
        store.publish(work, smaller.record, smaller.folders)
        self.reporter.line(f"  set aside: {found}; it stands in `quarantine`, and the run goes on without it")

    def _embed_units(self, records: Records) -> list[Planned]:
        num_samples = records[Unit("ingest")].rows["samples"]
        planned = all_units(self.configs[:1], records, num_samples, until="embed")
        return [each for each in planned if each.unit.stage == "embed"]

    def _run_stage(self, planned: Sequence[Planned]) -> None:
        """Run and publish the units of one stage that are not complete: one by one, or together if it can that."""
        pending, current = [], self.store.records().current
        for each in planned:
            record = current.get(each.unit)
            if self.store.is_complete(record, each.fingerprint) and self._is_as_listed(record):
                told.there(self.reporter, current[each.unit], self._as_of(record))
            else:
                pending.append(each)
        if not pending:
            return
        workers, stage = self._connect(), pending[0].stage
        self._running = stage.name
        from elfs_ray.stages.context import StageContext
        from elfs_ray.workers.usage import measured

        module = import_module(stage.module if isinstance(stage.module, str) else stage.module(pending[0].config))
        contexts = [
            StageContext(
                each.config,
                self.store,
                each.unit,
                self.store.sole_work_folder(each.unit, each.fingerprint),
                workers,
                self.reporter,
                current,
                stage.version,
                each.fingerprint,
            )
            for each in pending
        ]
        together = getattr(module, "run_together", None)
        # One by one, each sees what the ones before it left.
        one_by_one = (module.run(replace(each, records=self.store.records().current)) for each in contexts)
        results = together(contexts) if together else one_by_one
        with contextlib.closing(results):
            for each, context in zip(pending, contexts, strict=True):
                told.begun(self.reporter, each, current)
                with expected_errors(str(each.unit), self.store.uri):
                    started = _now()
                    with measured() as usage:
                        result = next(results)
                    if result is None:
                        self.store.delete(context.work)
                        told.there(self.reporter, current[each.unit])
                        continue
                    self._publish(each, context, result, started, usage)

    def _as_of(self, record: Record | None) -> str:
        """When an input was listed that nobody looks at now, though it may have changed."""
        if record is None or record.unit.stage != "listing" or self.look_again:
            return ""
        return f", as of {record.started}; `elfs-ray listing {self.store.uri}` looks again"

    def _is_as_listed(self, record: Record | None) -> bool:
        """Whether an input is known to hold what the run folder lists, or is not asked; so of all other units."""
        if record is None or record.unit.stage != "listing" or not self.look_again or self._looked:
            return True
        small = self.small.get(record.unit.prefix)
        return small is not None and small.about.identity() == record.content

    def _publish(
        self, planned: Planned, context: "StageContext", result: "StageResult", started: str, usage: "Usage"
    ) -> None:
        """Bring the artifacts of a unit to their place, with a record of it."""
        unit, work = planned.unit, context.work
        folders = {unit.artifact(name): name for name in planned.stage.outputs}
        rows = {
            artifact: Table(self.store, f"{work}/{name}").rows
            for artifact, name in folders.items()
            if not name.startswith(LOGS)
        }
        record = Record(
            unit=unit,
            version=planned.stage.version,
            fingerprint=planned.fingerprint,
            content=result.content or planned.fingerprint,
            rests_on={**planned.rests_on, **context.used_if_current},
            artifacts=tuple(sorted(folders)),
            chosen=result.chosen,
            rows=rows,
            started=started,
            seconds=round(usage.seconds, 2),
            peak_memory_mb=usage.peak_memory_mb,
            metrics=result.metrics,
        )
        self.check_sole()
        self.store.publish(work, record, folders)
        told.ended(self.reporter, record)

    def clean_up(self) -> None:
        """Remove pixels of earlier images, and the arrays that the processes of each machine shared."""
        remove_stale_pixels(self.store)
        remove_arrays(self.store.uri)
        if self._workers is not None:
            self._workers.on_each_machine(remove_arrays, self.store.uri)

    def _connect(self) -> "Workers":
        if self._workers is None:
            from elfs_ray.workers.hardware import hardware_summary

            on_ray = works_on_ray(self.configs, self._count())
            workers = workers_of(self.configs[0].ray, on_ray=on_ray, verbose=self.verbose)
            self._workers = self.stack.enter_context(workers)
            hardware = hardware_summary(self._workers.hardware, ON_RAY if on_ray else IN_PROCESS)
            self.store.update_manifest(hardware=hardware, versions=_versions())
        return self._workers

    def _count(self) -> int | None:
        """Images of all inputs, as they were looked at or listed; None if one is not known."""
        records, total = self.store.records(), 0
        for prefix in prefixes_of(self.configs[0]):
            listed = records.get(Unit("listing", prefix))
            if prefix in self.small:
                total += self.small[prefix].count
            elif listed is not None and not self.look_again:
                total += listed.metrics["inputs"]
            else:
                return None
        return total


def write_comparison(store: RunFolder) -> None:
    """Write the comparison of all evaluations that the run folder holds, if it holds any."""
    from elfs_ray.report.comparison import write_comparison as write

    write(store)


def write_report(store: RunFolder) -> str:
    """Write `report.html` from what the run folder holds; returns its path."""
    from elfs_ray.report.render import write_report as write

    return write(store)


def _identity(config: RunConfig, store: RunFolder, keep: Sequence[str]) -> dict[str, Any]:
    manifest = store.manifest()
    kept = {name: value for name, value in manifest.get("config", {}).items() if name in keep}
    return {
        "name": config.name or store.path().rsplit("/", 1)[-1],
        "input": config.location,
        "created": manifest.get("created", _now()),
        "finished": None,
        "config": {**config.model_dump(mode="json"), **kept},
    }


def _versions() -> dict[str, str]:
    names = ("elfs-ray", "ray", "torch", "torchvision", "timm", "open_clip_torch", "numpy", "pyarrow", "scikit-learn")
    versions = {"python": platform.python_version()}
    for name in (*names, "faiss-gpu", "faiss-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
