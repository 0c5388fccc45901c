"""One driver at a time in a run folder: a lock file on a disk, on object storage an object that its owner renews.

The system takes a lock back from a process that dies. Nobody does so with an object: whoever finds one watches it, and
takes it over if it stays the same for as long as its owner said, so that clocks are not compared. That is longer than
any request of the owner's is repeated: what it sent before it was cut off arrives before it is replaced, or never.

S3 compares and writes in one step: of two drivers that take the lock at once, one is refused. A store that cannot do so
is asked again after a pause, when only one of two reads its own name: a lease, good unless one of them is very slow.
"""

import contextlib
import json
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from filelock import FileLock, Timeout

from elfs_ray.artifacts import filesystems
from elfs_ray.artifacts.lock_object import LockObject, PlainObject, Seen, lock_objects
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.console import Reporter
from elfs_ray.errors import RunError, UsageError, one_line

LOCK, LOCK_OBJECT = ".lock", ".lock.json"
RENEWED_SECONDS = 5.0
_ATTEMPTS = (None, filesystems.QUICK_ATTEMPTS)
"""Of the run's requests, by default and environment, and of those that renew the lock."""
_BUSY = "{} is working on {}; wait for it or choose another --out"


@dataclass(frozen=True)
class Waits:
    """Seconds.

    Attributes:
        renewed: between two renewals.
        expires: without a renewal, after which others may take over.
        look: between two looks at another's lock.
        settled: until a store that cannot compare shows who wrote last.
    """

    renewed: float = RENEWED_SECONDS
    expires: float = field(default_factory=lambda: RENEWED_SECONDS + max(map(filesystems.longest_request, _ATTEMPTS)))
    look: float = 1.0
    settled: float = 1.0


@contextlib.contextmanager
def sole_driver(store: RunFolder, reporter: Reporter, waits: Waits | None = None) -> Iterator[Callable[[], None]]:
    """Keep other drivers out of a run folder.

    Yields:
        A function that makes sure of it for the next `expires` seconds, and raises `RunError` if another driver took
        over, which only one that was cut off from the storage, or stood still for a while, will see.

    Raises:
        UsageError: another process is working there, or the folder cannot be made.
    """
    if store.is_local:
        with _locked(store):
            yield lambda: None
        return
    lock = _Lock(store, waits or Waits())
    lock.take(reporter)
    renewing = threading.Thread(target=lock.keep, daemon=True)
    renewing.start()
    try:
        yield lock.check
    finally:
        lock.give_back(renewing)


@contextlib.contextmanager
def _locked(store: RunFolder) -> Iterator[None]:
    try:
        store.make()
    except OSError as error:
        raise UsageError(f"{store.uri} cannot be made ({one_line(error)}); choose another --out") from None
    try:
        with FileLock(store.path(LOCK), timeout=0):
            yield
    except Timeout:
        raise UsageError(_BUSY.format("another process", store.uri)) from None


class _Lock:
    """An object with the name of its owner, a number that grows, and how long it holds without that."""

    def __init__(self, store: RunFolder, waits: Waits) -> None:
        self._store, self._waits, self._owner = store, waits, uuid.uuid4().hex
        self._patient, self._quick = lock_objects(store, LOCK_OBJECT)
        self._seen: Seen | None = None
        self._renewed = 0
        self._writing, self._ended = threading.Lock(), threading.Event()

    def take(self, reporter: Reporter) -> None:
        """Write it, if there is none that someone renews."""
        self._seen = self._patient.read()
        if self._seen is not None and self._owner_of(self._seen):
            self._seen = self._watch(self._seen, reporter)
        held = self._write(self._patient)
        if held and isinstance(self._patient, PlainObject):
            time.sleep(self._waits.settled)
            held = self._write(self._patient)
        if not held:
            self._refuse(self._patient.read())

    def keep(self) -> None:
        """Renew it until the end, or until it is another's; storage that does not answer is asked again."""
        while not self._ended.wait(self._waits.renewed):
            with contextlib.suppress(OSError, UsageError):
                if not self._write(self._quick):
                    return

    def check(self) -> None:
        """Renew it, and raise if that cannot be done since another driver has it."""
        if not self._write(self._patient):
            raise RunError(f"another process took over {self._store.uri}; this one stops, and the other goes on")

    def give_back(self, renewing: threading.Thread) -> None:
        """Write that nobody owns it, so that the next driver need not wait."""
        self._ended.set()
        renewing.join(timeout=filesystems.longest_request(filesystems.QUICK_ATTEMPTS))
        with contextlib.suppress(OSError):
            self._write(self._quick, owner=None)

    def _write(self, through: LockObject, **changes: Any) -> bool:
        """Write it anew; returns whether it was, and is, our own."""
        with self._writing:
            self._renewed += 1
            held = {"owner": self._owner, "host": platform.node(), "renewed": self._renewed}
            data = json.dumps({**held, "expires": self._waits.expires, **changes}).encode()
            written = through.replace(self._seen, data)
            if written is None:
                written = through.read()
                if written is None or self._owner_of(written) != self._owner:
                    return False
            self._seen = written
            return True

    def _watch(self, found: Seen, reporter: Reporter) -> Seen | None:
        """Wait until it has expired, is free or is gone; returns what is there then."""
        content, unchanged, looked = self._content(found), 0.0, time.monotonic()
        seen = f"a process on {content['host']} worked here"
        reporter.line(f"  {seen}; waiting up to {content['expires']:.0f} s to see if it still does")
        while unchanged < content["expires"]:
            time.sleep(self._waits.look)
            now, before, looked = self._patient.read(), looked, time.monotonic()
            if now is None or not self._owner_of(now):
                return now
            if now != found:
                self._refuse(now)
            # While the store did not answer us, its owner could not renew it either.
            unchanged += min(looked - before, 2 * self._waits.look)
        return found

    def _refuse(self, found: Seen | None) -> None:
        host = self._content(found)["host"] if found else "another machine"
        raise UsageError(_BUSY.format(f"another process, on {host},", self._store.uri))

    def _owner_of(self, seen: Seen) -> str | None:
        owner: str | None = self._content(seen)["owner"]
        return owner

    def _content(self, seen: Seen) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(seen.data)
        except ValueError:
            raise UsageError(f"{self._store.location(LOCK_OBJECT)} is damaged; remove that file") from None
        return content
