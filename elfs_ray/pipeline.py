"""Running the stages whose result is not there yet, in the order of `steps`.

A step whose fingerprint stands in the manifest is skipped.
"""

import contextlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from elfs_ray.checks import check_before_start, check_sizes
from elfs_ray.config import RunConfig
from elfs_ray.console import Reporter
from elfs_ray.errors import UsageError
from elfs_ray.failures import expected_errors
from elfs_ray.sole_driver import sole_driver
from elfs_ray.steps import STAGES, Step, first_steps, later_steps, with_content
from elfs_ray.store import LOGS, Store

if TYPE_CHECKING:
    from elfs_ray.engine.session import Hardware


class State(StrEnum):
    """How a piece of work stands before a run."""

    COMPLETE = "complete"
    PRESUMED = "complete, if the input holds the same as before"
    TO_DO = "to do"


_MODULES = {"beta-search": "beta_search", "select": "selection"}


def run(
    config: RunConfig,
    store: Store,
    reporter: Reporter,
    *,
    until: str = "report",
    verbose: bool = False,
    keep: Sequence[str] = (),
) -> dict[str, Any]:
    """Run every stage up to `until` whose result is missing; returns the manifest.

    Args:
        config: of the run; the run folder remembers it.
        store: the run folder.
        reporter: is told of the progress.
        until: last stage to run.
        verbose: whether Ray may speak.
        keep: names of options that hold for this run alone; the folder remembers its own.

    Raises:
        UsageError: the input, an option or the run folder is wrong.
        RunError: a stage failed for another cause; running again goes on where it stopped.
    """
    _check_stage(config, until)
    with expected_errors("the run", store.uri, verbose=verbose), contextlib.ExitStack() as stack:
        first = first_steps(config, check_before_start(config, store))
        check_sole = stack.enter_context(sole_driver(store, reporter))
        store.recover()
        store.update_manifest(**_identity(config, store, keep))
        execution = _Execution(config, store, reporter, stack, verbose, check_sole)
        wanted = STAGES[: STAGES.index(until) + 1]
        execution.run_steps([step for step in first if step.stage in wanted])
        if until != "ingest":
            first = with_content(first, store)
            num_samples = store.count_rows("samples")
            check_sizes(config, num_samples)
            execution.run_steps([step for step in later_steps(config, first, num_samples) if step.stage in wanted])
        if until in ("evaluate", "report"):
            write_comparison(store)
        if until == "report":
            write_report(store)
            reporter.line(f"report     {store.location('report.html')}")
        store.update_manifest(finished=_now())
    return store.manifest()


def outline(config: RunConfig, store: Store, *, until: str = "report") -> list[tuple[str, State]]:
    """What `run` would do: its pieces of work in order, and how each stands. Changes nothing.

    Before the images are counted, every input stands for a usable image.

    Raises:
        UsageError: as `run`, as far as it can be known without work.
    """
    _check_stage(config, until)
    source = check_before_start(config, store)
    ingested = store.record("ingest")
    as_many = ingested is not None and ingested["metrics"].get("inputs") == source.count
    num_samples = store.count_rows("samples") if as_many else source.count
    check_sizes(config, num_samples)
    wanted = STAGES[: STAGES.index(until) + 1]
    found = first_steps(config, source)

    def steps(*, presumed: bool) -> list[Step]:
        first = with_content(found, store, presumed=presumed)
        return [step for step in [*first, *later_steps(config, first, num_samples)] if step.stage in wanted]

    def state(step: Step, presumed: Step) -> State:
        if store.is_complete(step.unit, step.fingerprint):
            return State.COMPLETE
        return State.PRESUMED if store.is_complete(presumed.unit, presumed.fingerprint) else State.TO_DO

    pairs = zip(steps(presumed=False), steps(presumed=as_many), strict=True)
    return [(step.unit, state(step, presumed)) for step, presumed in pairs]


def _check_stage(config: RunConfig, until: str) -> None:
    if until not in STAGES:
        raise UsageError(f"unknown stage {until!r}; the stages are {', '.join(STAGES)}")
    if until == "evaluate" and not config.evaluate.labels:
        raise UsageError("the evaluation needs true labels; pass --labels")


@dataclass
class _Execution:
    """Runs steps; connects to Ray when the first step has work to do."""

    config: RunConfig
    store: Store
    reporter: Reporter
    stack: contextlib.ExitStack
    verbose: bool
    check_sole: Callable[[], None]
    _hardware: "Hardware | None" = None

    def run_steps(self, steps: list[Step]) -> None:
        """Run the steps that are not complete, in order."""
        for step in steps:
            if self.store.is_complete(step.unit, step.fingerprint):
                self.reporter.line(f"{step.unit}: complete")
                continue
            with expected_errors(step.unit, self.store.uri, verbose=self.verbose):
                self._run(step)

    def _run(self, step: Step) -> None:
        hardware = self._connect()
        from elfs_ray.engine.monitor import measured
        from elfs_ray.engine.stage import StageContext

        work = self.store.work_folder(step.unit, step.fingerprint)
        context = StageContext(
            self.config, self.store, step.unit, work, hardware, self.reporter, step.prefix, step.budget
        )
        self.reporter.line(f"{step.unit} ...")
        name = "precomputed" if step.stage == "embed" and self.config.embed.vectors else step.stage
        module = import_module(f"elfs_ray.engine.{_MODULES.get(name, name)}")
        started = _now()
        with measured() as usage:
            result = module.run(context)
            tables = {name: folder for name, folder in result.artifacts.items() if not name.startswith(LOGS)}
            rows = {name: self.store.count_rows(work, folder) for name, folder in tables.items()}
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
        self.store.publish(step.unit, work, result.artifacts, record)
        counts = ", ".join(f"{count:,} {name}" for name, count in rows.items())
        self.reporter.line(f"{step.unit}: {counts} in {usage.seconds:.1f} s")

    def _connect(self) -> "Hardware":
        if self._hardware is None:
            from elfs_ray.engine.session import hardware_summary, ray_session

            self._hardware = self.stack.enter_context(ray_session(self.config.ray, verbose=self.verbose))
            self.store.update_manifest(hardware=hardware_summary(self._hardware), versions=_versions())
        return self._hardware


def write_comparison(store: Store) -> None:
    """Write the comparison of all evaluations that the run folder holds, if it holds any."""
    from elfs_ray.report.comparison import write_comparison as write

    write(store)


def write_report(store: Store) -> str:
    """Write `report.html` from what the run folder holds; returns its path."""
    from elfs_ray.report.render import write_report as write

    return write(store)


def _identity(config: RunConfig, store: Store, keep: Sequence[str]) -> dict[str, Any]:
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
