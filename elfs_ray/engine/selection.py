"""Selection: one method over the artifacts, for one budget.

Reads: `samples`, and of the other artifacts what the method declares. Writes: `coresets/METHOD/BUDGET` in rank order.
"""

import numpy as np
import pyarrow as pa

from elfs_ray import schema
from elfs_ray.core.features import normalize_rows
from elfs_ray.engine.artifacts import fixed_size_matrix, part_name, read_column, read_dynamics, read_keys, read_vectors
from elfs_ray.engine.stage import StageContext, StageResult
from elfs_ray.methods import Needs, SelectionInputs, get_method
from elfs_ray.store import Store


def run(context: StageContext) -> StageResult:
    """Rank and select."""
    options, store, budget = context.config.select, context.store, int(context.budget or 0)
    method_options, beta = dict(options.options), None
    method_class = type(get_method(options.method, **options.options))
    if method_class.needs_beta:
        search = f"beta_search/{options.method}/{budget}"
        beta = options.beta if options.beta is not None else _found_beta(store, search)
        method_options["beta"] = beta
    method = get_method(options.method, **method_options)
    rng = np.random.default_rng(context.seed())
    selection = method.select(_inputs(store, method.requirements()), budget, rng)

    positions = pa.array(selection.positions)
    rows = store.read_table("samples", columns=["sample_id", "index", "uri"]).take(positions)
    rows = rows.append_column("rank", pa.array(np.arange(len(rows))))
    rows = rows.append_column("score", pa.array(selection.scores[selection.positions], pa.float32()))
    labels = np.empty(0, dtype=np.int32)
    if store.exists("pseudo_labels"):
        labels = read_column(store, "pseudo_labels", "label")[selection.positions]
        rows = rows.append_column("pseudo_label", pa.array(labels, pa.int32()))
    else:
        rows = rows.append_column("pseudo_label", pa.nulls(len(rows), pa.int32()))
    store.write_table(rows, schema.CORESET, context.work, "coreset", part_name(0))
    return StageResult(
        artifacts={f"coresets/{options.method}/{budget}": "coreset"},
        chosen={**options.model_dump(mode="json"), "beta": beta},
        metrics={
            "method": options.method,
            "budget": budget,
            "beta": beta,
            "cluster_sizes": np.bincount(labels, minlength=context.config.num_classes).tolist() if len(labels) else [],
        },
    )


def _found_beta(store: Store, search: str) -> float:
    record = store.record(search)
    if record is None:
        raise KeyError(search)
    return float(record["metrics"]["beta"])


def _inputs(store: Store, needs: frozenset[Needs]) -> SelectionInputs:
    """Exactly the artifacts that the method declares."""
    inputs: dict[str, object] = {}
    if Needs.EMBEDDINGS in needs:
        inputs["embeddings"] = normalize_rows(read_vectors(store))
    if Needs.NEIGHBORS in needs:
        table = store.read_table("neighbors", columns=["ids", "similarity"])
        inputs["neighbor_ids"] = fixed_size_matrix(table["ids"])
        inputs["neighbor_similarity"] = fixed_size_matrix(table["similarity"])
    if Needs.PSEUDO_LABELS in needs:
        inputs["pseudo_labels"] = read_column(store, "pseudo_labels", "label")
    if Needs.DYNAMICS in needs:
        inputs["dynamics"] = read_dynamics(store)
    ids = read_keys(store)["index"].to_numpy()
    return SelectionInputs(ids=ids, **inputs)  # type: ignore[arg-type]
