"""Progress that workers anywhere advance and the driver shows."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Protocol

from elfs_ray.console import Meter

POLL_SECONDS = 0.5


class Counter(Protocol):
    """The count of finished units, cheap to send. Counting never waits and never fails a worker."""

    def advance(self, count: int) -> None:
        """Say that `count` more units are finished."""

    def reach(self, done: int) -> None:
        """Say that at least `done` units are finished."""

    def value(self) -> int:
        """Units finished so far, as far as the driver knows: a bar is not worth a failed run."""


@contextlib.contextmanager
def showing(counter: Counter, meter: Meter) -> Iterator[None]:
    """Poll a counter from a thread of the driver and show it on `meter`."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(POLL_SECONDS):
            meter.update(counter.value())

    thread = threading.Thread(target=poll, daemon=True, name="progress")
    thread.start()
    try:
        yield
        meter.update(counter.value())
    finally:
        stop.set()
        thread.join()
