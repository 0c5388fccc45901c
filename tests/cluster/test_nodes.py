"""The real pipeline on several nodes of a real cluster: lost in the middle of stages, and with GPUs that are not."""

import os
import subprocess
import sys
import time

import pytest

from elfs_ray.store import Store
from nodes import running_nodes, workers
from small import BUDGET, OPTIONS, TIMEOUT_SECONDS, command_line

NODE_CPUS, NODE_GPUS = 2, 2
# Stage -> what shows that it is in the middle: a file of the run, and what Ray calls the process that works on it.
VICTIMS = {
    "embed": ("samples/*", "ray::MapWorker(MapBatches(_EncodeBatch)).submit"),
    "neighbors": ("embeddings/*", "ray::_Shard"),
    "cluster": (".work/cluster-*/training/checkpoint_*", "ray::RayTrainWorker"),
    "proxy": (".work/proxy-*/training/checkpoint_*", "ray::RayTrainWorker"),
}
# They change no result, and give more time in the middle.
CHECKPOINTS = ["--set=cluster.checkpoint_epochs=1", "--set=proxy.checkpoint_epochs=1"]


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


def working_node(process, nodes, stage, run_dir):
    """Wait until the stage is in the middle of its work, and one of the nodes does it; returns that node."""
    pattern, title = VICTIMS[stage]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        assert process.poll() is None, f"the run ended before {stage}: {process.stdout.read()}"
        assert time.monotonic() < deadline, f"no {title} in {stage}"
        if any(run_dir.glob(pattern)):
            for node in nodes:
                if workers(node, title):
                    return node
        time.sleep(0.02)


def assert_same(run_dir, undisturbed, artifacts):
    for artifact in artifacts:
        ours, theirs = (Store(str(run)).read_table(artifact) for run in (run_dir, undisturbed))
        assert ours.equals(theirs), artifact


@pytest.mark.timeout(900)
def test_nodes_lost_in_every_stage(cluster, small_run, small_input, tmp_path):
    images, labels = small_input
    run_dir = tmp_path / "run"
    nodes = [cluster.add(num_cpus=NODE_CPUS) for _ in range(2)]
    # As many processors as the undisturbed run: they decide how many threads add up.
    process = start(cluster, *command_line(images, labels, run_dir), *CHECKPOINTS, "--set=ray.num_cpus=2")
    for stage in VICTIMS:
        lost = working_node(process, nodes, stage, run_dir)
        cluster.lose(lost)
        nodes = [*(node for node in nodes if node != lost), cluster.add(num_cpus=NODE_CPUS)]
    finish(process)
    for node in nodes:
        cluster.lose(node)
    assert_same(run_dir, small_run.run_dir, ["samples", "embeddings", "neighbors", "pseudo_labels", "dynamics"])
    assert_same(run_dir, small_run.run_dir, [f"coresets/elfs/{BUDGET}"])
    ours, theirs = (Store(str(run)).read_table(f"evaluation/elfs/{BUDGET}") for run in (run_dir, small_run.run_dir))
    assert ours.drop(["seconds"]).equals(theirs.drop(["seconds"]))


@pytest.mark.timeout(600)
def test_gpus_that_torch_cannot_use(cluster, small_run, small_input, tmp_path):
    """Scheduled as on GPUs, computed on processors, and said so."""
    images, labels = small_input
    run_dir = tmp_path / "run"
    node = cluster.add(num_cpus=NODE_CPUS, num_gpus=NODE_GPUS)
    # What a GPU would change of the choices, but for the workers.
    like_cpu = ["--set=embed.batch_size=64", "--set=proxy.model=mlp"]
    output = finish(start(cluster, *command_line(images, labels, run_dir), *like_cpu))
    assert "Ray gives GPUs that torch cannot use" in output
    asked = gpus_asked_for(cluster.tasks())
    cluster.lose(node)
    assert asked["MapWorker(MapBatches(_EncodeBatch)).__init__"] in ([1.0], [1.0] * NODE_GPUS)
    assert asked["_Shard.__init__"] == [1.0] * NODE_GPUS
    assert asked["RayTrainWorker.__init__"] == [1.0] * NODE_GPUS * len(["cluster", "proxy"])
    assert set(asked["ResourceTrainable.__init__"]) == {0.25}
    assert asked["_train_one"] == [0.25] * 2 * OPTIONS["evaluate.seeds"]
    assert Store(str(run_dir)).record("embed")["metrics"]["devices"] == ["cpu"]
    assert_same(run_dir, small_run.run_dir, ["samples", "embeddings", "neighbors"])
    assert Store(str(run_dir)).count_rows(f"coresets/elfs/{BUDGET}") == BUDGET


def gpus_asked_for(tasks):
    """Task or actor -> GPUs that each one asked for, in the last run on the cluster."""
    asked = {}
    for task in tasks:
        if task["job"] == max(other["job"] for other in tasks):
            # In a placement group also under the group's name, once with the bundle's number and once without.
            shares = {count for name, count in task["resources"].items() if name.startswith("GPU")}
            asked.setdefault(task["name"], []).extend(shares)
    return asked
