"""The scripts in `jobs/`, run as scripts."""

import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_standard_module_is_found_from_every_place(tmp_path):
    """Through a link, and from the folder itself."""
    (tmp_path / "link").symlink_to(ROOT / "jobs")
    assert run(str(tmp_path / "link" / "select.py"), "--help").returncode == 0
    assert run("select.py", "--help", folder=ROOT / "jobs").returncode == 0
