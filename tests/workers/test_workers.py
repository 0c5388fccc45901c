"""One training worker or two, also from one day to the next: the same result, but for the order of sums."""

import signal
from functools import partial

import numpy as np
import pytest
import ray

from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.run.runner import run
from elfs_ray.stages import proxy
from elfs_ray.stages.context import StageContext
from elfs_ray.stages.parts.method_inputs import read_dynamics
from forked import Command
from small import command_line, copy_without


@pytest.fixture
def again_from(small_run, tmp_path):
    """A copy of the small run without what a stage made and what came after it."""
    return partial(copy_without, small_run.run_dir, tmp_path / "run")


@pytest.mark.slow
def test_one_training_worker_then_two_give_what_one_gives(ray_session, small_run, small_input, again_from):
    """Killed with one worker, after a checkpoint; gone on with two, which pseudo-labels and proxy then have."""
    folder, address = again_from("pseudo_labels"), ray.get_runtime_context().gcs_address
    command = Command([*command_line(*small_input, folder), "--until=pseudo-labels", f"--address={address}"])
    command.wait_until(lambda: any(folder.glob(".work/pseudo_labels-*/training/checkpoint_*")))
    command.send(signal.SIGKILL)
    command.ended()
    store = RunFolder(str(folder))
    assert "pseudo_labels" not in store.manifest()["records"]
    two_workers = {"pseudo_labels.workers": 2, "proxy.workers": 2}
    manifest = run(load_config(two_workers, base=store.manifest()["config"]), store, Reporter(), until="proxy")
    assert [manifest["records"][stage]["chosen"]["workers"] for stage in ("pseudo_labels", "proxy")] == [2, 2]

    one = RunFolder(small_run.run_dir)
    labels = [Table(each, "pseudo_labels").column("label") for each in (one, store)]
    assert (labels[0] == labels[1]).mean() >= 0.99
    confidence = [Table(each, "pseudo_labels").column("confidence") for each in (one, store)]
    np.testing.assert_allclose(*confidence, atol=0.01)
    if (labels[0] == labels[1]).all():
        dynamics = [read_dynamics(Table(each, "dynamics"))["aum"] for each in (one, store)]
        np.testing.assert_allclose(*dynamics, rtol=1e-3, atol=1e-3)


ON_IMAGES = {
    "proxy.model": "resnet-small",
    "proxy.image_size": 32,
    "proxy.dtype": "float32",
    "proxy.epochs": 3,
    "proxy.learning_rate": 0.01,  # more would make rounding large
}


def dynamics_on_images(folder, on, **options):
    """What the proxy records when it trains a network on images."""
    store = RunFolder(str(folder))
    sections = {f"proxy.{name}": value for name, value in options.items()}
    config = load_config({**ON_IMAGES, **sections}, base=store.manifest()["config"])
    work = ".work/proxy-of-test-" + "-".join(map(str, options.values()))
    proxy.run(StageContext(config, store, Unit("proxy"), work, on, Reporter()))
    return read_dynamics(Table(store, f"{work}/dynamics"))


@pytest.mark.slow
def test_networks_on_images_learn_the_same_with_one_worker_and_with_three(again_from, in_process, ray_session):
    """Batch norm sees the whole batch, each image is augmented as with one, and each worker keeps its own dynamics.

    The last batch has two images: one of three workers has no share of it.
    """
    folder = again_from("proxy")
    one, three = (
        dynamics_on_images(folder, on, workers=workers, batch_size=119)
        for on, workers in ((in_process, 1), (ray_session, 3))
    )
    assert (one["epochs_seen"] == three["epochs_seen"]).all()
    assert (one["epochs_seen"] == 3).all()
    assert one["aum"].std() > 0
    assert np.corrcoef(one["aum"], three["aum"])[0, 1] > 0.999
    np.testing.assert_allclose(three["aum"], one["aum"], atol=0.05)
    assert (three["correctness"] != one["correctness"]).mean() < 0.05
