"""The search for beta: trials that are stopped early, logs for TensorBoard, and what resuming does."""

import os
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from board_logs import logged
from elfs_ray import select
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config import BetaSearchConfig, EvaluateConfig, RunConfig, SelectConfig
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.core.pruning import beta_grid
from elfs_ray.core.splits import stratified_split
from elfs_ray.methods import SelectionInputs
from elfs_ray.planning.auto_options import choose_beta_search
from elfs_ray.stages import beta_search, identity
from elfs_ray.stages.context import StageContext
from elfs_ray.stages.descriptor import Case
from elfs_ray.workers.hardware import Hardware, has_bfloat16
from elfs_ray.workers.on_ray.workers import OnRay
from made_records import record_of
from ray_cluster import workers
from small import BUDGET, OPTIONS, sections

TABLE = f"beta_search/elfs/{BUDGET}"


@pytest.fixture
def search(small_run, small_input, tmp_path):
    """Search and select in a copy of the small run."""

    def run(name="run", **changes):
        run_dir = shutil.copytree(small_run.run_dir, tmp_path / name)
        select(small_input[0], BUDGET, num_classes=10, out=run_dir, **sections({**OPTIONS, **changes}))
        return RunFolder(str(run_dir))

    return run


def chosen(evaluate=None, budget=100, dtype="float32", **options):
    """Options of a search as it would choose them, over images of 32 pixels."""
    section = EvaluateConfig(**(evaluate or {}))
    return choose_beta_search(BetaSearchConfig(**options), section, 32, budget, image_dtype=dtype)


@pytest.mark.parametrize(
    ("options", "budget", "steps"),
    [
        ({}, 30, 200),
        ({}, 180, 200),
        ({"model": "linear"}, 400, 313),  # a hundred passes in batches of 128
        ({"model": "resnet-small"}, 180, 500),
        ({}, 6_400, 500),
        ({}, 15_000, 1172),  # ten passes in batches of 128
        ({"model": "resnet18"}, 15_000, 586),  # of 256
        ({"batch_size": 64}, 15_000, 2344),
        ({"steps": 30}, 15_000, 30),
    ],
)
def test_trials_take_as_many_steps_as_the_coreset_needs(options, budget, steps):
    assert chosen(budget=budget, **options).steps == steps


@pytest.mark.parametrize(
    ("options", "evaluate", "trained"),
    [
        ({}, {}, (128, 0.02, 5e-4)),
        ({}, {"batch_size": 64, "learning_rate": 0.05, "weight_decay": 0}, (64, 0.05, 0)),
        ({"model": "resnet18"}, {"models": ["mlp", "resnet18"], "learning_rate": 0.05}, (256, 0.05, 5e-4)),
        # Those of the evaluation are another model's.
        ({}, {"models": ["resnet18"], "batch_size": 256, "learning_rate": 0.1, "weight_decay": 0}, (128, 0.02, 5e-4)),
        ({"learning_rate": 0.01, "weight_decay": 0}, {"batch_size": 64, "learning_rate": 0.05}, (64, 0.01, 0)),
    ],
)
def test_trials_train_as_the_evaluation_trains_their_model(options, evaluate, trained):
    found = chosen(evaluate, **options)
    assert (found.batch_size, found.learning_rate, found.weight_decay) == trained


@pytest.mark.parametrize(
    ("overrides", "again"),
    [
        (["evaluate.learning_rate=0.05"], True),
        (["beta_search.batch_size=64"], True),
        (["evaluate.learning_rate=0.02", "beta_search.batch_size=128"], False),  # what `auto` is
        (["evaluate.models=[resnet18]", "evaluate.weight_decay=0"], False),
    ],
)
def test_a_search_is_done_again_where_its_trials_train_differently(overrides, again):
    def decisive(overrides):
        config = load_config({"input": "photos", "num_classes": 2, "budgets": [10]}, overrides=overrides)
        return identity.of_search(Case(config, Unit("beta_search", method="elfs", budget=10)))

    assert (decisive(overrides) != decisive([])) == again


def test_asha_stops_the_worse_trials(ray_session, search):
    """And changes nothing for those that it lets go on: they train as trials that report once."""
    betas = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    options = {"beta_search.betas": betas, "beta_search.seeds": 2, "beta_search.steps": 90}
    store = search(**{"beta_search.scheduler": "asha", **options})
    rows = Table(store, TABLE).read().to_pandas()
    assert list(zip(rows["beta"], rows["seed"], strict=True)) == [(beta, seed) for beta in betas for seed in range(2)]
    assert set(rows["steps"]) <= {10, 30, 90}
    assert rows["steps"].min() < 90 == rows["steps"].max()
    assert (rows.groupby("beta")["steps"].nunique() == 1).all(), "what is stopped is a candidate, not one of its seeds"
    by_beta = rows.groupby("beta").agg({"validation_accuracy": "mean", "steps": "min"})
    farthest = by_beta[by_beta["steps"] == by_beta["steps"].max()]
    assert record_of(store, TABLE).metrics["beta"] == farthest["validation_accuracy"].round(12).idxmax()
    for number, beta in enumerate(betas):
        reports = logged(Path(store.path("logs", TABLE, f"candidate-{number}")), "validation_accuracy")
        assert reports[-1] == pytest.approx(by_beta["validation_accuracy"][beta])

    apart = Table(search("apart", **options, **{"ray.mode": "never"}), TABLE).read().to_pandas()
    went_on = rows["steps"] == 90
    assert rows[went_on].equals(apart[went_on])


