"""The real process killed or stopped in one stage after the other, and run again: nothing lost, the same coreset."""

import signal
from pathlib import Path

import pytest

from elfs_ray.artifacts.run_folder import RunFolder
from forked import Command
from same_run import assert_same_run
from small import BUDGET, command_line, has_begun, published

# Folder of what a stage saves while it works -> signal. SIGKILL comes without notice; the others are Ctrl-C and what
# `ray job stop` sends. test_workers.py kills `pseudo_labels`.
STAGES = {
    **dict.fromkeys([".work/ingest-*", ".work/embed-*"], signal.SIGKILL),
    ".work/neighbors-*": signal.SIGINT,
    ".work/proxy-*": signal.SIGTERM,
    **dict.fromkeys([f".work/beta_search-elfs-{BUDGET}-*", "trainings"], signal.SIGKILL),
}


def stop_in(stage: str, sent: signal.Signals, arguments: list[str], run_dir: Path) -> None:
    """Start the run and end it in the middle of a stage; with notice, it says in one line how to go on."""
    command = Command(arguments)
    command.wait_until(lambda: has_begun(stage, run_dir))
    command.send(sent)
    told = "elfs-ray: stopped; run the same command again to go on from here\n"
    assert command.ended() == ((-sent, "") if sent == signal.SIGKILL else (130, told))


@pytest.mark.slow
def test_killed_in_stage_after_stage(small_run, small_input, tmp_path):
    images, labels = small_input
    killed = tmp_path / "killed"
    arguments = command_line(images, labels, killed)
    complete: set[str] = set()
    for stage, sent in STAGES.items():
        stop_in(stage, sent, arguments, killed)
        assert complete <= published(killed)
        complete = published(killed)
    assert Command(arguments).ended() == (0, "")
    assert_same_run(killed, small_run.run_dir)
    assert not RunFolder(str(killed)).names(".work")
