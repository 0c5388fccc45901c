"""What a terminal shows of the results: one coreset in detail, or all evaluations side by side."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from rich.markup import escape
from rich.table import Table

from elfs_ray.artifacts.record import Record, Records
from elfs_ray.planning.auto_options import TRAINING_OPTIONS


def steps_table(method: str, steps: Iterable[tuple[str, str]]) -> Table:
    """What a run of a method would do: each piece of work in words, and how it stands."""
    table = Table(f"what a run of {method} does", "", box=None, pad_edge=False)
    for doing, state in steps:
        table.add_row(escape(doing), state)
    return table


def comparison_table(rows: Sequence[dict[str, Any]]) -> Table:
    """All evaluations of the run by budget and model, the best method of each first; 80 characters are enough."""
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in ("accuracy\n%", "seeds", "less random\n(95 %)", "select\ns", "all\nstages s"):
        table.add_column(name, justify="right")
    for (budget, model), group in groupby(rows, key=itemgetter("budget", "model")):
        table.add_row(f"[bold]{budget:,} images, {model}")
        for row in group:
            gain = row["difference"]
            times = ["-" if row[name] is None else f"{row[name]:,.0f}" for name in ("select_seconds", "total_seconds")]
            table.add_row(
                f"  {row['method']}",
                f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}",
                str(row["seeds"]),
                "-" if gain is None else f"{100 * gain:+.1f} ± {100 * row['difference_half_width']:.1f}",
                *times,
            )
    return table


def unlike_trainings(records: Records) -> list[str]:
    """Which methods were evaluated with other options than others: a line for each model, budget and option.

    Their accuracies do not compare. Each difference to random does: those subsets were trained on in the same way.

    Args:
        records: of what is current.
    """
    used: defaultdict[tuple[str, int, str], defaultdict[Any, list[str]]] = defaultdict(lambda: defaultdict(list))
    for unit, record in records.of("evaluate").items():
        for model, options in record.chosen.items():
            for option in TRAINING_OPTIONS | {"embeddings_of", "test_input"}:
                used[model, unit.budget, option][options.get(option)].append(unit.method)
    return [
        f"accuracies of {model} at budget {budget:,} do not compare: evaluate.{option} was "
        + ", ".join(f"{value} for {' and '.join(methods)}" for value, methods in by_value.items())
        for (model, budget, option), by_value in sorted(used.items())
        if len(by_value) > 1
    ]


def coreset_table(coreset: Record, evaluation: Record | None) -> Table:
    """One coreset, from its record in the manifest and that of its evaluation."""
    metrics = coreset.metrics
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("selected", f"{metrics['budget']:,} by {metrics['method']}")
    if metrics["supervised"]:
        table.add_row("a supervised baseline", "selected with true labels")
    if metrics.get("choice"):
        table.add_row("chosen method", metrics["choice"])
    if metrics.get("labeled"):
        table.add_row("of these labelled before", f"{metrics['labeled']:,}")
    if metrics["beta"] is not None:
        table.add_row("chosen beta", f"{metrics['beta']:g}")
    if evaluation:
        results = evaluation.metrics
        if "pseudo_label_accuracy" in results:
            table.add_row("pseudo-label accuracy", f"{results['pseudo_label_accuracy']:.1%}")
        if results.get("test_dropped"):
            table.add_row("test samples left out", f"{results['test_dropped']:,}, which are candidates too")
        for model, compared in results["models"].items():
            for name, value in compared["subsets"].items():
                label = f"{model}, {'random subset' if name == 'random' else f'{name} coreset'}"
                told = f"{value['mean']:.1%} ± {value['std']:.1%} ({value['n']} seeds)"
                table.add_row(f"test accuracy, {label}", told)
    return table