@pytest.mark.parametrize(("model", "dtype"), [("mlp", "float32"), ("resnet-small", "bfloat16")])
def test_only_networks_on_images_take_the_arithmetic_of_the_hardware(model, dtype):
    assert chosen(model=model, dtype="bfloat16").dtype == dtype


@pytest.mark.parametrize("model", ["mlp", "resnet-small"])
def test_goes_on_as_it_began_on_another_machine(tmp_path, model):
    """Trials that ended there stand beside those from here; how often one is tried again changes nothing."""
    config = RunConfig(input="photos", num_classes=2, budgets=[1])
    context = StageContext(config, RunFolder(str(tmp_path)), "unit", "work", OnRay(Hardware("cpu", 2, 0)), Reporter())
    here = chosen(model=model, max_failures=5, dtype="bfloat16")
    there = chosen(model=model, max_failures=2)
    assert context.as_begun(here) == here
    context.begin(there)
    assert context.as_begun(here) == here.model_copy(update={"dtype": "float32"})


def test_with_the_network_that_the_user_will_train(search, small_run):
    """Trials on pixels: images of 64 pixels, as they are, and not what an MLP on embeddings finds."""
    options = {"model": "resnet-small", "steps": 40, "betas": [0.0, 0.2]}
    store = search(**{f"beta_search.{name}": value for name, value in options.items()})
    chosen = record_of(store, TABLE).chosen
    dtype = Hardware("cpu", 2, 0, has_bfloat16()).image_dtype
    assert (chosen["model"], chosen["image_size"], chosen["dtype"]) == ("resnet-small", 64, dtype)
    ours, theirs = (Table(found, TABLE).read().to_pandas() for found in (store, RunFolder(small_run.run_dir)))
    assert ours["steps"].tolist() == [40, 40]
    assert ours["validation_accuracy"].max() > 0.2  # ten classes
    assert ours["validation_accuracy"].tolist() != theirs["validation_accuracy"][:2].tolist()


def test_every_trial_is_logged_for_tensorboard(small_run):
    store = RunFolder(small_run.run_dir)
    rows = Table(store, TABLE).read().to_pandas()
    assert len(rows) == len(OPTIONS["beta_search.betas"])
    for number, row in rows.iterrows():
        [accuracy] = logged(Path(store.path("logs", TABLE, f"candidate-{number}")), "validation_accuracy")
        assert accuracy == pytest.approx(row["validation_accuracy"])


def test_actors_lost_between_and_in_trials(ray_session, search, tmp_path):
    """Killed as soon as trials end, when their actors go on to the next: nothing lost, nothing changed."""
    killed = []

    def kill(run_dir, ended):
        for count in (2, 5):
            while not ended.wait(0.002):
                saved = list(run_dir.glob(".work/beta_search-*/trials/*.json"))
                actors = workers(os.getpid(), "ray::_Trials") if len(saved) >= count else []
                if actors:
                    os.kill(actors[0], signal.SIGKILL)
                    killed.append(actors[0])
                    break

    betas = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    options = {"beta_search.betas": betas, "beta_search.seeds": 2, "beta_search.steps": 31}
    undisturbed = Table(search(**options, **{"ray.mode": "never"}), TABLE).read()
    ended = threading.Event()
    watcher = threading.Thread(target=kill, args=(tmp_path / "disturbed", ended))
    watcher.start()
    try:
        disturbed = Table(search("disturbed", **options), TABLE).read()
    finally:
        ended.set()
        watcher.join()
    assert len(killed) == 2
    assert disturbed.equals(undisturbed)


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_a_coreset_of_few_samples(count, rng):
    """Every beta leaves one, and samples that all have labels are all there is to train on."""
    labels = np.arange(count) % 2
    dynamics = {"aum": rng.random(count)}
    for budget in range(1, count):
        for labeled in {0, budget - 1}:
            mask = np.arange(count) < labeled
            inputs = SelectionInputs(np.arange(count), dynamics=dynamics, labeled=mask)
            data = SimpleNamespace(select=SelectConfig(balance="none"), inputs=inputs, budget=budget, labels=labels)
            for beta in beta_grid(budget / count):
                training, held_out = stratified_split(labels, 0.1, rng)
                chosen = beta_search._coreset(data, {"beta": beta}, training, rng)
                assert set(chosen) <= set(training)
                assert set(np.flatnonzero(mask)) & set(training) <= set(chosen)
                assert len(set(chosen)) == len(chosen) > 0
                assert len(held_out)
