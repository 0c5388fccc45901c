"""Selection: one method over the artifacts, for one budget.

Reads: `samples`, and of the other artifacts what the method declares. Writes: `coresets/METHOD/BUDGET` in rank order.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.config import RunConfig
from elfs_ray.methods import get_method, select_coreset
from elfs_ray.stages import identity
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.parts.method_inputs import count_classes, labeled_mask, read_inputs
from elfs_ray.workers.base import Threads
from elfs_ray.workers.threads import use_threads


def run(context: StageContext) -> StageResult:
    """Rank and select, in one task: the driver may sit on a small machine."""
    config, options, found = context.config, context.config.select, _found_options(context)
    # One stream for all budgets: a smaller random coreset is the beginning of a larger one.
    seed, budget = context.seed(unit=f"coresets/{options.name}"), context.unit.budget
    labels = identity.labels_in_use(config)
    threads = context.workers.threads()  # nothing else of the stage runs
    shown = labels if context.if_current(labels) else None
    task = _Task(context.store, config, context.work, budget, found, shown, seed)
    measured = context.workers.call(_select, task, threads)
    return StageResult(
        chosen={**options.model_dump(mode="json"), **found},
        metrics={
            "method": options.method,
            "supervised": options.supervised,
            "budget": budget,
            "beta": found.get("beta"),
            "choice": found.get("choice"),
            **measured,
        },
    )


class _Task(NamedTuple):
    """What is selected: so many images, with the options that a search found.

    Attributes:
        shown: name of the labels that stand beside the images, if any.
    """

    store: RunFolder
    config: RunConfig
    work: str
    budget: int
    found: dict[str, Any]
    shown: str | None
    seed: int


def _select(task: _Task, threads: Threads) -> dict[str, Any]:
    """Write the coreset, with the labels that are shown beside it; returns what the manifest says of it."""
    store, budget, options = task.store, task.budget, task.config.select
    method = get_method(options.method, **{**options.options, **task.found})
    use_threads(threads())  # after the method has brought what it computes with
    inputs = read_inputs(store, task.config, method)
    selection = select_coreset(method, inputs, budget, np.random.default_rng(task.seed), balance=options.balance)

    positions = selection.positions
    labels = Table(store, task.shown).column("label")[positions] if task.shown else None
    labeled = labeled_mask(inputs)[positions]
    columns = {
        "rank": np.arange(budget),
        "score": pa.array(selection.scores[positions], pa.float32(), from_pandas=True),
        "pseudo_label": pa.nulls(budget, pa.int32()) if labels is None else pa.array(labels, pa.int32()),
        "labeled": labeled,
    }
    ordered = np.sort(positions)
    rows = Table(store, "samples").take(ordered, ["sample_id", "index", "uri"])
    rows = rows.take(pa.array(np.searchsorted(ordered, positions)))
    for name, values in columns.items():
        rows = rows.append_column(name, pa.array(values))
    write_table(store, f"{task.work}/coresets", rows, schema.CORESET)
    sizes = [] if labels is None else np.bincount(labels, minlength=count_classes(store, task.config)).tolist()
    return {"labeled": int(labeled.sum()), "cluster_sizes": sizes}


def _found_options(context: StageContext) -> dict[str, Any]:
    """The options that the search found for this method and budget, or the beta that was asked for."""
    config = context.config
    if not identity.is_searched(config):
        return {"beta": config.select.beta} if identity.method_of(config).searched else {}
    search = Unit("beta_search", method=context.unit.method, budget=context.unit.budget)
    found: dict[str, Any] = context.records[search].metrics["found"]
    return found
