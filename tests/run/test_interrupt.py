"""Ctrl-C in the real process: one line, status 130, and the same command goes on from there, to the same result.

On Ray and in the process: so what comes out does not depend on where a run works, either.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from elfs_ray.artifacts.run_folder import RunFolder
from elsewhere import ROOT
from forked import Command
from same_run import assert_same_run
from small import BUDGET, TIMEOUT_SECONDS, command_line, has_begun, published

TOLD = "elfs-ray: stopped; run the same command again to go on from here"
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


@pytest.mark.slow
def test_interrupted_on_ray_in_stage_after_stage(ray_session, small_run, small_input, tmp_path):
    """In the end, there is what one process makes undisturbed.

    Where Ray has handlers of its own, with a terminal and without; and once on a Ray that the command itself started,
    whose processes the terminal interrupts, too.
    """
    run_dir = tmp_path / "run"
    arguments = command_line(*small_input, run_dir)
    there, own = f"--address={ray.get_runtime_context().gcs_address}", "--set=ray.mode=always"
    complete: set[str] = set()
    for stage in STAGES:
        terminal, where = stage in ("proxy", "beta_search"), own if stage == "proxy" else there
        complete = interrupted([*arguments, where], run_dir, stage, complete, terminal=terminal)
        assert not any(name.startswith(stage) for name in complete)
    assert complete > {"embed", "neighbors", "pseudo_labels", "proxy", f"select/elfs/{BUDGET}"}
    assert Command([*arguments, there]).ended() == (0, "")
    assert RunFolder(str(tmp_path / "run")).manifest()["hardware"]["workers"]["are"] == "on Ray"
    assert_same_run(tmp_path / "run", small_run.run_dir)


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "none"])
def test_interrupted_in_the_process_in_stage_after_stage(small_run, small_input, tmp_path, terminal):
    """Some stages are over before the signal comes, and it meets the next one."""
    arguments = command_line(*small_input, tmp_path / "run")
    complete: set[str] = set()
    for stage in STAGES:
        complete = interrupted(arguments, tmp_path / "run", stage, complete, terminal=terminal)
    assert Command(arguments).ended() == (0, "")
    assert_same_run(tmp_path / "run", small_run.run_dir)


def interrupted(arguments: list[str], run_dir: Path, stage: str, complete: set[str], *, terminal: bool) -> set[str]:
    """Start the command and interrupt it in a stage; what was complete stays, and what is then is returned."""
    command = Command(arguments, terminal=terminal)
    command.wait_until(lambda: has_begun(STAGES[stage], run_dir))
    command.send(signal.SIGINT)
    status, said = command.ended()
    assert status == 130, (stage, said)
    assert said.count(TOLD) == 1, (stage, said)
    assert "Traceback" not in said
    assert complete <= published(run_dir)
    return published(run_dir)


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
