"""One training worker or two, also from one day to the next: the same result, but for the order of sums."""

import json
import shutil

import numpy as np
import pytest

from elfs_ray.config import load_config
from elfs_ray.console import Reporter
from elfs_ray.engine.artifacts import read_column, read_dynamics
from elfs_ray.pipeline import run
from elfs_ray.store import Store
from small import command_line, start, wait_until


@pytest.fixture
def again_from(small_run, tmp_path):
    """A copy of the small run without what a stage made and what came after it."""

    def copy(first):
        folder = shutil.copytree(small_run.run_dir, tmp_path / "run")
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        stages = list(manifest["stages"])
        manifest["stages"] = {unit: manifest["stages"][unit] for unit in stages[: stages.index(first)]}
        path.write_text(json.dumps(manifest))
        return folder

    return copy


@pytest.mark.slow
def test_one_training_worker_then_two_give_what_one_gives(small_run, small_input, again_from):
    """Killed with one worker, after a checkpoint; gone on with two, which cluster and proxy then have."""
    folder = again_from("cluster")
    process = start([*command_line(*small_input, folder), "--until=cluster"])
    wait_until(lambda: any(folder.glob(".work/cluster-*/training/checkpoint_*")), process)
    process.kill()
    process.wait()
    store = Store(str(folder))
    assert "cluster" not in store.manifest()["stages"]
    two_workers = {"cluster.workers": 2, "proxy.workers": 2}
    manifest = run(load_config(two_workers, base=store.manifest()["config"]), store, Reporter(), until="proxy")
    assert [manifest["stages"][stage]["chosen"]["workers"] for stage in ("cluster", "proxy")] == [2, 2]

    one = Store(small_run.run_dir)
    labels = [read_column(each, "pseudo_labels", "label") for each in (one, store)]
    assert (labels[0] == labels[1]).mean() >= 0.99
    confidence = [read_column(each, "pseudo_labels", "confidence") for each in (one, store)]
    np.testing.assert_allclose(*confidence, atol=0.01)
    if (labels[0] == labels[1]).all():
        dynamics = [read_dynamics(each)["aum"] for each in (one, store)]
        np.testing.assert_allclose(*dynamics, rtol=1e-3, atol=1e-3)
