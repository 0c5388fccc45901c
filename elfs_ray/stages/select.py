"""Selection: one method over the artifacts, for one budget.

Reads: `samples`, and of the other artifacts what the method declares. Writes: `coresets/METHOD/BUDGET` in rank order.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.config import RunConfig
from elfs_ray.methods import get_method, select_coreset
from elfs_ray.stages.parts.method_inputs import (
    count_classes,
    labeled_mask,
    labels_in_use,
    read_inputs,
    read_known_labels,
)
from elfs_ray.stages.stage import StageContext, StageResult
from elfs_ray.workers.base import Threads
from elfs_ray.workers.compute import use_threads

CORESET = "coreset"


def run(context: StageContext) -> StageResult:
    """Rank and select, in one task: the driver may sit on a small machine."""
    config, options, found = context.config, context.config.select, _found_options(context)
    # One stream for all budgets: a smaller random coreset is the beginning of a larger one.
    seed, budget = context.seed(unit=f"coresets/{options.name}"), int(context.budget or 0)
    known = read_known_labels(context.store, config)
    threads = context.workers.threads()  # nothing else of the stage runs
    measured = context.workers.call(_select, context.store, config, context.work, budget, found, known, seed, threads)
    return StageResult(
        artifacts={f"coresets/{options.name}/{budget}": CORESET},
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


def _select(
    store: RunFolder,
    config: RunConfig,
    work: str,
    budget: int,
    found: dict[str, Any],
    known: np.ndarray | None,
    seed: int,
    threads: Threads,
) -> dict[str, Any]:
    """Write the coreset; returns what the manifest says of it."""
    use_threads(threads())
    options = config.select
    method = get_method(options.method, **{**options.options, **found})
    inputs = read_inputs(store, config, method, known)
    selection = select_coreset(method, inputs, budget, np.random.default_rng(seed), balance=options.balance)

    positions, artifact = selection.positions, labels_in_use(store, config)
    labels = Table(store, artifact).column("label")[positions] if store.exists(artifact) else None
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
    write_table(store, f"{work}/{CORESET}", rows, schema.CORESET)
    sizes = [] if labels is None else np.bincount(labels, minlength=count_classes(store, config)).tolist()
    return {"labeled": int(labeled.sum()), "cluster_sizes": sizes}


def _found_options(context: StageContext) -> dict[str, Any]:
    """The options that the search found for this method and budget, or the beta that was asked for."""
    options = context.config.select
    if not get_method(options.method, **options.options).searched:
        return {}
    if options.beta is not None:
        return {"beta": options.beta}
    search = f"beta_search/{options.name}/{context.budget}"
    record = context.store.record(search)
    if record is None:
        raise KeyError(search)
    found: dict[str, Any] = record["metrics"]["found"]
    return found
