"""Methods, labelled samples, quotas and several budgets in the real pipeline, on what the small run has computed."""

import shutil

import numpy as np
import pytest

from elfs_ray import select
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.errors import UsageError
from elfs_ray.methods import available_methods
from elfs_ray.run.runner import run
from small import BUDGET, NUM_IMAGES, OPTIONS, sections

FAST = {
    "zcore": {"draws": 500},
    "d2": {"num_neighbors": 5},
    "auto": {"among": ["random"]},
    "badge": {"steps": 50},
    "puma": {"steps": 50},
}


@pytest.fixture(scope="module")
def permuted_labels(small_input, tmp_path_factory):
    """The same labels, each at another image."""
    header, *rows = small_input[1].read_text().splitlines()
    names, labels = zip(*(row.split(",") for row in rows), strict=True)
    path = tmp_path_factory.mktemp("labels") / "permuted.csv"
    shuffled = np.random.default_rng(1).permutation(labels)
    path.write_text("\n".join([header, *map(",".join, zip(names, shuffled, strict=True))]))
    return path


@pytest.mark.parametrize("name", sorted(set(available_methods()) - {"tdds"}))
def test_every_method_runs_and_sees_no_label(small_run, small_input, permuted_labels, tmp_path, name):
    """With labels permuted, not a bit of a coreset changes."""
    coresets = []
    for labels in (small_input[1], permuted_labels):
        run_dir = shutil.copytree(small_run.run_dir, tmp_path / labels.stem)
        shutil.rmtree(run_dir / "coresets")
        shutil.rmtree(run_dir / "beta_search")
        values = {"select.method": name, "select.options": FAST.get(name, {}), "evaluate.labels": str(labels)}
        if name in ("ccs", "mixed"):
            values["select.beta"] = 0.2  # as elfs, they would search
        store = RunFolder(str(run_dir))
        run(load_config({**OPTIONS, **values}, base=small_run.manifest["config"]), store, Reporter(), until="select")
        coresets.append(Table(store, f"coresets/{name}/{BUDGET}").read())
    assert len(set(coresets[0]["sample_id"].to_pylist())) == BUDGET
    assert coresets[0].equals(coresets[1])


def test_tdds_needs_to_be_recorded(choose):
    with pytest.raises(UsageError, match=r"which the proxy records only on demand; pass --set proxy\.tdds=true"):
        choose(**{"select.method": "tdds"})


def test_auto_takes_the_best_candidate(choose):
    result = choose(**{"select.method": "auto", "select.options": {"among": ["random", "elfs"]}})
    rows = Table(RunFolder(result.run_dir), f"beta_search/auto/{BUDGET}").read().to_pandas()
    assert set(rows["method"]) == {"random", "elfs"}
    assert rows.loc[rows["method"] == "random", "beta"].isna().all()
    best = rows.loc[rows["validation_accuracy"].idxmax()]
    chosen = result.manifest["records"][f"select/auto/{BUDGET}"]["metrics"]
    assert chosen["choice"] == best["method"]
    assert len(result.table) == BUDGET
    report = RunFolder(result.run_dir).read_bytes("report.html").decode().replace(r"\u002f", "/")
    assert f"auto/{BUDGET}: random" in report
    assert f"<b>auto</b>, which took <b>{best['method']}</b>" in report


def test_random_budgets_nest(choose):
    coresets = choose(budget=[20, BUDGET], **{"select.method": "random"}).coresets
    assert coresets[BUDGET]["sample_id"].to_pylist()[:20] == coresets[20]["sample_id"].to_pylist()


def test_labelled_samples_come_first_and_count(choose, tmp_path):
    seeds = tmp_path / "seeds.csv"
    seeds.write_text("sample_id,label\ndigit-0007.png,7\ndigit-0003.png,3\n")
    table = choose(**{"select.method": "kcenter", "select.labeled": str(seeds)}).table
    assert table["sample_id"].to_pylist()[:2] == ["digit-0003.png", "digit-0007.png"]
    assert table["labeled"].to_pylist() == [True, True, *[False] * (BUDGET - 2)]
    assert len(set(table["sample_id"].to_pylist())) == BUDGET


def test_labels_that_are_there_improve_the_pseudo_labels(small_run, small_input, tmp_path):
    """Eighty labelled digits teach more than the clusters know; the clusters themselves stay as they are."""
    images, labels = small_input
    seeds = tmp_path / "seeds.csv"
    seeds.write_text("\n".join(labels.read_text().splitlines()[:81]))
    run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
    options = {**OPTIONS, "select.labeled": str(seeds), "evaluate.labels": str(labels)}
    result = select(images, 100, num_classes=10, out=run_dir, **sections(options))
    stages, before = result.manifest["records"], small_run.manifest["records"]
    assert stages["pseudo_labels"] == before["pseudo_labels"]
    assert stages["anchor"]["metrics"]["used"] == "probes"
    accuracy = stages["evaluate/elfs/100"]["metrics"]["pseudo_label_accuracy"]
    assert accuracy > before[f"evaluate/elfs/{BUDGET}"]["metrics"]["pseudo_label_accuracy"]
    assert sum(result.table["labeled"].to_pylist()) == 80


