"""The real process killed or stopped in one stage after the other, and run again: nothing lost, the same coreset."""

import signal
from pathlib import Path

import pytest

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from small import BUDGET, TIMEOUT_SECONDS, command_line, finish, has_begun, published, start, wait_until

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
    process = start(arguments)
    wait_until(lambda: has_begun(stage, run_dir), process)
    process.send_signal(sent)
    if sent == signal.SIGKILL:  # what Ray started holds the pipe for a while
        process.wait()
        process.stderr.close()
    else:
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        assert errors.decode() == "elfs-ray: stopped; run the same command again to go on from here\n"
        assert process.returncode == 130


@pytest.mark.slow
def test_killed_in_stage_after_stage(undisturbed, small_input, tmp_path):
    images, labels = small_input
    killed = tmp_path / "killed"
    arguments = command_line(images, labels, killed)
    complete: set[str] = set()
    for stage, sent in STAGES.items():
        stop_in(stage, sent, arguments, killed)
        assert complete <= published(killed)
        complete = published(killed)
    finish(arguments)
    for artifact in ("samples", "embeddings", "neighbors", "pseudo_labels", "dynamics", f"coresets/elfs/{BUDGET}"):
        ours, theirs = (Table(RunFolder(str(run)), artifact).read() for run in (killed, undisturbed))
        assert ours.equals(theirs), artifact
    ours, theirs = (Table(RunFolder(str(run)), f"evaluation/elfs/{BUDGET}").read() for run in (killed, undisturbed))
    assert ours.drop(["seconds"]).equals(theirs.drop(["seconds"]))
    assert not RunFolder(str(killed)).names(".work")
