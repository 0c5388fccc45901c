"""Running the stages whose result is not there yet, in the order of `steps`.

A step whose fingerprint stands in the manifest is skipped.
"""

import contextlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from importlib import import_module, metadata
from itertools import groupby
from typing import TYPE_CHECKING, Any

from elfs_ray.artifacts.run_folder import LOGS, REPORT, RunFolder
from elfs_ray.artifacts.run_lock import sole_driver
from elfs_ray.artifacts.table import Table
from elfs_ray.config import RayConfig, RunConfig
from elfs_ray.console import Reporter
from elfs_ray.data.unusable import UnusableImagesError
from elfs_ray.errors import UsageError
from elfs_ray.run.errors_seen import expected_errors
from elfs_ray.run.graph import STAGES, Step, first_steps, later_steps, with_content
from elfs_ray.run.preflight import check_before_start, check_sizes

if TYPE_CHECKING:
    from elfs_ray.data.sources import Source
    from elfs_ray.stages.stage import StageContext, StageResult
    from elfs_ray.workers.base import Workers
    from elfs_ray.workers.usage import Usage


class State(StrEnum):
    """How a piece of work stands before a run."""

    COMPLETE = "complete"
    PRESUMED = "complete, if the input holds the same as before"
    TO_DO = "to do"


_MODULES = {"beta-search": "beta_search", "cluster": "pseudo_labels", "precomputed": "embed_vectors"}
_MODULES |= {name: f"overview.{name}" for name in ("duplicates", "map", "coverage")}


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
) -> dict[str, Any]:
    """Run every stage up to `until` whose result is missing, for one or several methods; returns the manifest.

    It goes stage by stage: what methods share is done once, and all their coresets are evaluated together.

    Args:
        configs: one for each method, over the same images and with the same other options; the run folder remembers
            the last.
        store: the run folder.
        reporter: is told of the progress.
        until: last stage to run.
        verbose: whether Ray may speak.
        keep: names of options that hold for this run alone; the folder remembers its own.

    Raises:
        UsageError: the input, an option or the run folder is wrong.
        RunError: a stage failed for another cause; running again goes on where it stopped.
    """
    with expected_errors("the run", store.uri), contextlib.ExitStack() as stack:
        first = first_steps(configs[0], _check(configs, store, until))
        check_sole = stack.enter_context(sole_driver(store, reporter))
        store.recover()
        store.update_manifest(**_identity(configs[-1], store, keep))
        execution = _Execution(configs[0].ray, store, reporter, stack, verbose, check_sole)
        while not execution.run_up_to(until, configs, first):
            pass  # again, without the images that were set aside
        if until in ("evaluate", "report"):
            write_comparison(store)
        # A report that is there would go on to show the evaluations of before.
        if until == "report" or (until == "evaluate" and store.exists(REPORT)):
            write_report(store)
            reporter.line(f"report     {store.location(REPORT)}")
        store.update_manifest(finished=_now())
    return store.manifest()


def outline(configs: Sequence[RunConfig], store: RunFolder, *, until: str = "report") -> list[tuple[str, State]]:
    """What `run_methods` would do: its pieces of work in order, and how each stands. Changes nothing.

    Before the images are counted, every input stands for a usable image.

    Raises:
        UsageError: as `run_methods`, as far as it can be known without work.
    """
    source = _check(configs, store, until)
    ingested = store.record("ingest")
    as_many = ingested is not None and ingested["metrics"].get("inputs") == source.count
    num_samples = Table(store, "samples").rows if as_many else source.count
    found = first_steps(configs[0], source)

    def steps(*, presumed: bool) -> list[Step]:
        first = with_content(found, store, presumed=presumed)
        return [*first, *(step for _, step in _later(configs, first, num_samples))]

    def state(step: Step, presumed: Step) -> State:
        if store.is_complete(step.unit, step.fingerprint):
            return State.COMPLETE
        return State.PRESUMED if store.is_complete(presumed.unit, presumed.fingerprint) else State.TO_DO

    wanted = STAGES[: STAGES.index(until) + 1]
    pairs = zip(steps(presumed=False), steps(presumed=as_many), strict=True)
    return [(step.unit, state(step, presumed)) for step, presumed in pairs if step.stage in wanted]


def _check(configs: Sequence[RunConfig], store: RunFolder, until: str) -> "Source":
    """Refuse what is wrong with a stage or a method before any work; returns the input, listed once."""
    if until not in STAGES:
        raise UsageError(f"unknown stage {until!r}; the stages are {', '.join(STAGES)}")
    if until == "evaluate" and not configs[0].evaluate.labels:
        raise UsageError("the evaluation needs true labels; pass --labels")
    source = check_before_start(configs[0], store)
    for config in configs[1:]:
        check_before_start(config, store, source)
    return source


def _check_labeled(configs: Sequence[RunConfig], store: RunFolder, reporter: Reporter) -> None:
    """Refuse labels of some samples that are of none, before the long stages."""
    if configs[0].select.labeled is not None:
        from elfs_ray.stages.parts.method_inputs import check_known_labels

        check_known_labels(store, configs[0], reporter)


def _later(configs: Sequence[RunConfig], first: Sequence[Step], num_samples: int) -> list[tuple[RunConfig, Step]]:
    """The steps after the first of all methods, in the order of the stages; what they share is there once."""
    found: dict[tuple[str, str], tuple[RunConfig, Step]] = {}
    for config in configs:
        check_sizes(config, num_samples)
        for step in later_steps(config, first, num_samples):
            found.setdefault((step.unit, step.fingerprint), (config, step))
    return sorted(found.values(), key=lambda each: STAGES.index(each[1].stage))


