"""What a person sees while stages run: progress bars on a terminal, plain lines in a log file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LOG_INTERVAL_SECONDS = 20.0


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


class _LineMeter(Meter):
    def __init__(self, console: Console, title: str, total: int, unit: str, done: int) -> None:
        self._console, self._title, self._total, self._unit = console, title, total, unit
        self._first, self._started = done, time.monotonic()
        self._last_line = self._started

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last_line < LOG_INTERVAL_SECONDS or done <= self._first:
            return
        self._last_line = now
        rate = (done - self._first) / (now - self._started)
        left = (self._total - done) / rate
        self._console.print(
            f"  {self._title}: {done:,}/{self._total:,} {self._unit}, {rate:,.1f} {self._unit}/s, {left:.0f} s left",
            highlight=False,
        )


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
            yield _LineMeter(self._console, title, total, unit, done)
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
