"""Selection: one method over the artifacts, for one budget.

Reads: `samples`, and of the other artifacts what the method declares. Writes: `coresets/METHOD/BUDGET` in rank order.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from elfs_ray import schema
from elfs_ray.engine.artifacts import part_name, read_column
from elfs_ray.engine.inputs import count_classes, labeled_mask, labels_in_use, read_inputs
from elfs_ray.engine.stage import StageContext, StageResult
from elfs_ray.methods import get_method, select_coreset


def run(context: StageContext) -> StageResult:
    """Rank and select."""
    options, store, budget = context.config.select, context.store, int(context.budget or 0)
    found = _found_options(context)
    method = get_method(options.method, **{**options.options, **found})
    inputs = read_inputs(store, context.config, method)
    # One stream for all budgets: a smaller random coreset is the beginning of a larger one.
    rng = np.random.default_rng(context.seed(unit=f"coresets/{options.name}"))
    selection = select_coreset(method, inputs, budget, rng, balance=options.balance)

    positions = selection.positions
    artifact = labels_in_use(store, context.config)
    labels = read_column(store, artifact, "label")[positions] if store.exists(artifact) else None
    columns = {
        "rank": np.arange(budget),
        "score": pa.array(selection.scores[positions], pa.float32(), from_pandas=True),
        "pseudo_label": pa.nulls(budget, pa.int32()) if labels is None else pa.array(labels, pa.int32()),
        "labeled": labeled_mask(inputs)[positions],
    }
    rows = store.read_table("samples", columns=["sample_id", "index", "uri"]).take(pa.array(positions))
    for name, values in columns.items():
        rows = rows.append_column(name, pa.array(values))
    store.write_table(rows, schema.CORESET, context.work, "coreset", part_name(0))
    sizes = [] if labels is None else np.bincount(labels, minlength=count_classes(store, context.config)).tolist()
    return StageResult(
        artifacts={f"coresets/{options.name}/{budget}": "coreset"},
        chosen={**options.model_dump(mode="json"), **found},
        metrics={
            "method": options.method,
            "supervised": options.supervised,
            "budget": budget,
            "beta": found.get("beta"),
            "choice": found.get("choice"),
            "labeled": int(columns["labeled"].sum()),
            "cluster_sizes": sizes,
        },
    )


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
