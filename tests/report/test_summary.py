"""The comparison in a terminal, read as a person reads it."""

import io

from rich.console import Console

from elfs_ray.artifacts.record import Records, Unit
from elfs_ray.report.summary import comparison_table, unlike_trainings
from made_records import record


def row(budget, model, method, mean, gain, seconds):
    return {
        "budget": budget,
        "model": model,
        "method": method,
        "seeds": 5,
        "mean": mean,
        "std": 0.0123,
        "difference": gain,
        "difference_half_width": None if gain is None else 0.0345,
        "select_seconds": seconds,
        "total_seconds": None if seconds is None else 10 * seconds,
    }


def test_a_line_for_each_evaluation_in_eighty_characters():
    rows = [
        row(5000, "resnet-small", "prototypicality-supervised", 0.638, -0.147, 1613.2),
        row(5000, "resnet-small", "random", 0.501, None, None),
        row(15000, "mlp", "elfs", 0.9876, 0.012, 0.4),
    ]
    text = io.StringIO()
    Console(file=text, width=80).print(comparison_table(rows))
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert lines[2:] == [
        "5,000 images, resnet-small",
        "prototypicality-supervised 63.8 ± 1.2 5 -14.7 ± 3.5 1,613 16,132",
        "random 50.1 ± 1.2 5 - - -",
        "15,000 images, mlp",
        "elfs 98.8 ± 1.2 5 +1.2 ± 3.5 0 4",
    ]


def test_methods_that_were_not_trained_alike_are_named():
    usual = {"steps": 1000, "embeddings_of": None}
    chosen = {
        "select/elfs/100": {"beta": 0.1},
        "evaluate/elfs/100": {"mlp": usual},
        "evaluate/dual/100": {"mlp": {**usual, "seeds": 9}, "linear": usual},
        "evaluate/zcore/100": {"mlp": {**usual, "steps": 50}},
        "evaluate/zcore/2000": {"mlp": {**usual, "steps": 50}},
    }
    records = Records({Unit.parse(unit): record(unit, chosen=options) for unit, options in chosen.items()})
    assert unlike_trainings(records) == [
        "accuracies of mlp at budget 100 do not compare: evaluate.steps was 1000 for elfs and dual, 50 for zcore"
    ]
    alike = {unit: found for unit, found in records.items() if unit.coreset != "zcore/100"}
    assert unlike_trainings(Records(alike)) == []
