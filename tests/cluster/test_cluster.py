"""Jobs sent to a real cluster of several nodes that wants a token: results, exit statuses, and all that can be lost."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from ray.job_submission import JobStatus

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from made_records import record_of
from ray_cluster import Cluster, running_cluster, workers
from same_run import assert_same_rows
from small import BUDGET, OPTIONS, TIMEOUT_SECONDS, published, wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NODE = {"num_cpus": 2, "num_gpus": 1}  # scheduled as on GPUs, computed on processors
# Stage -> what shows that it is in the middle: a file of the run, and what Ray calls the process that works on it.
LOST_IN_EMBED = ("samples/*", "ray::MapWorker(MapBatches(_EncodeBatch)).submit")
NODES_LOST = {
    "neighbors": ("embeddings/*", "ray::_Holder"),
    "pseudo-labels": (".work/pseudo_labels-*/training/checkpoint_*", "ray::RayTrainWorker"),
}
# The same for stages in which a worker is killed, and its node stays.
WORKERS_KILLED = {
    "proxy": (".work/proxy-*/training/checkpoint_*", "ray::RayTrainWorker"),
    "beta-search": (f".work/beta_search-elfs-{BUDGET}-*", "ray::_Trials"),
}
KILLED_IN_EVALUATION = (f"coresets/elfs/{BUDGET}/*", "ray::train")
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
def cluster() -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


class Job:
    """One of the scripts in `jobs/`, sent to the cluster."""

    def __init__(self, cluster: Cluster, arguments: list[str]) -> None:
        self._client = cluster.client()
        self._id = self._client.submit_job(entrypoint=shlex.join(arguments), runtime_env={"working_dir": str(ROOT)})

    def wait_until(self, reached: Callable[[], Any]) -> Any:
        """Wait for something that the job does, which must go on until then; returns it."""
        return wait_until(reached, self.log, goes_on=lambda: not self._has_ended())

    def stop(self) -> None:
        self._client.stop_job(self._id)

    def ended(self) -> tuple[JobStatus, int | None]:
        """Its end, and the status of its process."""
        wait_until(self._has_ended, self.log)
        info = self._client.get_job_info(self._id)
        return info.status, info.driver_exit_code

    def _has_ended(self) -> bool:
        return self._client.get_job_status(self._id).is_terminal()

    def log(self) -> str:
        return self._client.get_job_logs(self._id)


def script(name: str, images: Path, run_dir: Path, *more: str) -> list[str]:
    sets = [f"--set={option}={value}".replace(" ", "") for option, value in OPTIONS.items()]
    required = ["--input", str(images), "--budget", str(BUDGET), "--num-classes", "10", "--out", str(run_dir)]
    return ["python", f"jobs/{name}.py", *required, *sets, *more]


def submitted(cluster: Cluster, *entrypoint: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` as a user types it."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", ".", "--"]
    return subprocess.run(
        [*command, *entrypoint],
        cwd=ROOT,
        env={**cluster.environment, "RAY_API_SERVER_ADDRESS": cluster.address},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def test_the_cluster_wants_the_token(cluster):
    assert requests.get(f"{cluster.address}/api/jobs/", timeout=10).status_code == 401
    assert requests.get(f"{cluster.address}/api/jobs/", headers=cluster.header, timeout=10).status_code == 200


def test_wrong_use_fails_with_status_2_and_one_line(cluster, small_input, tmp_path):
    sent = submitted(cluster, *script("select", small_input[0], tmp_path / "run", "--method=efls"))
    assert sent.returncode == 1, sent.stdout
    assert "elfs-ray: unknown method 'efls'; did you mean 'elfs'?" in sent.stdout
    [failed] = [one for one in cluster.client().list_jobs() if "--method=efls" in one.entrypoint]
    assert (failed.status, failed.driver_exit_code) == (JobStatus.FAILED, 2)
    assert not (tmp_path / "run").exists()


def test_jobs_stopped_and_nodes_and_workers_lost(cluster, small_run, small_input, tmp_path):
    """In one run folder, the result of a run in one process: jobs stopped, nodes lost and new, workers killed."""
    run_dir, (images, labels) = tmp_path / "run", small_input
    nodes = [cluster.add(**NODE) for _ in range(2)]
    options = as_chosen_in(small_run.run_dir)

    first = Job(cluster, script("embed", images, run_dir, *options))
    first.wait_until(lambda: "ingest" in published(run_dir))
    first.stop()
    assert first.ended()[0] == JobStatus.STOPPED
    assert "embed" not in published(run_dir)

    second = Job(cluster, script("embed", images, run_dir, *options))
    nodes = lose_at_work(cluster, second, nodes, run_dir, *LOST_IN_EMBED)
    assert second.ended() == (JobStatus.SUCCEEDED, 0), second.log()
    assert is_told(second.log(), "Checked 240 images")
    assert "Ray gives GPUs that torch cannot use" in second.log()

    third = Job(cluster, script("select", images, run_dir, *options))
    for pattern, title in NODES_LOST.values():
        nodes = lose_at_work(cluster, third, nodes, run_dir, pattern, title)
    for pattern, title in WORKERS_KILLED.values():
        kill_at_work(third.wait_until, nodes, run_dir, pattern, title)
    assert third.ended() == (JobStatus.SUCCEEDED, 0), third.log()
    assert is_told(third.log(), "Embedded 240 images")
    assert "Ray gives GPUs, but processors search: torch finds none" in third.log()
    assert record_of(RunFolder(str(run_dir)), "embed").metrics["devices"] == ["cpu"]
    # That run had labels, for its evaluation; this one has none.
    artifacts = ("samples", "embeddings", "neighbors", "pseudo_labels", "dynamics", f"coresets/elfs/{BUDGET}")
    assert_same_rows(run_dir, small_run.run_dir, artifacts)
    assert (run_dir / "report.html").exists()

    more = ["--method=elfs,random,kcenter", "--labels", str(labels), *options]
    with ThreadPoolExecutor(1) as pool:
        sweep = pool.submit(submitted, cluster, *script("sweep", images, run_dir, *more))
        wait = partial(wait_until, told=lambda: sweep, goes_on=lambda: not sweep.done())
        kill_at_work(wait, nodes, run_dir, *KILLED_IN_EVALUATION)
        swept = sweep.result()
    assert swept.returncode == 0, swept.stdout
    assert "Embedded 240 images with efficientnet-lite0 (there already)" in swept.stdout
    # Other options of earlier stages were given by name, so that the trainings have other keys.
    assert_same_rows(run_dir, small_run.run_dir, [f"evaluation/elfs/{BUDGET}"], but=["training"])
    assert gpus_asked_for(cluster.tasks()) == GPUS
    for method in ("random", "kcenter"):
        assert len(Table(RunFolder(str(run_dir)), f"coresets/{method}/{BUDGET}").read()) == BUDGET


def at_work(nodes, run_dir, pattern, title):
    """Where a stage is in the middle of its work: a node that does it, and a worker there."""
    if any(run_dir.glob(pattern)):
        for node in nodes:
            for worker in workers(node, title):
                return node, worker
    return None


def lose_at_work(cluster, job, nodes, run_dir, pattern, title):
    """Lose a node that works on a stage, and add a new one; returns those that are there then."""
    lost, _ = job.wait_until(lambda: at_work(nodes, run_dir, pattern, title))
    cluster.lose(lost)
    return [*(node for node in nodes if node != lost), cluster.add(**NODE)]


def is_told(log, begin):
    """Whether a job says that it found something in the run folder."""
    return any(line.startswith(begin) and line.endswith("(there already)") for line in log.splitlines())


def kill_at_work(wait, nodes, run_dir, pattern, title):
    """Kill a process that works on a stage; one that ended before the signal came was none."""
    while True:
        _, worker = wait(lambda: at_work(nodes, run_dir, pattern, title))
        with contextlib.suppress(ProcessLookupError):
            return os.kill(worker, signal.SIGKILL)


def as_chosen_in(run_dir):
    """What is chosen otherwise for GPUs, and more time in the middle of a training."""
    options = {"pseudo_labels.checkpoint_epochs": 1, "proxy.checkpoint_epochs": 1}
    options |= {f"{stage}.dtype": "float32" for stage in ("beta_search", "evaluate")}
    for stage, names in CHOSEN.items():
        chosen = record_of(RunFolder(run_dir), stage).chosen
        options |= {f"{stage}.{name}": chosen[name] for name in names}
    return [f"--set={name}={value}" for name, value in options.items()]


def gpus_asked_for(tasks):
    """Task or actor -> GPUs that each one asked for, but for those that asked for none."""
    asked = {}
    for task in tasks:
        # In a placement group also under the group's name, once with the bundle's number and once without.
        shares = {count for name, count in task["required_resources"].items() if name.startswith("GPU")}
        if shares:
            asked.setdefault(task["func_or_class_name"], set()).update(shares)
    return asked
