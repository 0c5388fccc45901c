"""Objects that Ray's actors hold."""

from collections.abc import Callable, Sequence
from typing import Any

import ray

from elfs_ray.workers.on_ray.tasks import bare

RESTARTS = 3


@ray.remote
class _Holder:
    def __init__(self, factory: Callable[..., Any], *arguments: Any) -> None:
        self._held = factory(*arguments)

    def ask(self, method: str, *arguments: Any) -> Any:
        return getattr(self._held, method)(*arguments)


class OnRayPool:
    """An actor for each tuple of arguments, started with these options of Ray."""

    def __init__(self, factory: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], **options: Any) -> None:
        actor = _Holder.options(  # type: ignore[attr-defined] # added by the decorator
            max_restarts=RESTARTS, max_task_retries=RESTARTS, **options
        )
        self._actors = [actor.remote(factory, *map(bare, each)) for each in arguments]

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """What each answers; arguments are sent once for all."""
        sent = [ray.put(argument) for argument in arguments]
        return ray.get([actor.ask.remote(method, *sent) for actor in self._actors])

    def end(self) -> None:
        """End the actors."""
        for actor in self._actors:
            ray.kill(actor)
