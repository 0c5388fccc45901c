"""Functions as Ray tasks, and what stands for their results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Generic, TypeVar

import ray

T = TypeVar("T")
MAP_RETRIES = 10
"""Work in small pieces meets more lost workers than one large task."""


class OnRayHandle(Generic[T]):
    """An object of Ray's, or the task that makes it."""

    def __init__(self, ref: "ray.ObjectRef[T]") -> None:
        self.ref = ref

    def result(self) -> T:
        """Wait for the value."""
        return ray.get(self.ref)

    @property
    def ended(self) -> bool:
        """Whether it is there, or failed."""
        return bool(ray.wait([self.ref], timeout=0)[0])


def begin(function: Callable[..., Any], arguments: Iterable[Any], **options: Any) -> Any:
    """Submit a task with these options of Ray's; returns its reference, or one for each of several results."""
    return _as_task(function).options(**options).remote(*map(bare, arguments))


def bare(argument: Any) -> Any:
    """An argument as Ray takes it."""
    return argument.ref if isinstance(argument, OnRayHandle) else argument


def results_in_order(tasks: "Iterable[ray.ObjectRef[T]]", at_once: int) -> Iterator[T]:
    """The result of each task, in order.

    What is under way when one fails runs on: to cancel a task that is about to end can crash the driver (Ray 2.60).

    Args:
        tasks: submits a task whenever the next is taken from it: neither the driver nor the object store holds all.
        at_once: the most that are submitted and not yet given.
    """
    waiting: deque[ray.ObjectRef[T]] = deque()
    for task in tasks:
        waiting.append(task)
        if len(waiting) == at_once:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())


@lru_cache(maxsize=256)  # a new one would be sent to the cluster each time
def _as_task(function: Callable[..., Any]) -> Any:
    return ray.remote(function)
