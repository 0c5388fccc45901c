"""Processes in surroundings other than those of the tests: another user, another environment, another folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from small import TIMEOUT_SECONDS

NAMELESS = 12345
"""A user whom no list of users names, as in a container that was started with `--user 12345`."""
ROOT = Path(__file__).parents[1]
# In LC_ALL=C Python takes UTF-8 by itself, unless it is told not to.
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}


def run_python(*arguments, cwd, user=None, **environment):
    """Run Python with nothing in its environment but what is given, this package's folder and where programs are."""
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [*_as(user), sys.executable, *map(str, arguments)],
        cwd=cwd, env={name: str(value) for name, value in given.items() if value is not None},
        capture_output=True, text=True, encoding="utf-8", check=False, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip


def give_to(user, *paths):
    """Make paths, and all below them, somebody's."""
    for path in paths:
        for one in (path, *path.rglob("*")):
            os.chown(one, user, user)


def _as(user):
    """What runs a command as somebody who may read all files, Python's own among them, and write to their own alone."""
    if user is None:
        return []
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root becomes somebody else, with setpriv")
    rights = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *rights]
