"""The order of the stages, what each depends on, and running the ones whose result is not there yet.

The only file that knows the order. Each piece of work (a `Step`) has a fingerprint over its own options and those of
all it depends on; a step whose fingerprint stands in the manifest is skipped.
"""

import contextlib
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from elfs_ray.checks import check_before_start, check_rows, check_sizes, labeled_signature
from elfs_ray.config import RunConfig, fingerprint
from elfs_ray.console import Reporter
from elfs_ray.core.pruning import budget_count
from elfs_ray.errors import UsageError
from elfs_ray.failures import expected_errors
from elfs_ray.methods import Needs, balances, get_method
from elfs_ray.sole_driver import sole_driver
from elfs_ray.storage import without_options
from elfs_ray.store import LOGS, Store

if TYPE_CHECKING:
    from elfs_ray.data.sources import Source
    from elfs_ray.engine.session import Hardware

STAGES = (
    *("ingest", "labels", "embed", "neighbors", "cluster", "anchor", "proxy"),
    *("beta-search", "select", "evaluate", "duplicates", "map", "coverage", "report"),
)
"""Stages in the order in which they run, by their names on the command line."""

# Raised when a stage gives other results than before for the same options.
VERSIONS = {
    "ingest": 1,
    "labels": 1,
    "embed": 1,
    "neighbors": 2,
    "cluster": 1,
    "anchor": 2,
    "proxy": 1,
    "beta-search": 2,
    "select": 2,
    "evaluate": 2,
    "duplicates": 1,
    "map": 1,
    "coverage": 1,
}
_MODULES = {"beta-search": "beta_search", "select": "selection"}
_TEST_PREFIX = "test/"


@dataclass(frozen=True)
class Step:
    """One piece of work: a stage, for some images and some budget.

    Attributes:
        stage: its name on the command line.
        unit: its name in the manifest.
        fingerprint: of its options and of all it depends on.
        upstream: units that it rests on.
        prefix: `test/` when it prepares the separate test images.
        budget: images to select, where the stage runs once for each budget.
    """

    stage: str
    unit: str
    fingerprint: str
    upstream: tuple[str, ...]
    prefix: str = ""
    budget: int | None = None


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


def outline(config: RunConfig, store: Store, *, until: str = "report") -> list[tuple[str, bool]]:
    """What `run` would do: its pieces of work in order, and whether each is complete. Changes nothing.

    Before the images are counted, every input stands for a usable image.

    Raises:
        UsageError: as `run`, as far as it can be known without work.
    """
    _check_stage(config, until)
    source = check_before_start(config, store)
    first = first_steps(config, source)
    counted = store.is_complete(first[0].unit, first[0].fingerprint)
    num_samples = store.count_rows("samples") if counted else source.count
    check_sizes(config, num_samples)
    wanted = STAGES[: STAGES.index(until) + 1]
    steps = [step for step in [*first, *later_steps(config, first, num_samples)] if step.stage in wanted]
    return [(step.unit, store.is_complete(step.unit, step.fingerprint)) for step in steps]


def _check_stage(config: RunConfig, until: str) -> None:
    if until not in STAGES:
        raise UsageError(f"unknown stage {until!r}; the stages are {', '.join(STAGES)}")
    if until == "evaluate" and not config.evaluate.labels:
        raise UsageError("the evaluation needs true labels; pass --labels")


def first_steps(config: RunConfig, source: "Source") -> list[Step]:
    """The steps that are known before the images are counted; `source` is the listed input."""
    from elfs_ray.data.sources import open_input

    def ingest(prefix: str, images: "Source") -> Step:
        options = [without_options(images.location), images.signature(), config.ingest.identity()]
        # The same table may hold images and embeddings.
        options += [] if images.has_images else [images.kind]
        return _step("ingest", options, [], prefix=prefix)

    steps = [ingest("", source)]
    if config.evaluate.labels:
        steps.append(_labels_step(config, source, steps[0], ""))
    if config.evaluate.test_input:
        test_source = open_input(config, config.evaluate.test_input)
        check_rows(config.embed.test_vectors or config.embed.vectors, config, test_source)
        test = ingest(_TEST_PREFIX, test_source)
        steps += [test, _labels_step(config, test_source, test, _TEST_PREFIX)]
    return steps


