"""Progress that workers anywhere in the cluster advance and the driver shows."""

import contextlib
import itertools
import threading
from collections import Counter as Counts
from collections.abc import Iterator
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from elfs_ray.console import Meter

POLL_SECONDS = 0.5
_keys = itertools.count()


@ray.remote(num_cpus=0, max_restarts=-1)
class _Counts:
    """All counts of a driver: an actor for each would cost the start of a process."""

    def __init__(self) -> None:
        self._done: Counts[int] = Counts()

    def advance(self, key: int, count: int) -> None:
        self._done[key] += count

    def reach(self, key: int, done: int) -> None:
        self._done[key] = max(self._done[key], done)

    def value(self, key: int) -> int:
        return self._done[key]


class Counter:
    """Handle on the count of finished units, cheap to send. Counting never waits and never fails a worker."""

    def __init__(self, actor: ActorHandle[Any], key: int) -> None:
        self._actor, self._key = actor, key

    def advance(self, count: int) -> None:
        """Say that `count` more units are finished."""
        self._actor.advance.remote(self._key, count)

    def reach(self, done: int) -> None:
        """Say that at least `done` units are finished."""
        self._actor.reach.remote(self._key, done)


@contextlib.contextmanager
def counting(meter: Meter, done: int = 0) -> Iterator[Counter]:
    """Poll a counter from a thread of the driver and show it on `meter`."""
    # On the driver's own node: any other may be lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": "elfs-ray-counts", "get_if_exists": True, "scheduling_strategy": here}
    actor = _Counts.options(**options).remote()  # type: ignore[attr-defined] # added by the decorator
    key, stop = next(_keys), threading.Event()
    counter = Counter(actor, key)
    counter.reach(done)

    def show() -> None:
        with contextlib.suppress(RayError):  # the bar is not worth a failed run
            meter.update(ray.get(actor.value.remote(key)))

    def poll() -> None:
        while not stop.wait(POLL_SECONDS):
            show()

    thread = threading.Thread(target=poll, daemon=True, name="progress")
    thread.start()
    try:
        yield counter
        show()
    finally:
        stop.set()
        thread.join()
