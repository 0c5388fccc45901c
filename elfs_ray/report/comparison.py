"""All evaluations of a run folder side by side: accuracy of each method, gain over random, and time to select."""

from typing import Any

import pandas as pd
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.record import Records, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.core.metrics import mean_and_interval

COMPARISON = "comparison"
RANDOM = "random"
_FILE = "all.parquet"


def write_comparison(store: RunFolder) -> None:
    """Write the artifact `comparison` of all current evaluations; where there is none, none is left."""
    rows = compare(store)
    if not rows:
        store.delete(COMPARISON)
    else:
        store.write_table(pa.Table.from_pylist(rows, schema.COMPARISON), schema.COMPARISON, COMPARISON, _FILE)


def read_comparison(store: RunFolder) -> list[dict[str, Any]]:
    """The rows that `write_comparison` wrote; none where it did not."""
    rows: list[dict[str, Any]] = store.read_table(COMPARISON, _FILE).to_pylist() if store.exists(COMPARISON) else []
    return rows


def compare(store: RunFolder) -> list[dict[str, Any]]:
    """One row for each budget, model and method, in the order of `schema.COMPARISON`; the best mean first.

    Differences to random are paired by seed. `select_seconds` are those of the search and the selection themselves,
    `total_seconds` with every stage that they rest on, once. Random has no row of its own times unless it was run.
    """
    records = store.records().current
    scores = _scores(store, records)
    rows = []
    for budget, model in sorted({(budget, model) for budget, model, _ in scores}):
        found = [
            _row({"budget": budget, "model": model, "method": method}, scores[budget, model, method])
            for method in {key[2] for key in scores if key[:2] == (budget, model)}
        ]
        rows += sorted(found, key=lambda row: (-row["mean"], row["method"]))
    for row in rows:
        row.update(_seconds(records, Unit("select", method=row["method"], budget=row["budget"])))
    return rows


def _scores(store: RunFolder, records: Records) -> dict[tuple[int, str, str], pd.DataFrame]:
    """Accuracy and that of random by seed, for each budget, model and method whose evaluation is there.

    Without separate test images each evaluation has a test set of its own: a method is set against the random subsets
    that were tested on the same one, and the row of random is the mean over all.
    """
    units = [name for unit in records.of("evaluate") if store.exists(name := unit.artifact("evaluation"))]
    if not units:
        return {}
    names = ["budget", "model", "subset", "seed", "test_accuracy"]
    tables = {unit: Table(store, unit).read(columns=names).to_pandas() for unit in units}
    rows = pd.concat(tables, names=["unit"]).reset_index("unit")
    keys = ["unit", "budget", "model", "seed"]
    random = rows[rows["subset"] == RANDOM].set_index(keys)["test_accuracy"].rename("random")
    rows = rows.join(random, on=keys).groupby(["budget", "model", "subset", "seed"])[["test_accuracy", "random"]].mean()
    return {key: part.droplevel([0, 1, 2]) for key, part in rows.groupby(level=[0, 1, 2])}


def _row(names: dict[str, Any], scores: pd.DataFrame) -> dict[str, Any]:
    """Mean and spread of one method, and its paired difference to random."""
    summary = mean_and_interval(scores["test_accuracy"].to_numpy())
    is_random = names["method"] == RANDOM
    pairs = None if is_random else mean_and_interval((scores["test_accuracy"] - scores["random"]).to_numpy())
    return {
        **names,
        "seeds": summary.n,
        "mean": summary.mean,
        "std": summary.std,
        "half_width": summary.half_width,
        "difference": pairs and pairs.mean,
        "difference_half_width": pairs and pairs.half_width,
    }


def _seconds(records: Records, unit: Unit) -> dict[str, float | None]:
    """What a selection took, by itself and with all that it rests on."""
    if unit not in records:
        return {"select_seconds": None, "total_seconds": None}
    found, waiting = dict[Unit, float](), [unit]
    while waiting:
        each = waiting.pop()
        if each in records and each not in found:
            found[each] = records[each].seconds
            waiting += map(Unit.parse, records[each].rests_on)
    own = sum(seconds for each, seconds in found.items() if each.method)
    return {"select_seconds": round(own, 2), "total_seconds": round(sum(found.values()), 2)}
