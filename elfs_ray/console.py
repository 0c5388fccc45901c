"""What is seen while stages run: progress bars on a terminal, plain lines in a log file, JSON for a program."""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LOG_INTERVAL_SECONDS = 20.0
# A bar's rate is that of its last thousand steps within this time: long, for trainings that take minutes each.
RATE_PERIOD_SECONDS = 3600.0


def prepare_streams() -> None:
    """Let what is printed reach its reader, whatever that can show, and nothing else.

    What a terminal cannot show, or a file name that is no text, is escaped. Where there is no output at all, a file
    would get its number, and what a library prints would go there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def read_names_as_utf8() -> None:
    """Begin again in UTF-8 where Python reads file names as something else, as in `LC_ALL=C`: the libraries do not.

    What is printed stays in the encoding that the terminal has.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    given = {"PYTHONIOENCODING": f"{encoding}:backslashreplace", **os.environ, "PYTHONUTF8": "1"}
    with contextlib.suppress(OSError):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], given)  # noqa: S606 - this very command


def told_time(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads well."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def told_rate(per_second: float, unit: str) -> str:
    """Units a second, a minute or an hour, whichever is one at least."""
    for seconds, name in ((1, "s"), (60, "min")):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:,.1f} {unit}/{name}"
    return f"{per_second * 3600:,.1f} {unit}/h"


class LogForm(StrEnum):
    """How a run tells of itself."""

    auto = "auto"
    quiet = "quiet"
    json = "json"


class Meter:
    """Counts finished units of one piece of work and shows them; `update` takes the number done so far."""

    def update(self, done: int) -> None:
        """Show that `done` units are finished."""


class Reporter:
    """Says nothing: the reporter of the Python API and of tests."""

    def line(self, text: str, **about: Any) -> None:
        """Say one line.

        Args:
            text: for a person; empty: there is nothing to read.
            about: plain values, for a program.
        """

    @contextmanager
    def meter(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Meter]:
        """Show the progress of `total` units, of which `done` were finished before."""
        yield Meter()


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        return Text(told_rate(task.speed, unit) if task.speed else f"- {unit}/s")


class _BarMeter(Meter):
    def __init__(self, progress: Progress, task: int) -> None:
        self._progress, self._task = progress, task

    def update(self, done: int) -> None:
        self._progress.update(self._task, completed=done)  # type: ignore[arg-type]


class _TimedMeter(Meter):
    """Tells of the progress now and then.

    The clock starts with the first units that end: what comes before them is mostly the start of processes, which
    would make the rest look as slow.
    """

    def __init__(self, tell: Callable[[int, float | None, float | None], None], total: int, done: int) -> None:
        """Take `tell`, which is given the number done, and units a second and seconds left where these are known."""
        self._tell, self._total = tell, total
        self._before = self._first = self._done = done
        self._told = time.monotonic()
        self._started = self._advanced = 0.0

    def update(self, done: int) -> None:
        now = time.monotonic()
        if done > self._done:
            if self._done == self._before:
                self._first, self._started = done, now
            self._done, self._advanced = done, now
        if now - self._told < LOG_INTERVAL_SECONDS or self._done == self._before:
            return
        self._told = now
        if self._done == self._first:
            self._tell(done, None, None)
            return
        # Up to the last unit that ended: while the next one runs, the rate does not sink, and the time left does.
        rate = (done - self._first) / (self._advanced - self._started)
        self._tell(done, rate, max(0.0, (self._total - done) / rate - (now - self._advanced)))


class ConsoleReporter(Reporter):
    """Rich progress bars on a terminal; a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, text: str, **about: Any) -> None:
        """Say one line, if it says anything."""
        if not text:
            return
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def meter(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Meter]:
        """Show the progress of `total` units, of which `done` were finished before."""
        if not self._console.is_terminal:
            told = f"{total:,} {unit}"

            def tell(done: int, rate: float | None, left: float | None) -> None:
                speed = "" if rate is None or left is None else f", {told_rate(rate, unit)}, {told_time(left)} left"
                self.line(f"  {title}: {done:,}/{told}{speed}")

            yield _TimedMeter(tell, total, done)
            return
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(
            *columns, console=self._console, transient=True, speed_estimate_period=RATE_PERIOD_SECONDS
        ) as progress:
            task = progress.add_task(title, total=total, completed=done, unit=unit)
            yield _BarMeter(progress, task)


class JsonReporter(Reporter):
    """A JSON object on each line: `time` and `event`, which is `message` or `progress`."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def _say(self, event: str, **values: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = json.dumps({"time": now, "event": event, **values})
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def line(self, text: str, **about: Any) -> None:
        """Say one line."""
        self._say("message", text=text.strip(), **about)

    @contextmanager
    def meter(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Meter]:
        """Tell of the progress now and then."""

        def tell(done: int, rate: float | None, left: float | None) -> None:
            known = (
                {} if rate is None or left is None else {"per_second": round(rate, 4), "seconds_left": round(left, 1)}
            )
            self._say("progress", task=title, unit=unit, done=done, total=total, **known)

        yield _TimedMeter(tell, total, done)


def shown_in_python() -> Reporter:
    """Shows progress to scripts and notebooks: beside what they print, which may be data."""
    return ConsoleReporter(Console(stderr=True))


def make_reporter(form: LogForm, console: Console) -> Reporter:
    """The reporter of a form."""
    if form is LogForm.quiet:
        return Reporter()
    return JsonReporter(console) if form is LogForm.json else ConsoleReporter(console)
