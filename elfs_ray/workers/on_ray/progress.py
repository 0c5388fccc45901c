"""Counts that an actor keeps."""

import contextlib
import itertools
from collections import Counter as Counts
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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


class OnRayCounter:
    """Handle on a count."""

    def __init__(self, actor: ActorHandle[Any], key: int) -> None:
        self._actor, self._key, self._known = actor, key, 0

    def advance(self, count: int) -> None:
        """Say that `count` more units are finished."""
        self._actor.advance.remote(self._key, count)

    def reach(self, done: int) -> None:
        """Say that at least `done` units are finished."""
        self._actor.reach.remote(self._key, done)

    def value(self) -> int:
        """Units finished so far; the last known where the actor is lost."""
        actor: Any = self._actor  # Ray's annotations take its methods for static ones
        with contextlib.suppress(RayError):
            self._known = int(ray.get(actor.value.remote(self._key)))
        return self._known


def new_counter(done: int = 0) -> OnRayCounter:
    """A counter of its own, of units of which some are finished already."""
    # On the driver's own node: any other may be lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": "elfs-ray-counts", "get_if_exists": True, "scheduling_strategy": here}
    counter = OnRayCounter(_Counts.options(**options).remote(), next(_keys))  # type: ignore[attr-defined] # by the decorator
    counter.reach(done)
    return counter