@dataclass
class _Execution:
    """Runs steps; connects to Ray when the first step has work to do."""

    ray: RayConfig
    store: RunFolder
    reporter: Reporter
    stack: contextlib.ExitStack
    verbose: bool
    check_sole: Callable[[], None]
    _workers: "Workers | None" = None
    _running: str = ""

    def run_up_to(self, until: str, configs: Sequence[RunConfig], first: Sequence[Step]) -> bool:
        """Run all steps that are not complete; returns False if images had to be set aside on the way.

        Raises:
            UsageError: more images are unusable than the run bears.
        """
        wanted = STAGES[: STAGES.index(until) + 1]
        try:
            self.run_steps([(configs[0], step) for step in first if step.stage in wanted])
            if until != "ingest":
                _check_labeled(configs, self.store, self.reporter)
                later = _later(configs, with_content(first, self.store), Table(self.store, "samples").rows)
                self.run_steps([(config, step) for config, step in later if step.stage in wanted])
        except UnusableImagesError as found:
            self._set_aside(found, configs[0], first)
            return False
        return True

    def _set_aside(self, found: UnusableImagesError, config: RunConfig, first: Sequence[Step]) -> None:
        """Take images out of the samples that a stage could not read, and keep the embeddings of the others."""
        from elfs_ray.run.set_aside import carry_embeddings, without

        stage, store = self._running, self.store
        ingest = next(step for step in first if step.stage == "ingest" and step.prefix == found.prefix)
        work = store.sole_work_folder(ingest.unit, ingest.fingerprint)
        store.delete(work)
        record = store.manifest()["stages"][ingest.unit]
        smaller = without(store, self._connect(), work, found, record, stage, config.ingest.max_bad_fraction)
        if config.embed.vectors is None:
            before = with_content(first, store)
            after = [replace(step, content=smaller.record["content"]) if step.unit == ingest.unit else step
                     for step in before]  # fmt: skip
            num_samples = Table(store, "samples").rows
            for old, new in zip(*(later_steps(config, steps, num_samples) for steps in (before, after)), strict=True):
                if old.stage == "embed" and old.fingerprint != new.fingerprint:
                    source, target = (store.work_folder(step.unit, step.fingerprint) for step in (old, new))
                    removed = smaller.removed if old.prefix == found.prefix else smaller.removed[:0]
                    carry_embeddings(store, self._connect(), old.prefix, source, target, removed)
        self.check_sole()
        for step in first:  # labels bear the fingerprint of the input, which has not changed
            if step.stage == "labels" and step.prefix == found.prefix:
                store.forget(step.unit)
        store.publish(ingest.unit, work, smaller.artifacts, smaller.record)
        self.reporter.line(f"  set aside: {found}; it stands in `quarantine`, and the run goes on without it")

    def run_steps(self, steps: Sequence[tuple[RunConfig, Step]]) -> None:
        """Run the steps that are not complete, each as its configuration says, in order."""
        for stage, group in groupby(steps, key=lambda each: each[1].stage):
            pending = []
            for config, step in group:
                if self.store.is_complete(step.unit, step.fingerprint):
                    self.reporter.line(f"{step.unit}: complete")
                else:
                    pending.append((config, step))
            if pending:
                self._run_stage(stage, pending)

    def _run_stage(self, stage: str, steps: Sequence[tuple[RunConfig, Step]]) -> None:
        """Run and publish the steps of one stage: one by one, unless the stage can run them together."""
        workers, self._running = self._connect(), stage
        from elfs_ray.stages.stage import StageContext
        from elfs_ray.workers.usage import measured

        name = "precomputed" if stage == "embed" and steps[0][0].embed.vectors else stage
        module = import_module(f"elfs_ray.stages.{_MODULES.get(name, name)}")
        contexts = [
            StageContext(
                config,
                self.store,
                step.unit,
                self.store.sole_work_folder(step.unit, step.fingerprint),
                workers,
                self.reporter,
                step.prefix,
                step.budget,
            )
            for config, step in steps
        ]
        together = getattr(module, "run_together", None)
        results = together(contexts) if together else (module.run(context) for context in contexts)
        with contextlib.closing(results):
            for (_, step), context in zip(steps, contexts, strict=True):
                self.reporter.line(f"{step.unit} ...")
                with expected_errors(step.unit, self.store.uri):
                    started = _now()
                    with measured() as usage:
                        result = next(results)
                    self._publish(step, context, result, started, usage)

    def _publish(
        self, step: Step, context: "StageContext", result: "StageResult", started: str, usage: "Usage"
    ) -> None:
        """Bring the artifacts of a step to their place, with a record of it."""
        tables = {name: folder for name, folder in result.artifacts.items() if not name.startswith(LOGS)}
        rows = {name: Table(self.store, f"{context.work}/{folder}").rows for name, folder in tables.items()}
        record = {
            "stage": step.stage,
            "fingerprint": step.fingerprint,
            "content": result.content or step.fingerprint,
            "upstream": list(step.upstream),
            "chosen": result.chosen,
            "rows": rows,
            "started": started,
            "seconds": round(usage.seconds, 2),
            "peak_memory_mb": usage.peak_memory_mb,
            "metrics": result.metrics,
        }
        self.check_sole()
        self.store.publish(step.unit, context.work, result.artifacts, record)
        counts = ", ".join(f"{count:,} {name}" for name, count in rows.items())
        self.reporter.line(f"{step.unit}: {counts} in {usage.seconds:.1f} s")

    def _connect(self) -> "Workers":
        if self._workers is None:
            from elfs_ray.workers.hardware import hardware_summary
            from elfs_ray.workers.on_ray.session import ray_session

            self._workers = self.stack.enter_context(ray_session(self.ray, verbose=self.verbose))
            self.store.update_manifest(hardware=hardware_summary(self._workers.hardware), versions=_versions())
        return self._workers


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
