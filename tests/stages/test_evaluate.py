"""Evaluation in the real pipeline, on what the small run has computed."""

import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.manifest import MANIFEST
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table, matrix_column
from elfs_ray.artifacts.writing import write_table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.errors import UsageError
from elfs_ray.report.comparison import read_comparison
from elfs_ray.run.runner import run, run_methods
from elfs_ray.stages.context import StageContext
from elfs_ray.stages.evaluate import TRAININGS, run_together
from made_records import record_of
from small import BUDGET, NUM_IMAGES, OPTIONS, write_labels_of


def evaluated(run_dir, method="elfs"):
    return Table(RunFolder(str(run_dir)), f"evaluation/{method}/{BUDGET}").read().to_pandas()


def pixels_of(store, prefix):
    [name] = store.names(f"{prefix}pixels")
    return Table(store, f"{prefix}pixels/{name}")


@pytest.fixture
def evaluate(small_run, small_input, tmp_path):
    """Evaluate with other options in a copy of the small run; returns the rows."""
    run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")

    def rows(method="elfs", **changes):
        values = {**OPTIONS, "evaluate.labels": str(small_input[1]), "select.method": method, **changes}
        config = load_config(values, base={**small_run.manifest["config"], "select": {}})
        run(config, RunFolder(str(run_dir)), Reporter(), until="evaluate")
        return evaluated(run_dir, method)

    rows.run_dir = run_dir
    return rows


def test_every_model_trains_and_only_the_new_ones(evaluate, small_run):
    changes = {"evaluate.models": ["mlp", "linear", "resnet-small"], "evaluate.steps": OPTIONS["evaluate.steps"]}
    rows = evaluate(**changes)
    assert rows.groupby(["model", "subset"]).size().to_dict() == {
        (model, subset): 2 for model in ("linear", "mlp", "resnet-small") for subset in ("elfs", "random")
    }
    # The rows of the small run stand as they are, down to the seconds that they took.
    before = evaluated(small_run.run_dir).set_index("training")
    mlp = rows[rows["model"] == "mlp"].set_index("training")
    assert mlp.sort_index().equals(before.sort_index())
    assert (rows.groupby("model")["test_accuracy"].mean() > 0.15).all()  # ten classes
    assert rows["test_samples"].nunique() == 1


@pytest.fixture
def test_images(small_input, tmp_path):
    """Images that are no candidates: where there are none, each method is tested on the candidates it leaves."""
    folder = tmp_path / "test"
    folder.mkdir()
    everything = sorted((small_input[0].parent / "all" / "images").iterdir())
    for path in everything[NUM_IMAGES : NUM_IMAGES + 30]:
        shutil.copy(path, folder)
    labels = write_labels_of(folder, small_input[0].parent / "all" / "labels.csv", tmp_path / "test.csv")
    return {"evaluate.test_input": str(folder), "evaluate.test_labels": str(labels)}


def test_random_subsets_are_trained_on_once_for_all_methods(evaluate, test_images):
    first, second = evaluate(**test_images), evaluate("random", **test_images)
    assert second.equals(first[first["subset"] == "random"].reset_index(drop=True))
    comparison = pd.DataFrame(read_comparison(RunFolder(str(evaluate.run_dir)))).set_index("method")
    assert set(comparison.index) == {"elfs", "random"}
    assert comparison.loc["random", "mean"] == pytest.approx(second["test_accuracy"].mean())
    assert comparison.loc["elfs", "total_seconds"] > comparison.loc["random", "total_seconds"]
    assert comparison.loc["elfs", "select_seconds"] > comparison.loc["random", "select_seconds"]


