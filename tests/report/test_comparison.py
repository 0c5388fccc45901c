"""The comparison of evaluations, on small tables worked out by hand."""

from dataclasses import replace

import pyarrow as pa
import pytest

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.writing import write_table
from elfs_ray.report.comparison import compare, read_comparison, write_comparison
from made_records import add_records, record


def evaluation(store, method, accuracies, *, budget=10, seconds=1.0, upstream=()):
    rows = [
        {
            "budget": budget, "subset": subset, "seed": seed, "model": "mlp", "train_samples": budget,
            "test_samples": 50, "steps": 1, "test_accuracy": accuracy, "seconds": 1.0, "training": f"{subset}{seed}",
        }
        for subset, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]  # fmt: skip
    unit = f"evaluation/{method}/{budget}"
    write_table(store, unit, pa.Table.from_pylist(rows), schema.EVALUATION)
    rests_on = dict.fromkeys(upstream, "x")
    add_records(
        store,
        record(f"select/{method}/{budget}", seconds=seconds, rests_on=rests_on),
        record(f"evaluate/{method}/{budget}", seconds=9.0, rests_on={f"select/{method}/{budget}": "x"}),
    )


@pytest.fixture
def store(tmp_path):
    made = RunFolder(str(tmp_path / "run"))
    add_records(
        made,
        record("ingest", seconds=1.0),
        record("embed", seconds=10.0, rests_on={"ingest": "x"}),
        record("proxy", seconds=100.0, rests_on={"embed": "x"}),
        record("beta_search/elfs/10", seconds=5.0, rests_on={"ingest": "x", "proxy": "x"}),
    )
    return made


def test_differences_are_paired_and_times_follow_the_stages(store):
    shared = [0.5, 0.7]
    evaluation(store, "elfs", {"elfs": [0.6, 0.9], "random": shared}, seconds=2.0, upstream=["beta_search/elfs/10"])
    evaluation(store, "zcore", {"zcore": [0.6, 0.6], "random": shared}, seconds=3.0, upstream=["embed"])
    rows = {row["method"]: row for row in compare(store)}
    assert list(rows) == ["elfs", "random", "zcore"]  # means 0.75, 0.6, 0.6: the best first, then by name
    assert rows["elfs"]["difference"] == pytest.approx(0.15)
    # t(0.975, 1 degree) = 12.706; the differences 0.1 and 0.2 have the deviation 0.0707, over the root of 2: 0.05.
    assert rows["elfs"]["difference_half_width"] == pytest.approx(12.706 * 0.05, rel=1e-3)
    assert rows["zcore"]["difference"] == pytest.approx(0.0)
    assert rows["random"]["difference"] is None
    assert rows["random"]["seeds"] == 2
    assert (rows["elfs"]["select_seconds"], rows["elfs"]["total_seconds"]) == (7.0, 118.0)
    assert (rows["zcore"]["select_seconds"], rows["zcore"]["total_seconds"]) == (3.0, 14.0)
    assert rows["random"]["total_seconds"] is None


def test_each_method_is_set_against_random_on_its_own_test_set(store):
    evaluation(store, "elfs", {"elfs": [0.6, 0.6], "random": [0.5, 0.5]})
    evaluation(store, "zcore", {"zcore": [0.8, 0.8], "random": [0.9, 0.9]})
    rows = {row["method"]: row for row in compare(store)}
    assert rows["elfs"]["difference"] == pytest.approx(0.1)
    assert rows["zcore"]["difference"] == pytest.approx(-0.1)
    assert rows["random"]["mean"] == pytest.approx(0.7)


def test_an_evaluation_that_someone_removed_is_left_out(store):
    for method in ("elfs", "zcore"):
        evaluation(store, method, {method: [0.6, 0.6], "random": [0.5, 0.5]})
    store.delete("evaluation/elfs/10")
    assert [row["method"] for row in compare(store)] == ["zcore", "random"]
    store.delete("evaluation/zcore/10")
    assert compare(store) == []


def test_an_evaluation_of_what_has_changed_is_left_out(store):
    evaluation(store, "elfs", {"elfs": [0.6, 0.6], "random": [0.5, 0.5]}, upstream=["embed"])
    evaluation(store, "zcore", {"zcore": [0.6, 0.6], "random": [0.5, 0.5]})
    add_records(store, replace(record("embed"), content="another"))
    assert [row["method"] for row in compare(store)] == ["zcore", "random"]
    write_comparison(store)
    store.delete("evaluation/zcore/10")
    write_comparison(store)
    assert not store.exists("comparison")


def test_artifact_has_the_declared_columns(store):
    write_comparison(store)
    assert not store.exists("comparison")
    evaluation(store, "elfs", {"elfs": [0.6, 0.9], "random": [0.5, 0.7]})
    write_comparison(store)
    assert list(read_comparison(store)[0]) == schema.COMPARISON.names
