"""The real pipeline on several nodes of a real cluster: lost in the middle of stages, and with GPUs that are not."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from made_records import record_of
from nodes import running_nodes, workers
from small import BUDGET, TIMEOUT_SECONDS, command_line

NODE = {"num_cpus": 2, "num_gpus": 1}
# Stage -> what shows that it is in the middle: a file of the run, and what Ray calls the process that works on it.
VICTIMS = {
    "embed": ("samples/*", "ray::MapWorker(MapBatches(_EncodeBatch)).submit"),
    "neighbors": ("embeddings/*", "ray::_Holder"),
    "pseudo-labels": (".work/pseudo_labels-*/training/checkpoint_*", "ray::RayTrainWorker"),
}
# The same for stages in which a worker is killed, and its node stays.
KILLED = {
    "proxy": (".work/proxy-*/training/checkpoint_*", "ray::RayTrainWorker"),
    "beta-search": (f".work/beta_search-elfs-{BUDGET}-*", "ray::_Trials"),
    "evaluate": (f"coresets/elfs/{BUDGET}/*", "ray::train"),
}
GPUS = {
    "MapWorker(MapBatches(_EncodeBatch)).__init__": {1.0},
    "_Holder.__init__": {1.0},
    "RayTrainWorker.__init__": {1.0},
    "ResourceTrainable.__init__": {0.25},
    "train": {0.25},
}
# What is chosen by the device.
CHOSEN = {
    "embed": ["dtype", "batch_size"],
    "pseudo_labels": [
        *("pca_dim", "hidden_dim", "bottleneck_dim", "dtype"),
        *("batch_size", "learning_rate", "teacher_momentum", "workers"),
    ],
    "proxy": ["model", "learning_rate", "dtype", "workers"],
}


@pytest.fixture(scope="module")
def cluster():
    with running_nodes() as nodes:
        yield nodes


def start(cluster, *arguments):
    """The command line as a driver on the head."""
    # Nothing of the suite's own Ray.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "elfs_ray.cli", *arguments, f"--set=ray.address={cluster.address}"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=3 * TIMEOUT_SECONDS)
    assert process.returncode == 0, output
    return output


def at_work(process, nodes, run_dir, pattern, title):
    """Wait until a stage is in the middle of its work; returns a node that does it, and a worker there."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        assert process.poll() is None, f"the run ended before {pattern}: {process.stdout.read()}"
        assert time.monotonic() < deadline, f"no {title} with {pattern}"
        if any(run_dir.glob(pattern)):
            for node in nodes:
                for worker in workers(node, title):
                    return node, worker
        time.sleep(0.02)


def kill_at_work(process, nodes, run_dir, pattern, title):
    """Kill a process that works on a stage; one that ended before the signal came was none."""
    while True:
        _, worker = at_work(process, nodes, run_dir, pattern, title)
        with contextlib.suppress(ProcessLookupError):
            return os.kill(worker, signal.SIGKILL)


def assert_same(run_dir, undisturbed, artifacts):
    for artifact in artifacts:
        ours, theirs = (Table(RunFolder(str(run)), artifact).read() for run in (run_dir, undisturbed))
        assert ours.equals(theirs), artifact


@pytest.mark.slow
def test_nodes_and_workers_lost_in_stage_after_stage(cluster, undisturbed, small_input, tmp_path):
    """Scheduled as on GPUs, computed on processors; nodes lost and new, workers killed: the same result."""
    images, labels = small_input
    run_dir = tmp_path / "run"
    nodes = [cluster.add(**NODE) for _ in range(2)]
    process = start(cluster, *command_line(images, labels, run_dir), *as_chosen_in(undisturbed))
    for pattern, title in VICTIMS.values():
        lost, _ = at_work(process, nodes, run_dir, pattern, title)
        cluster.lose(lost)
        nodes = [*(node for node in nodes if node != lost), cluster.add(**NODE)]
    for pattern, title in KILLED.values():
        kill_at_work(process, nodes, run_dir, pattern, title)
    output = finish(process)
    asked = gpus_asked_for(cluster.tasks())
    for node in nodes:
        cluster.lose(node)
    assert_same(run_dir, undisturbed, ["samples", "embeddings", "neighbors", "pseudo_labels", "dynamics"])
    assert_same(run_dir, undisturbed, [f"coresets/elfs/{BUDGET}"])
    ours, theirs = (Table(RunFolder(str(run)), f"evaluation/elfs/{BUDGET}").read() for run in (run_dir, undisturbed))
    # Other options of earlier stages were given by name, so that the trainings have other keys.
    assert ours.drop(["seconds", "training"]).equals(theirs.drop(["seconds", "training"]))
    assert asked == GPUS
    assert "Ray gives GPUs that torch cannot use" in output
    assert "Ray gives GPUs, but processors search: torch finds none" in output
    assert record_of(RunFolder(str(run_dir)), "embed").metrics["devices"] == ["cpu"]


def as_chosen_in(run_dir):
    """What is chosen otherwise for GPUs, as many threads to add up, and more time in the middle of a training."""
    cpus = RunFolder(str(run_dir)).manifest()["hardware"]["workers"]["cpus"]
    options = {"ray.num_cpus": cpus, "pseudo_labels.checkpoint_epochs": 1, "proxy.checkpoint_epochs": 1}
    options |= {f"{stage}.dtype": "float32" for stage in ("beta_search", "evaluate")}
    for stage, names in CHOSEN.items():
        chosen = record_of(RunFolder(str(run_dir)), stage).chosen
        options |= {f"{stage}.{name}": chosen[name] for name in names}
    return [f"--set={name}={value}" for name, value in options.items()]


def gpus_asked_for(tasks):
    """Task or actor -> GPUs that each one asked for, but for those that asked for none."""
    asked = {}
    for task in tasks:
        # In a placement group also under the group's name, once with the bundle's number and once without.
        shares = {count for name, count in task["resources"].items() if name.startswith("GPU")}
        if shares:
            asked.setdefault(task["name"], set()).update(shares)
    return asked
