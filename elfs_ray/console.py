"""What is seen while stages run: progress bars on a terminal, plain lines in a log file, JSON for a program."""

import json
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

    def line(self, text: str) -> None:
        """Say one line."""

    @contextmanager
    def meter(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Meter]:
        """Show the progress of `total` units, of which `done` were finished before."""
        yield Meter()


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = f"{task.speed:,.1f}" if task.speed else "-"
        return Text(f"{rate} {task.fields['unit']}/s")


class _BarMeter(Meter):
    def __init__(self, progress: Progress, task: int) -> None:
        self._progress, self._task = progress, task

    def update(self, done: int) -> None:
        self._progress.update(self._task, completed=done)  # type: ignore[arg-type]


class _TimedMeter(Meter):
    """Tells of the progress now and then."""

    def __init__(self, tell: Callable[[int, float, float], None], total: int, done: int) -> None:
        """Take `tell`, which is given the number done, units a second and seconds left."""
        self._tell, self._total = tell, total
        self._first, self._started = done, time.monotonic()
        self._last_time = self._started

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last_time < LOG_INTERVAL_SECONDS or done <= self._first:
            return
        self._last_time = now
        rate = (done - self._first) / (now - self._started)
        self._tell(done, rate, (self._total - done) / rate)


class ConsoleReporter(Reporter):
    """Rich progress bars on a terminal; a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, text: str) -> None:
        """Say one line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def meter(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Meter]:
        """Show the progress of `total` units, of which `done` were finished before."""
        if not self._console.is_terminal:
            told = f"{total:,} {unit}"

            def tell(done: int, rate: float, left: float) -> None:
                self.line(f"  {title}: {done:,}/{told}, {rate:,.1f} {unit}/s, {left:.0f} s left")

            yield _TimedMeter(tell, total, done)
            return
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=self._console, transient=True, speed_estimate_period=30) as progress:
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

    def line(self, text: str) -> None:
        """Say one line."""
        self._say("message", text=text.strip())

    @contextmanager
    def meter(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Meter]:
        """Tell of the progress now and then."""

        def tell(done: int, rate: float, left: float) -> None:
            numbers = {"done": done, "total": total, "per_second": round(rate, 2), "seconds_left": round(left, 1)}
            self._say("progress", task=title, unit=unit, **numbers)

        yield _TimedMeter(tell, total, done)


def make_reporter(form: LogForm, console: Console) -> Reporter:
    """The reporter of a form."""
    if form is LogForm.quiet:
        return Reporter()
    return JsonReporter(console) if form is LogForm.json else ConsoleReporter(console)
