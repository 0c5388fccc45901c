"""Progress that workers anywhere in the cluster advance and the driver shows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from elfs_ray.console import Meter

POLL_SECONDS = 0.5


@ray.remote(num_cpus=0)
class _CounterActor:
    def __init__(self, done: int) -> None:
        self._done = done

    def advance(self, count: int) -> None:
        self._done += count

    def reach(self, done: int) -> None:
        self._done = max(self._done, done)

    def value(self) -> int:
        return self._done


class Counter:
    """Handle on the count of finished units, cheap to send. Counting never waits and never fails a worker."""

    def __init__(self, actor: ActorHandle[Any]) -> None:
        self._actor = actor

    def advance(self, count: int) -> None:
        """Say that `count` more units are finished."""
        self._actor.advance.remote(count)

    def reach(self, done: int) -> None:
        """Say that at least `done` units are finished."""
        self._actor.reach.remote(done)


@contextmanager
def counting(meter: Meter, done: int = 0) -> Iterator[Counter]:
    """Poll a counter from a thread of the driver and show it on `meter`."""
    # On the driver's own node: any other may be lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = _CounterActor.options(scheduling_strategy=here).remote(done)  # type: ignore[attr-defined] # by the decorator
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(POLL_SECONDS):
            try:
                meter.update(ray.get(actor.value.remote()))
            except RayError:  # the bar is not worth a failed run
                return

    thread = threading.Thread(target=poll, daemon=True, name="progress")
    thread.start()
    try:
        yield Counter(actor)
        meter.update(ray.get(actor.value.remote()))
    finally:
        stop.set()
        thread.join()
        ray.kill(actor)