def test_more_labelled_samples_select_again(choose, tmp_path):
    seeds = tmp_path / "seeds.csv"
    seeds.write_text("sample_id,label\ndigit-0007.png,7\n")
    options = {"select.method": "kcenter", "select.labeled": str(seeds)}
    assert sum(choose(**options).table["labeled"].to_pylist()) == 1
    seeds.write_text("sample_id,label\ndigit-0007.png,7\ndigit-0010.png,0\n")
    assert sum(choose(**options).table["labeled"].to_pylist()) == 2


@pytest.mark.parametrize("name", ["elfs", "moderate"])
def test_a_supervised_baseline_says_what_it_is(choose, small_input, name):
    labels = str(small_input[1])
    result = choose(**{"select.method": name, "select.supervised": True, "evaluate.labels": labels})
    store, unit = RunFolder(result.run_dir), f"select/{name}-supervised/{BUDGET}"
    record = result.manifest["records"][unit]
    assert record["chosen"]["supervised"]
    assert record["metrics"]["supervised"]
    truth = Table(store, "labels_true").read().to_pandas().set_index("sample_id")["label"]
    selected = result.table.to_pandas().set_index("sample_id")["pseudo_label"]
    assert (truth[selected.index] == selected).all()
    assert f"{name}-supervised/{BUDGET} is a supervised baseline" in store.read_bytes("report.html").decode()
    # What was selected without labels stays, beside it.
    assert Table(store, f"coresets/elfs/{BUDGET}").read().num_rows == BUDGET


def test_true_labels_give_other_dynamics(choose, small_input):
    result = choose(**{"select.supervised": True, "select.beta": 0.2, "evaluate.labels": str(small_input[1])})
    store = RunFolder(result.run_dir)
    with_labels, without = (Table(store, name).read()["aum"].to_numpy() for name in ("supervised/dynamics", "dynamics"))
    assert not np.allclose(with_labels, without)
    subsets = result.manifest["records"][f"evaluate/elfs-supervised/{BUDGET}"]["metrics"]["models"]["mlp"]["subsets"]
    assert set(subsets) == {"elfs-supervised", "random"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "select.supervised needs true labels of all images; pass --labels"),
        ({"select.method": "zcore"}, "method 'zcore' uses no labels, so that select.supervised changes nothing"),
        ({"select.labeled": "half"}, "select.supervised uses the labels of all images, select.labeled those of some"),
        ({"evaluate.labels": "half"}, f"120 of {NUM_IMAGES} have none in .*half.csv; pass labels for all"),
    ],
)
def test_a_supervised_baseline_needs_labels_for_all(choose, small_input, tmp_path, options, message):
    half = tmp_path / "half.csv"
    half.write_text("\n".join(small_input[1].read_text().splitlines()[:121]))
    if options:
        options = {"evaluate.labels": str(small_input[1]), **options}
    options = {name: str(half) if value == "half" else value for name, value in options.items()}
    with pytest.raises(UsageError, match=message):
        choose(**{"select.supervised": True, **options})


def test_cross_fitted_dynamics_come_from_held_out_samples(small_run, small_input, tmp_path):
    run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
    options = {**OPTIONS, "proxy.folds": 3, "select.beta": 0.2}
    result = select(small_input[0], BUDGET, num_classes=10, out=run_dir, **sections(options))
    stages, before = result.manifest["records"], small_run.manifest["records"]
    assert stages["pseudo_labels"] == before["pseudo_labels"]
    # Whom the proxy does not train on, it gets wrong more often.
    assert stages["proxy"]["metrics"]["held_out_accuracy"] < before["proxy"]["metrics"]["train_accuracy"]
    dynamics = Table(RunFolder(result.run_dir), "dynamics").read().to_pandas()
    assert (dynamics["epochs_seen"] == OPTIONS["proxy.epochs"]).all()


def test_balance_follows_the_clusters(choose):
    result = choose(**{"select.method": "random", "select.balance": "cluster"})
    stages = result.manifest["records"]
    selected = np.array(stages[f"select/random/{BUDGET}"]["metrics"]["cluster_sizes"])
    expected = np.array(stages["pseudo_labels"]["metrics"]["cluster_sizes"]) * BUDGET / NUM_IMAGES
    assert np.abs(selected - expected).max() < 1
