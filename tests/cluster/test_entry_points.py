"""The scripts in `jobs/`, run as scripts."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from small import BUDGET, command_line

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


def run(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_options_are_those_of_the_command(script):
    """`jobs/select.py` must not stand for the module `select`, without which not even subprocess can be imported."""
    ended = run(f"jobs/{script}.py", "--no-such-option")
    assert ended.returncode == 2
    assert ended.stderr.startswith("elfs-ray: No such option: --no-such-option")
    assert ended.stderr.count("\n") == 1


def test_each_command_has_its_script():
    assert SCRIPTS == ["embed", "evaluate", "select", "sweep"]


def test_an_evaluation(small_run, small_input, tmp_path):
    """Of a run that is there; `test_cluster.py` sends the other scripts to a cluster."""
    run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
    images, labels = small_input
    _, *options = command_line(images, labels, run_dir)
    ended = run("jobs/evaluate.py", *options, "--set=evaluate.models=[linear]", "--set=ray.mode=never")
    assert ended.returncode == 0, ended.stderr
    rows = Table(RunFolder(str(run_dir)), f"evaluation/elfs/{BUDGET}").read().to_pandas()
    assert rows.groupby(["model", "subset"]).size().to_dict() == {("linear", "elfs"): 2, ("linear", "random"): 2}


def test_the_standard_module_is_found_from_every_place(tmp_path):
    """Through a link, and from the folder itself."""
    (tmp_path / "link").symlink_to(ROOT / "jobs")
    assert run(str(tmp_path / "link" / "select.py"), "--help").returncode == 0
    assert run("select.py", "--help", folder=ROOT / "jobs").returncode == 0
