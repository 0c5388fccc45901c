"""One driver at a time in a run folder: a lock on a disk, a lease on object storage.

The system takes a lock back from a process that dies. A lease is an object that its driver writes anew every few
seconds: whoever finds one watches it, and takes it over if it does not change. So clocks are not compared, and a run
that was killed can go on after `EXPIRES_SECONDS`. Two drivers that begin in the same moment both write; after a pause
only one of them reads its own name.
"""

import contextlib
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from filelock import FileLock, Timeout

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.console import Reporter
from elfs_ray.errors import RunError, UsageError, one_line

LOCK, LEASE = ".lock", ".lease.json"
_BUSY = "{} is working on {}; wait for it or choose another --out"
RENEWED_SECONDS, EXPIRES_SECONDS, SETTLED_SECONDS, LOOK_SECONDS = 3.0, 15.0, 1.0, 0.5


@contextlib.contextmanager
def sole_driver(store: RunFolder, reporter: Reporter) -> Iterator[Callable[[], None]]:
    """Keep other drivers out of a run folder.

    Yields:
        A function that raises `RunError` if another driver took over, which only one that was cut off from the storage
        for a while will see.

    Raises:
        UsageError: another process is working there, or the folder cannot be made.
    """
    if store.is_local:
        with _locked(store):
            yield lambda: None
        return
    lease = _Lease(store)
    lease.take(reporter)
    renewing = threading.Thread(target=lease.keep, daemon=True)
    renewing.start()
    try:
        yield lease.check
    finally:
        lease.give_back(renewing)


@contextlib.contextmanager
def _locked(store: RunFolder) -> Iterator[None]:
    try:
        store.filesystem.create_dir(store.path(), recursive=True)
    except OSError as error:
        raise UsageError(f"{store.uri} cannot be made ({one_line(error)}); choose another --out") from None
    try:
        with FileLock(store.path(LOCK), timeout=0):
            yield
    except Timeout:
        raise UsageError(_BUSY.format("another process", store.uri)) from None


class _Lease:
    """An object with the name of its owner and a number that grows."""

    def __init__(self, store: RunFolder) -> None:
        self._store, self._owner, self._renewed = store, uuid.uuid4().hex, 0
        self._ended, self._lost = threading.Event(), threading.Event()

    def take(self, reporter: Reporter) -> None:
        """Write it, if there is none that someone renews."""
        found = self._read()
        if found is not None:
            seen = f"a process on {found['host']} worked here"
            reporter.line(f"  {seen}; waiting up to {EXPIRES_SECONDS:.0f} s to see if it still does")
            self._watch(found)
        self._write()
        time.sleep(SETTLED_SECONDS)
        self._refuse(self._read())

    def keep(self) -> None:
        """Renew it until the end, or until it is another's; storage that does not answer is asked again."""
        while not self._ended.wait(RENEWED_SECONDS):
            with contextlib.suppress(OSError, UsageError):
                if self._is_anothers(self._read()):
                    self._lost.set()
                    return
                self._write()

    def check(self) -> None:
        """Raise if another driver has it."""
        if self._lost.is_set():
            raise RunError(f"another process took over {self._store.uri}; this one stops, and the other goes on")

    def give_back(self, renewing: threading.Thread) -> None:
        """Remove it, so that the next driver need not wait."""
        self._ended.set()
        renewing.join(timeout=EXPIRES_SECONDS)
        with contextlib.suppress(OSError, UsageError):
            if not self._is_anothers(self._read()):
                self._store.delete(LEASE)

    def _watch(self, found: dict[str, Any]) -> None:
        """Wait until it has expired or is gone."""
        end = time.monotonic() + EXPIRES_SECONDS
        while time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
            now = self._read()
            if now is None:
                return
            if now != found:
                self._refuse(now)

    def _refuse(self, found: dict[str, Any] | None) -> None:
        if found is not None and self._is_anothers(found):
            raise UsageError(_BUSY.format(f"another process, on {found['host']},", self._store.uri))

    def _is_anothers(self, found: dict[str, Any] | None) -> bool:
        return found is not None and found["owner"] != self._owner

    def _read(self) -> dict[str, Any] | None:
        if not self._store.exists(LEASE):
            return None
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = self._store.read_json(LEASE)
            return found
        return None

    def _write(self) -> None:
        self._renewed += 1
        held = {"owner": self._owner, "host": platform.node(), "renewed": self._renewed}
        self._store.write_json(held, LEASE)
