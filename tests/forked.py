"""Processes forked from one that has the imports, which take longer than the work; the command line is one of them.

`elsewhere.run_python` starts Python from the beginning.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from small import TIMEOUT_SECONDS, wait_until

FORKS = multiprocessing.get_context("forkserver")
# Ray is not among them: it starts threads, which a fork loses.
FORKS.set_forkserver_preload([
    *("elfs_ray.run.runner", "elfs_ray.report.render", "elfs_ray.workers.in_process.session"),
    *("numba", "scipy.stats", "sklearn.cluster", "pandas", "pyarrow.dataset", "torchvision", "plotly"),
])  # fmt: skip


class Command:
    """`elfs-ray` with these arguments, which a test watches, interrupts or kills."""

    def __init__(
        self, arguments: list[str], *, environment: Mapping[str, str] = os.environ, terminal: bool = False
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._said = Path(self._folder.name, "said")  # no pipe: one that nobody reads would fill up with progress bars
        self._said.touch()
        self._terminal = _Terminal(self._said) if terminal else None
        place = self._terminal.name if self._terminal else None
        self._process = FORKS.Process(target=_command, args=(arguments, dict(environment), str(self._said), place))
        self._process.start()

    @property
    def status(self) -> int | None:
        """Exit status, the negative number of the signal that killed it, or None while it goes on."""
        return self._process.exitcode

    def wait_until(self, reached: Callable[[], object]) -> None:
        """Wait for something that it does, which must go on until then."""
        wait_until(reached, lambda: (self.status, self._said.read_text()), goes_on=lambda: self.status is None)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, as a program does it; Ctrl-C in a terminal is typed there."""
        if self._terminal and number == signal.SIGINT:
            self._terminal.type(b"\x03")
        else:
            os.kill(self._process.pid, number)

    def ended(self) -> tuple[int, str]:
        """Wait for its end: exit status, and what it said: of errors, or all in a terminal."""
        self._process.join(TIMEOUT_SECONDS)
        assert self.status is not None, self._said.read_text()
        if self._terminal:
            self._terminal.close()
        said = self._said.read_text()
        self._folder.cleanup()
        return self.status, said


class _Terminal:
    """Keeps in a file what is said there."""

    def __init__(self, said: Path) -> None:
        self._ours, self._its = os.openpty()
        self.name = os.ttyname(self._its)
        self._reader = threading.Thread(target=self._read, args=(said,), daemon=True)
        self._reader.start()

    def type(self, text: bytes) -> None:
        os.write(self._ours, text)

    def close(self) -> None:
        """Once nobody else has it open."""
        os.close(self._its)
        self._reader.join()
        os.close(self._ours)

    def _read(self, said: Path) -> None:
        with said.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # the end of a terminal is an error
            while data := os.read(self._ours, 2**16):
                file.write(data)


def _command(arguments: list[str], environment: dict[str, str], said: str, terminal: str | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if terminal:
        os.setsid()  # the first terminal that is opened from here on is this process's own
        place = os.open(terminal, os.O_RDWR)
        streams = {0: place, 1: place, 2: place}
    else:
        streams = {1: os.open(os.devnull, os.O_WRONLY), 2: os.open(said, os.O_WRONLY)}
    for stream, place in streams.items():
        os.dup2(place, stream)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(stream, "rw"[stream > 0], closefd=False) for stream in range(3))
    sys.argv = ["elfs-ray", *arguments]
    from elfs_ray import cli

    cli.command()
