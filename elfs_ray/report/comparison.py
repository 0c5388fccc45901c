"""All evaluations of a run folder side by side: accuracy of each method, gain over random, and time to select."""

from typing import Any

import numpy as np
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


def _scores(store: RunFolder, records: Records) -> dict[tuple[int, str, str], np.ndarray]:
    """Accuracy and that of random, float64 [seeds, 2], of each budget, model and method whose evaluation is there.

    Without separate test images each evaluation has a test set of its own: a method is set against the random subsets
    that were tested on the same one, and the row of random is the mean over all.
    """
    found: dict[tuple[int, str, str], dict[int, list[tuple[float, float]]]] = {}
    for unit in records.of("evaluate"):
        if not store.exists(name := unit.artifact("evaluation")):
            continue
        rows = Table(store, name).read(columns=["budget", "model", "subset", "seed", "test_accuracy"]).to_pylist()
        random = {_training(row): row["test_accuracy"] for row in rows if row["subset"] == RANDOM}
        for row in rows:
            by_seed = found.setdefault((row["budget"], row["model"], row["subset"]), {})
            by_seed.setdefault(row["seed"], []).append((row["test_accuracy"], random[_training(row)]))
    return {
        key: np.array([np.mean(by_seed[seed], axis=0) for seed in sorted(by_seed)]) for key, by_seed in found.items()
    }


def _training(row: dict[str, Any]) -> tuple[int, str, int]:
    """What a training on a coreset and the one on a random subset have in common."""
    return row["budget"], row["model"], row["seed"]


def _row(names: dict[str, Any], scores: np.ndarray) -> dict[str, Any]:
    """Mean and spread of one method, and its paired difference to random."""
    accuracy, random = scores.T
    summary = mean_and_interval(accuracy)
    pairs = None if names["method"] == RANDOM else mean_and_interval(accuracy - random)
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
