"""Ray tasks of which only so many are submitted at a time: neither the driver nor the object store holds them all."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import ray

T = TypeVar("T")


def results_in_order(tasks: "Iterable[ray.ObjectRef[T]]", at_once: int) -> Iterator[T]:
    """The result of each task, in order.

    Args:
        tasks: submits a task whenever the next is taken from it.
        at_once: the most that are submitted and not yet given.
    """
    waiting: deque[ray.ObjectRef[T]] = deque()
    for task in tasks:
        waiting.append(task)
        if len(waiting) == at_once:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())
