"""Worker processes of Ray killed in every stage of one real run: it recovers by itself, with the same result."""

import os
import signal
import time

import psutil
import pytest

from elfs_ray.store import Store
from small import BUDGET, TIMEOUT_SECONDS, command_line, start

# Stage -> what Ray calls the process that works on it.
VICTIMS = {
    "embed": "ray::MapWorker(MapBatches(_EncodeBatch))",
    "neighbors": "ray::_Shard",
    "cluster": "ray::RayTrainWorker",
    "proxy": "ray::RayTrainWorker",
    f"beta_search-elfs-{BUDGET}": "ray::_BetaTrial",
    f"evaluation-elfs-{BUDGET}": "ray::_train_one",
}


def workers(process, title):
    """Processes of this run with this title."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith(title):
                found.append(child.pid)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def kill_worker(process, stage, title, run_dir):
    """Wait until the stage has begun and the worker is there, and kill it; returns how many seconds that took."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        assert process.poll() is None, f"the run ended before {stage}: {process.stderr.read().decode()}"
        assert time.monotonic() < deadline, f"no {title} in {stage}"
        found = workers(process, title) if any(run_dir.glob(f".work/{stage}-*")) else []
        if found:
            os.kill(found[0], signal.SIGKILL)
            return
        time.sleep(0.02)


@pytest.mark.timeout(600)
def test_workers_killed_in_every_stage(small_run, small_input, tmp_path):
    images, labels = small_input
    run_dir = tmp_path / "run"
    process = start(command_line(images, labels, run_dir))
    for stage, title in VICTIMS.items():
        kill_worker(process, stage, title, run_dir)
    _, errors = process.communicate(timeout=2 * TIMEOUT_SECONDS)
    assert process.returncode == 0, errors.decode()
    ours, theirs = Store(str(run_dir)), Store(small_run.run_dir)
    for artifact in ("samples", "embeddings", "neighbors", "pseudo_labels", "dynamics", f"coresets/elfs/{BUDGET}"):
        mine, undisturbed = (store.read_table(artifact) for store in (ours, theirs))
        names = [name for name in mine.column_names if name != "uri"]
        assert mine.select(names).equals(undisturbed.select(names)), artifact
    mine, undisturbed = (store.read_table(f"evaluation/elfs/{BUDGET}").drop(["seconds"]) for store in (ours, theirs))
    assert mine.equals(undisturbed)
