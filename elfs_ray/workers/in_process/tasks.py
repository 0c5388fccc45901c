"""Tasks on threads, and what stands for their results."""

import ctypes
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Task(Generic[T]):
    """A value, or a task that will give it: the handle of these workers."""

    def __init__(self, future: "Future[T]") -> None:
        self.future = future

    def result(self) -> T:
        """Wait for the value."""
        return self.future.result()

    @property
    def ended(self) -> bool:
        """Whether it is there, or failed."""
        return self.future.done()


def bare(argument: Any) -> Any:
    """An argument as the function takes it."""
    return argument.result() if isinstance(argument, Task) else argument


def done_at_once(function: Callable[..., T], arguments: Iterable[Any]) -> "Future[T]":
    """The function's result, or what it raised, as that of a task that has ended."""
    future: Future[T] = Future()
    try:
        future.set_result(function(*map(bare, arguments)))
    except Exception as error:  # noqa: BLE001 - raised where the result is taken
        future.set_exception(error)
    return future


class _Stopped(BaseException):
    """Raised inside of a task whose result nobody waits for any more."""


class Crew:
    """Threads that do tasks in the order in which they come.

    A task that waits for another is safe: that one came before it, and runs or has ended.
    """

    def __init__(self, count: int, *, narrow: bool = True) -> None:
        """Start no thread yet.

        Args:
            count: tasks that run at once.
            narrow: whether each computes on its own thread alone; else it says itself how many it uses.
        """
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._narrow, self._lock, self._busy = narrow, threading.Lock(), set[int]()

    def submit(self, function: Callable[..., T], arguments: Iterable[Any]) -> "Future[T]":
        """Start a task; what its arguments stand for is waited for in its thread."""
        return self._pool.submit(self._do, function, tuple(arguments))

    def in_order(self, function: Callable[..., T], items: Iterable[tuple[Any, ...]], at_once: int) -> Iterator[T]:
        """The result of a task for each item, in order; at most so many are submitted and not yet given."""
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(self.submit(function, item))
                if len(waiting) == at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def end(self) -> None:
        """Stop: tasks that have not begun never do, and those that run are broken off."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for thread in self._busy:
                # Reaches it between two of Python's own instructions: a training ends with its step.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Stopped))
        self._pool.shutdown()

    def _do(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        thread = threading.get_ident()
        try:
            with self._lock:
                self._busy.add(thread)
            if self._narrow:
                use_one_thread()
            return function(*map(bare, arguments))
        finally:
            with self._lock:
                self._busy.discard(thread)


def use_one_thread() -> None:
    """Let torch, if it is loaded, compute on the calling thread alone, as a task of Ray's does that asks for one core.

    How many threads share a product can change its last bits.
    """
    if "torch" in sys.modules:
        from elfs_ray.workers.compute import use_torch_threads

        use_torch_threads(1)
