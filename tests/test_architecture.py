"""Rules of the code base that no tool checks as it stands."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "elfs_ray").rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
class TestModule:
    def test_is_short_enough_to_read(self, path):
        assert len(path.read_text().splitlines()) <= MAX_FILE_LINES

    def test_functions_are_short_enough_to_read(self, path):
        functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        long = {node.name: size for node in functions if (size := node.end_lineno - node.lineno) > MAX_FUNCTION_LINES}
        assert not long

    def test_global_random_state_is_left_alone(self, path):
        """`np.random.default_rng` and `torch.Generator` are passed; nothing seeds or draws globally."""
        forbidden = {"manual_seed_all", "seed", "set_rng_state", "shuffle", "randn", "randint_like"}
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        drawn = [
            ast.unparse(call.func)
            for call in calls
            if isinstance(call.func, ast.Attribute)
            and call.func.attr in forbidden
            and ast.unparse(call.func.value) in ("np.random", "random", "torch", "torch.cuda")
        ]
        assert not drawn


def test_true_labels_are_named_by_labels_evaluation_and_supervised_inputs_alone():
    users = {path.relative_to(ROOT / "elfs_ray").as_posix() for path in MODULES if '"labels_true"' in path.read_text()}
    assert users == {
        "stages/__init__.py",  # as what a stage makes or reads
        "stages/identity.py",
        "stages/labels.py",
        "stages/evaluate.py",
        "stages/parts/evaluation_sets.py",
        "stages/parts/method_inputs.py",
    }


def test_no_absolute_path_of_a_machine_is_committed():
    command = ["git", "grep", "-nIE", r"(^|[^a-zA-Z.])/(home|root|Users)/[a-z]"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode == 128:
        pytest.skip(f"not a git checkout: {found.stderr.strip()}")
    lines = [line for line in found.stdout.splitlines() if not line.startswith("tests/test_architecture.py")]
    assert not lines