def test_the_command(small_run, small_input, tmp_path, call):
    """Methods and budgets by name over what the run folder holds; options of the run's own method stay with it."""
    run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
    arguments = ["--methods", "random,kcenter", "--budgets", "20,40", "--models", "linear", "--seeds", "2"]
    arguments += ["--labels", str(small_input[1]), "--downstream", "linear"]
    code, out, err = call("evaluate", run_dir, *arguments)
    assert code == 0, err
    new = {(budget, "linear", method) for budget in ("20", "40") for method in ("random", "kcenter")}
    before = {(str(BUDGET), "mlp", method) for method in ("elfs", "random")}
    assert compared(out) == new | before
    theirs, after = (RunFolder(str(run)).manifest()["config"] for run in (small_run.run_dir, run_dir))
    own = ("select", "budgets", "beta_search")
    assert [after[name] for name in own] == [theirs[name] for name in own]
    assert after["evaluate"]["models"] == ["linear"]
    assert "kcenter/40" in (run_dir / "report.html").read_text()  # the report that was there shows the new ones


def compared(out):
    """Budget, model and method of each line of the comparison in a terminal."""
    shown, heading = set(), None
    for line in out.splitlines():
        found = re.fullmatch(r"([\d,]+) images, (\S+) *", line)
        heading = found or heading
        if heading and line.strip() and not found and not line.startswith("next "):
            shown.add((*heading.groups(), line.split()[0]))
    return shown


class TestTogether:
    """Several methods at once."""

    METHODS = ("kcenter", "moderate", "random")

    @pytest.fixture
    def configs(self, small_run, small_input, test_images):
        options = {"evaluate.labels": str(small_input[1]), **test_images, "evaluate.seeds": 3}
        base = {**small_run.manifest["config"], "select": {}}
        return [load_config({**OPTIONS, **options, "select.method": method}, base=base) for method in self.METHODS]

    def test_the_rows_are_those_of_each_alone(self, small_run, configs, tmp_path):
        folders = [shutil.copytree(small_run.run_dir, tmp_path / name) for name in ("together", "alone")]
        together, alone = (RunFolder(str(folder)) for folder in folders)
        run_methods(configs, together, Reporter(), until="evaluate")
        for config in configs:
            run(config, alone, Reporter(), until="evaluate")
        for method in self.METHODS:
            first, second = (evaluated(store.uri, method).drop(columns="seconds") for store in (together, alone))
            assert first.equals(second)
        rows = [evaluated(together.uri, method) for method in self.METHODS]
        random = [each[each["subset"] == "random"].reset_index(drop=True) for each in rows]
        assert random[0].equals(random[1])  # down to the seconds: trained on once
        assert random[0].equals(random[2])

    def test_the_next_begins_before_the_first_is_published(self, small_run, configs, tmp_path, in_process):
        store = RunFolder(str(shutil.copytree(small_run.run_dir, tmp_path / "run")))
        run_methods(configs, store, Reporter(), until="select")
        units = [Unit("evaluate", method=config.select.name, budget=BUDGET) for config in configs]
        records = store.records()
        contexts = [
            StageContext(config, store, unit, store.work_folder(unit, "0"), in_process, Reporter(), records)
            for config, unit in zip(configs, units, strict=True)
        ]
        before = len(store.names(TRAININGS))
        results = run_together(contexts)
        next(results)
        deadline = time.monotonic() + 300
        of_first = 2 * configs[0].evaluate.seeds
        while len(store.names(TRAININGS)) < before + of_first + 2:
            assert time.monotonic() < deadline, "the trainings of the second did not run by themselves"
            time.sleep(0.1)
        results.close()


