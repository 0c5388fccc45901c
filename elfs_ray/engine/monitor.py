"""Seconds and peak memory of a stage, as this machine sees them."""

import contextlib
import threading
import time
from collections.abc import Iterator

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
    usage, stop, started = Usage(), threading.Event(), time.monotonic()

    def sample() -> None:
        while True:
            usage.peak_memory_mb = max(usage.peak_memory_mb, _memory_in_use() >> 20)
            if stop.wait(SAMPLE_SECONDS):
                return

    thread = threading.Thread(target=sample, daemon=True, name="memory")
    thread.start()
    try:
        yield usage
    finally:
        stop.set()
        thread.join()
        usage.seconds = time.monotonic() - started


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
