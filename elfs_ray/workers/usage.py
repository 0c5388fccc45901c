"""Seconds and peak memory of a stage, as this machine sees them."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import psutil

SAMPLE_SECONDS = 1.0


class Usage:
    """What a stage took; complete once the `measured` block has ended.

    Attributes:
        seconds: wall-clock time.
        peak_memory_mb: largest sum, over the driver and all Ray processes of this machine, of memory not shared.
    """

    seconds: float = 0.0
    peak_memory_mb: int = 0


@contextlib.contextmanager
def measured() -> Iterator[Usage]:
    """Sample memory from a thread while the block runs."""
    usage, started = Usage(), time.monotonic()

    def look() -> None:
        usage.peak_memory_mb = max(usage.peak_memory_mb, _memory_in_use() >> 20)

    try:
        with sampling(look, SAMPLE_SECONDS):
            yield usage
    finally:
        usage.seconds = time.monotonic() - started


@contextlib.contextmanager
def sampling(look: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `look` from a thread, at once and then every so many seconds, while the block runs."""
    stop = threading.Event()

    def sample() -> None:
        while True:
            look()
            if stop.wait(seconds):
                return

    thread = threading.Thread(target=sample, daemon=True, name="memory")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _memory_in_use() -> int:
    """Bytes of the driver, its children and Ray's workers; pages of the shared object store are not counted."""
    driver = psutil.Process()
    processes = {driver.pid: driver}
    with contextlib.suppress(psutil.Error):
        processes.update((child.pid, child) for child in driver.children(recursive=True))
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"]
        if command and command[0].startswith("ray::"):
            processes[process.pid] = process
    total = 0
    for process in processes.values():
        with contextlib.suppress(psutil.Error):
            memory = process.memory_info()
            total += memory.rss - getattr(memory, "shared", 0)
    return total
