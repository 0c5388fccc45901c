"""Ctrl-C and SIGTERM in the real process: one line, status 130, and the same command goes on from there.

Those on Ray share the suite's.
"""

import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elsewhere import ROOT
from small import BUDGET, TIMEOUT_SECONDS, command_line, finish, has_begun, published, wait_until

TOLD = b"elfs-ray: stopped; run the same command again to go on from here"
# Stage -> folder of what it saves while it works.
STAGES = {
    "ingest": ".work/ingest-*",
    "embed": ".work/embed-*",
    "neighbors": ".work/neighbors-*",
    "pseudo_labels": ".work/pseudo_labels-*",
    "proxy": ".work/proxy-*",
    "beta_search": f".work/beta_search-elfs-{BUDGET}-*",
    "evaluate": "trainings",
}
# A terminal of its own for a command: what comes in here is typed there.
TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


class Started:
    """A command in a process of its own, in a terminal or without."""

    def __init__(self, arguments: list[str], *, terminal: bool) -> None:
        command = [sys.executable, "-m", "elfs_ray.cli", *arguments]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would fill up with progress bars
        self.process = subprocess.Popen(
            [sys.executable, "-c", TERMINAL, *command] if terminal else command,
            cwd=ROOT, stdin=subprocess.PIPE, stdout=self._said, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._terminal = terminal

    def interrupt(self) -> None:
        """As a user does it, or a program."""
        if self._terminal:
            self.process.stdin.write(b"\x03")
            self.process.stdin.flush()
        else:
            self.process.send_signal(signal.SIGINT)

    def ended(self) -> tuple[int, bytes]:
        """Exit status, and all that it said."""
        self.process.communicate(timeout=TIMEOUT_SECONDS)
        self._said.seek(0)
        return self.process.returncode, self._said.read()


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "none"])
def test_interrupted_on_ray_in_stage_after_stage(ray_session, small_input, tmp_path, terminal):
    address = ray.get_runtime_context().gcs_address
    arguments = [*command_line(*small_input, tmp_path / "run"), f"--address={address}"]
    for stage, complete in interrupted_in(arguments, tmp_path / "run", terminal=terminal):
        assert not any(name.startswith(stage) for name in complete)
    assert complete > {"embed", "neighbors", "pseudo_labels", "proxy", f"select/elfs/{BUDGET}"}


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "none"])
def test_interrupted_in_the_process_in_stage_after_stage(small_run, small_input, tmp_path, terminal):
    """Some stages are over before the signal comes, and it meets the next one."""
    arguments = command_line(*small_input, tmp_path / "run")
    deque(interrupted_in(arguments, tmp_path / "run", terminal=terminal), maxlen=0)
    finish(arguments)
    ours, theirs = (
        Table(RunFolder(str(folder)), f"coresets/elfs/{BUDGET}").read()
        for folder in (tmp_path / "run", small_run.run_dir)
    )
    assert ours.equals(theirs)


def interrupted_in(arguments: list[str], run_dir: Path, *, terminal: bool) -> Iterator[tuple[str, set[str]]]:
    """Start the command again and again, and interrupt it in one stage after the other; gives what is published."""
    complete: set[str] = set()
    for stage, folder in STAGES.items():
        started = Started(arguments, terminal=terminal)
        wait_until(lambda folder=folder: has_begun(folder, run_dir), started.process)
        started.interrupt()
        status, said = started.ended()
        assert status == 130, (stage, said.decode())
        assert said.count(TOLD) == 1, (stage, said.decode())
        assert b"Traceback" not in said
        assert complete <= published(run_dir)
        complete = published(run_dir)
        yield stage, complete


WITH_A_LONG_END = """
import sys, time
from elfs_ray.cli.interrupts import Interrupts
interrupts = Interrupts(lambda: print("told", flush=True))
interrupts.listen()
try:
    print("works", flush=True)
    time.sleep(600)
finally:
    print("cleans up", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_ends_at_once(second):
    command = [sys.executable, "-c", WITH_A_LONG_END]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"works\n"
        process.send_signal(signal.SIGTERM)
        assert [process.stdout.readline() for _ in range(2)] == [b"told\n", b"cleans up\n"]
        process.send_signal(second)
        assert process.communicate(timeout=TIMEOUT_SECONDS) == (b"", b"")
        assert process.returncode == 130
