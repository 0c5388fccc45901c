"""All that stage bodies ask for, on the threads of this process."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import psutil

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.workers.base import Handle, Search, Source, Step, Threads, Training, Workers
from elfs_ray.workers.hardware import Hardware, Memory
from elfs_ray.workers.in_process.tasks import Crew, Task, bare, done_at_once

T = TypeVar("T")
TaskT = TypeVar("TaskT")


class _Count:
    """A count that several threads advance."""

    def __init__(self, done: int) -> None:
        self._done, self._lock = done, threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count

    def reach(self, done: int) -> None:
        with self._lock:
            self._done = max(self._done, done)

    def value(self) -> int:
        return self._done


class _Pool:
    """Each object has a thread of its own, in which it was made and answers."""

    def __init__(self, factory: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> None:
        self._crews = [Crew(1, narrow=False) for _ in arguments]
        self._held = [crew.submit(factory, each) for crew, each in zip(self._crews, arguments, strict=True)]

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        def answer(held: "Future[Any]") -> Any:
            return getattr(held.result(), method)(*arguments)

        asked = [crew.submit(answer, (held,)) for crew, held in zip(self._crews, self._held, strict=True)]
        return [each.result() for each in asked]

    def end(self) -> None:
        for crew in self._crews:
            crew.end()


@dataclass(frozen=True)
class InProcess(Workers):
    """This machine's processors, and its GPU if it has one.

    Attributes:
        planned: what stages plan with.
    """

    planned: Hardware
    crew: Crew = field(repr=False)

    @property
    def hardware(self) -> Hardware:
        return self.planned

    def memory(self) -> Memory:
        """What is free now."""
        return Memory((psutil.virtual_memory().available,), may_grow=False)

    def threads(self, sharing: int = 1) -> Threads:
        return lambda: max(1, self.hardware.cpus // sharing)

    def counter(self, done: int = 0) -> _Count:
        return _Count(done)

    def share(self, value: T) -> Task[T]:
        future: Future[T] = Future()
        future.set_result(value)
        return Task(future)

    def call(
        self, function: Callable[..., T], *arguments: Any, cpus: float = 1.0, memory: int = 0, here: bool = False
    ) -> T:
        return self.begin(function, *arguments, cpus=cpus, memory=memory).result()

    def begin(
        self, function: Callable[..., T], *arguments: Any, cpus: float = 1.0, gpus: float = 0.0, memory: int = 0
    ) -> Task[T]:
        # What asks for no processor waits behind nothing.
        return Task(self.crew.submit(function, arguments) if cpus else done_at_once(function, arguments))

    def begin_several(
        self, function: Callable[..., tuple[Any, ...]], *arguments: Any, results: int, cpus: float = 1.0
    ) -> list[Handle[Any]]:
        parts = [Future[Any]() for _ in range(results)]

        def give(whole: "Future[tuple[Any, ...]]") -> None:
            error = whole.exception()
            for number, part in enumerate(parts):
                if error is None:
                    part.set_result(whole.result()[number])
                else:
                    part.set_exception(error)

        self.begin(function, *arguments, cpus=cpus).future.add_done_callback(give)
        return [Task(part) for part in parts]

    def results(self, handles: Sequence[Handle[T]]) -> list[T]:
        return [handle.result() for handle in handles]

    def map(
        self,
        function: Callable[..., T],
        items: Iterable[tuple[Any, ...]],
        *first: Any,
        cpus: float,
        at_once: int | None = None,
    ) -> Iterator[T]:
        tasks = ((*first, *item) for item in items)
        return self.crew.in_order(function, tasks, at_once or 2 * self.hardware.cpus)

    def on_each_machine(self, function: Callable[..., None], *arguments: Any) -> None:
        function(*arguments)

    def stream(self, source: Source, *steps: Step, block_bytes: int) -> Iterator[dict[str, np.ndarray]]:
        from elfs_ray.workers.in_process.stream import run_stream

        return run_stream(source, steps, self.hardware.cpus)

    def pool(
        self,
        factory: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        *,
        cpus: float,
        gpus: float = 0.0,
        memory: int = 0,
    ) -> _Pool:
        return _Pool(factory, arguments)

    def train(
        self, loop: Callable[[TaskT, Training], None], task: TaskT, store: RunFolder, work: str, workers: int
    ) -> dict[str, Any]:
        from elfs_ray.workers.in_process.training import run_training

        return run_training(loop, task, store, work, self.hardware.cpus)

    def trials(
        self,
        trial: Callable[[Any, dict[str, Any]], Iterator[dict[str, Any]]],
        shared: Handle[Any],
        configs: Sequence[dict[str, Any]],
        search: Search,
        ended: Callable[[dict[str, Any], dict[str, Any]], None],
        *,
        store: RunFolder,
        work: str,
    ) -> None:
        from elfs_ray.workers.in_process.trials import run_trials

        run_trials(self.crew, trial, bare(shared), configs, search, ended, store, work)