class TestAnotherEncoder:
    """Selected with one encoder, trained on the embeddings of another."""

    def other(self, small_run, folder):
        """Another run over the same images, whose encoder sees next to nothing of them."""
        run_dir = shutil.copytree(small_run.run_dir, folder / "other")
        store = RunFolder(str(run_dir))
        table = Table(store, "embeddings").read()
        noise = np.random.default_rng(0).normal(size=(len(table), 8)).astype(np.float16)
        store.delete("embeddings")
        noisy = table.set_column(2, "vector", matrix_column(noise))
        write_table(store, "embeddings", noisy, schema.embeddings(8))
        manifest = store.manifest()
        manifest["records"]["embed"]["content"] = "noise"
        store.write_json(manifest, MANIFEST)
        return store

    def test_its_embeddings_are_trained_on(self, choose, small_run, small_input, tmp_path):
        other = self.other(small_run, tmp_path)
        options = {"evaluate.labels": str(small_input[1]), "evaluate.embeddings_of": other.path()}
        manifests = small_run.manifest, choose(**options).manifest
        metrics = [manifest["records"][f"evaluate/elfs/{BUDGET}"]["metrics"] for manifest in manifests]
        own, transferred = (each["models"]["mlp"]["subsets"]["elfs"]["mean"] for each in metrics)
        assert transferred < own / 2
        assert [each["embeddings_of"] for each in metrics] == [None, other.path()]

    def test_other_images_are_refused(self, choose, small_run, small_input, tmp_path):
        other = self.other(small_run, tmp_path)
        samples = Table(other, "samples").read()
        other.delete("samples")
        write_table(other, "samples", samples.slice(1), samples.schema)
        with pytest.raises(UsageError, match="is a run over other images"):
            choose(**{"evaluate.labels": str(small_input[1]), "evaluate.embeddings_of": other.path()})

    def test_no_embeddings_are_refused(self, choose, small_input, tmp_path):
        with pytest.raises(UsageError, match="holds no embeddings; run it up to embed first"):
            choose(**{"evaluate.labels": str(small_input[1]), "evaluate.embeddings_of": str(tmp_path / "none")})


def test_hiding_takes_fewer_steps(evaluate):
    rows = evaluate(**{"evaluate.hide": 0.5, "evaluate.steps": 200})
    assert (rows["steps"] < 200).all()
    assert (rows["steps"] > 100).all()


class TestSeparateTestImages:
    def evaluate(self, choose, small_input, folder, names, **changes):
        images, labels = small_input
        folder.mkdir()
        for name in names:
            shutil.copy(images.parent / "all" / "images" / name, folder)
        theirs = write_labels_of(folder, images.parent / "all" / "labels.csv", folder.with_suffix(".csv"))
        options = {"evaluate.test_input": str(folder), "evaluate.test_labels": str(theirs), **changes}
        choose(**{"evaluate.labels": str(labels), **options})

    def test_candidates_among_them_are_left_out(self, choose, small_run, small_input, tmp_path):
        everything = sorted(path.name for path in (small_input[0].parent / "all" / "images").iterdir())
        names = everything[NUM_IMAGES - 5 : NUM_IMAGES + 30]
        on_images = {"evaluate.models": ["resnet-small"], "evaluate.image_size": 16, "evaluate.steps": 3}
        self.evaluate(choose, small_input, tmp_path / "test", names, **on_images)
        metrics = record_of(RunFolder(str(tmp_path / "run")), f"evaluate/elfs/{BUDGET}").metrics
        assert (metrics["test_samples"], metrics["test_dropped"]) == (30, 5)
        assert "5 more are candidates too" in (tmp_path / "run" / "report.html").read_text()
        store = RunFolder(str(tmp_path / "run"))
        seen = {prefix: pixels_of(store, prefix).rows for prefix in ("", "test/")}
        assert seen["test/"] == 30
        assert 2 * BUDGET < seen[""] <= 3 * BUDGET  # the coreset and two random subsets, and no other candidates

    def test_nothing_but_candidates_is_refused(self, choose, small_input, tmp_path):
        names = sorted(path.name for path in small_input[0].iterdir())[:20]
        with pytest.raises(UsageError) as caught:
            self.evaluate(choose, small_input, tmp_path / "test", names)
        assert str(caught.value) == (
            f"every image of {tmp_path}/test is also one of {small_input[0]}: a model would be tested on what it "
            "may have learned; pass other test images, or none"
        )