def later_steps(config: RunConfig, first_steps: Sequence[Step], num_samples: int) -> list[Step]:
    """The steps after ingest, of which some run once for each budget."""
    first = {step.unit: step for step in first_steps}
    ingest = first["ingest"]
    embed = _step("embed", _embed_options(config), [ingest])
    steps = [embed]
    prepared = [embed]
    if "test_ingest" in first:
        # Through the encoder of the candidates, or from a table of their own.
        options = _embed_options(config, test=True) if config.embed.vectors else embed.fingerprint
        test_embed = _step("embed", options, [embed, first["test_ingest"]], prefix=_TEST_PREFIX)
        steps.append(test_embed)
        prepared.append(test_embed)
    neighbors = _step("neighbors", config.neighbors.identity(), [embed])
    seed_and_classes = [config.seed, config.num_classes]
    cluster = _step("cluster", [config.cluster.identity(), *seed_and_classes], [neighbors])
    pseudo = [cluster]
    if config.select.labeled is not None:
        pseudo.append(_step("anchor", [labeled_signature(config), *seed_and_classes], [cluster]))
    supervised = config.select.supervised
    if supervised:
        pseudo = [first["labels"]]
    unit = "proxy_supervised" if supervised else "proxy"
    proxy = _step("proxy", [config.proxy.identity(), *seed_and_classes], pseudo[-1:], unit=unit)
    method = get_method(config.select.method, **config.select.options)
    needs = method.requirements()
    if (method.searched and config.select.beta is None) or balances(method, config.select.balance):
        needs |= {Needs.EMBEDDINGS, Needs.PSEUDO_LABELS}
    uses_labels = bool(needs & {Needs.PSEUDO_LABELS, Needs.DYNAMICS})
    if Needs.NEIGHBORS in needs or (uses_labels and not supervised):
        steps.append(neighbors)
    if uses_labels and not supervised:
        steps += pseudo
    if Needs.DYNAMICS in needs:
        steps.append(proxy)
    needed = [ingest, *(step for step in steps if not step.prefix), *(pseudo if supervised else [])]
    for budget in dict.fromkeys(budget_count(budget, num_samples) for budget in config.budgets):
        steps += _budget_steps(config, budget, needed, prepared, first)
    steps += _overview_steps(config, embed, neighbors if neighbors in steps else None)
    order = {stage: number for number, stage in enumerate(STAGES)}
    return sorted(steps, key=lambda step: order[step.stage])


def _overview_steps(config: RunConfig, embed: Step, neighbors: Step | None) -> Iterator[Step]:
    """What the report shows of all images."""
    if neighbors:
        yield _step("duplicates", None, [neighbors])
    if config.report.map_points:
        yield _step("map", [config.report.map, config.report.map_points, config.seed], [embed])


def _budget_steps(
    config: RunConfig, budget: int, needed: list[Step], prepared: list[Step], first: dict[str, Step]
) -> Iterator[Step]:
    name = config.select.name
    method = get_method(config.select.method, **config.select.options)
    upstream = list(needed)
    selected = [name, config.select.options, config.select.balance, labeled_signature(config)]
    if method.searched and config.select.beta is None:
        searched = [config.beta_search.identity(), config.proxy.hidden_dim, *selected]
        unit = f"beta_search/{name}/{budget}"
        search = _step("beta-search", [*searched, config.seed, budget], needed, unit=unit, budget=budget)
        upstream.append(search)
        yield search
    options = [*selected, config.select.beta, config.seed, budget]
    select = _step("select", options, upstream, unit=f"coresets/{name}/{budget}", budget=budget)
    yield select
    yield _step("coverage", [config.seed, budget], [select], unit=f"coverage/{name}/{budget}", budget=budget)
    if config.evaluate.labels:
        labels = [step for unit, step in first.items() if unit.endswith("labels")]
        unit = f"evaluation/{name}/{budget}"
        # What the labels and test images hold counts, through the steps before; not how they are reached.
        evaluate = {
            name: without_options(value) if isinstance(value, str) else value
            for name, value in config.evaluate.identity().items()
        }
        if other := evaluate.pop("embeddings_of"):
            evaluate["embeddings_of"] = (Store(other).record("embed") or {}).get("fingerprint")
        yield _step("evaluate", evaluate, [select, *prepared, *labels], unit=unit, budget=budget)


def _embed_options(config: RunConfig, *, test: bool = False) -> Any:
    """What the embeddings depend on: an encoder, or vectors that are there already."""
    from elfs_ray.data.vectors import vectors_signature
    from elfs_ray.encoders import weights_signature

    options = config.embed.identity()
    vectors, test_vectors = options.pop("vectors"), options.pop("test_vectors")
    if vectors is not None:
        return vectors_signature(test_vectors or vectors if test else vectors)
    weights = config.embed.weights
    return options if weights is None else {**options, "weights_signature": weights_signature(weights)}


def _labels_step(config: RunConfig, source: "Source", ingest: Step, prefix: str) -> Step:
    from elfs_ray.data.labels import check_labels, labels_signature

    spec = (config.evaluate.test_labels if prefix else None) or config.evaluate.labels
    if spec is None:
        raise UsageError("test images are given without labels; pass --labels, and --test-labels if they differ")
    check_labels(spec, source, config.ingest.id_column)
    return _step("labels", [without_options(spec), labels_signature(spec)], [ingest], prefix=prefix)


def _step(
    stage: str,
    options: Any,
    upstream: Sequence[Step],
    *,
    unit: str | None = None,
    prefix: str = "",
    budget: int | None = None,
) -> Step:
    key = fingerprint(stage, VERSIONS[stage], options, [step.fingerprint for step in upstream])
    units = tuple(step.unit for step in upstream)
    return Step(stage, unit or prefix.replace("/", "_") + stage, key, units, prefix, budget)


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
