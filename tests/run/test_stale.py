"""Results of what has changed since: hidden everywhere, named, and redone or removed by the next run."""

import shutil

import pytest

from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.errors import UsageError
from elfs_ray.exports import only_coreset
from elfs_ray.report.comparison import compare
from elfs_ray.report.render import write_report
from elfs_ray.run.runner import run
from small import BUDGET, OPTIONS, AtBegin, Lines

SELECT, EVALUATE = (Unit(stage, method="elfs", budget=BUDGET) for stage in ("select", "evaluate"))


def interrupt():
    """As Ctrl-C would."""
    raise KeyboardInterrupt


@pytest.fixture
def store(small_run, tmp_path):
    return RunFolder(str(shutil.copytree(small_run.run_dir, tmp_path / "run")))


@pytest.fixture
def configured(small_input):
    def configured(**options):
        return load_config({"input": str(small_input[0]), "budgets": [BUDGET], "num_classes": 10, **OPTIONS, **options})

    return configured


def test_results_of_what_has_changed_are_hidden_named_and_removed(store, configured, small_input, call):
    told = f"{100 * store.records()[EVALUATE].metrics['models']['mlp']['subsets']['elfs']['mean']:.1f} ±"
    assert told in store.read_bytes("report.html").decode()
    trainings = store.names("trainings")
    # Another proxy, no labels, and stopped before there is another coreset.
    changed = configured(**{"proxy.epochs": 6})
    with pytest.raises(KeyboardInterrupt):
        run(changed, store, AtBegin(str(SELECT), interrupt))
    assert set(store.records().stale.values()) == {"proxy has changed"}
    assert {SELECT, EVALUATE} <= set(store.records().stale)

    code, out, _ = call("status", store.uri)
    assert code == 0
    assert f"stale: {EVALUATE}, because proxy has changed" in out
    write_report(store)
    assert told not in store.read_bytes("report.html").decode()
    assert compare(store) == []
    with pytest.raises(UsageError, match="holds no coreset"):
        only_coreset(store)

    reporter = Lines()
    run(changed, store, reporter)
    assert f"Removed {EVALUATE}, because {SELECT} has changed" in reporter.lines
    assert not store.records().stale
    assert not store.exists(EVALUATE.artifact("evaluation"))
    assert not store.exists("comparison")

    # No training of before is lost: with the first options again, all of them are there.
    assert store.names("trainings") == trainings
    manifest = run(configured(**{"evaluate.labels": str(small_input[1])}), store, Reporter())
    assert store.names("trainings") == trainings
    assert told in store.read_bytes("report.html").decode()
    assert manifest["records"][str(EVALUATE)]["rows"] == {EVALUATE.artifact("evaluation"): len(trainings)}


def test_a_run_of_an_earlier_version_is_refused(store, call):
    manifest = store.manifest()
    del manifest["format"]
    store.write_json(manifest, "manifest.json")
    code, _, err = call("status", store.uri)
    assert code == 2
    assert err == (
        f"elfs-ray: {store.uri} holds a run of elfs_ray 0.1, which this version cannot go on with; "
        "choose another --out, or use that version there\n"
    )
