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

    def value(self) -> int:
        """Units finished so far.

        Raises:
            RayError: the count was lost.
        """
        actor: Any = self._actor  # Ray's annotations take its methods for static ones
        return int(ray.get(actor.value.remote(self._key)))


def new_counter(done: int = 0) -> Counter:
    """A counter of its own, of units of which some are finished already."""
    # On the driver's own node: any other may be lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": "elfs-ray-counts", "get_if_exists": True, "scheduling_strategy": here}
    counter = Counter(_Counts.options(**options).remote(), next(_keys))  # type: ignore[attr-defined] # by the decorator
    counter.reach(done)
    return counter


@contextlib.contextmanager
def showing(counter: Counter, meter: Meter) -> Iterator[None]:
    """Poll a counter from a thread of the driver and show it on `meter`."""
    stop = threading.Event()

    def show() -> None:
        with contextlib.suppress(RayError):  # the bar is not worth a failed run
            meter.update(counter.value())

    def poll() -> None:
        while not stop.wait(POLL_SECONDS):
            show()

    thread = threading.Thread(target=poll, daemon=True, name="progress")
    thread.start()
    try:
        yield
        show()
    finally:
        stop.set()
        thread.join()
