"""All that Ray gives out, as stage bodies use it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.workers.base import Handle, Search, Source, Step, Threads, Training, Workers
from elfs_ray.workers.hardware import Hardware, Memory
from elfs_ray.workers.on_ray.actors import OnRayPool
from elfs_ray.workers.on_ray.progress import OnRayCounter, new_counter
from elfs_ray.workers.on_ray.session import worker_threads
from elfs_ray.workers.on_ray.tasks import MAP_RETRIES, OnRayHandle, bare, begin, results_in_order

T = TypeVar("T")
TaskT = TypeVar("TaskT")
LEAST_AT_ONCE, TASKS_FOR_A_PROCESSOR = 16, 4


@dataclass(frozen=True)
class OnRay(Workers):
    """The workers of the session that is connected.

    Attributes:
        planned: what stages plan with.
        verbose: whether Ray may speak.
    """

    planned: Hardware
    verbose: bool = False

    @property
    def hardware(self) -> Hardware:
        return self.planned

    def memory(self) -> Memory:
        """On one machine not more than is free there now."""
        alive = [node for node in ray.nodes() if node["Alive"]]
        nodes = sorted((int(node["Resources"].get("memory", 0)) for node in alive), reverse=True)
        if len(alive) == 1 and alive[0]["NodeID"] == ray.get_runtime_context().get_node_id():
            nodes = [min(nodes[0], psutil.virtual_memory().available)]
        there = ray.cluster_resources()
        may_grow = self.hardware.cpus > there.get("CPU", 0) or self.hardware.gpus > there.get("GPU", 0)
        return Memory(tuple(nodes), may_grow)

    def threads(self, sharing: int = 1) -> Threads:
        return partial(worker_threads, self.hardware.cpus, sharing)

    def counter(self, done: int = 0) -> OnRayCounter:
        return new_counter(done)

    def share(self, value: T) -> OnRayHandle[T]:
        return OnRayHandle(ray.put(value))

    def call(
        self, function: Callable[..., T], *arguments: Any, cpus: float = 1.0, memory: int = 0, here: bool = False
    ) -> T:
        if not here:
            return self.begin(function, *arguments, cpus=cpus, memory=memory).result()
        # Asks for no processor: the first machine of a cluster often offers none.
        this = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        task = begin(function, arguments, num_cpus=0, memory=memory or None, scheduling_strategy=this)
        return OnRayHandle[T](task).result()

    def begin(
        self, function: Callable[..., T], *arguments: Any, cpus: float = 1.0, gpus: float = 0.0, memory: int = 0
    ) -> OnRayHandle[T]:
        return OnRayHandle(begin(function, arguments, num_cpus=cpus, num_gpus=gpus, memory=memory or None))

    def begin_several(
        self, function: Callable[..., tuple[Any, ...]], *arguments: Any, results: int, cpus: float = 1.0
    ) -> list[Handle[Any]]:
        return [OnRayHandle(each) for each in begin(function, arguments, num_cpus=cpus, num_returns=results)]

    def results(self, handles: Sequence[Handle[T]]) -> list[T]:
        found: list[T] = ray.get([bare(handle) for handle in handles])
        return found

    def map(
        self,
        function: Callable[..., T],
        items: Iterable[tuple[Any, ...]],
        *first: Any,
        cpus: float,
        at_once: int | None = None,
    ) -> Iterator[T]:
        most = at_once or max(LEAST_AT_ONCE, int(TASKS_FOR_A_PROCESSOR * self.hardware.cpus / cpus))
        tasks = (begin(function, (*first, *item), num_cpus=cpus, max_retries=MAP_RETRIES) for item in items)
        return results_in_order(tasks, most)

    def on_each_machine(self, function: Callable[..., None], *arguments: Any) -> None:
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        tasks = [begin(function, arguments, num_cpus=0, scheduling_strategy=place) for place in places]
        for task in tasks:
            with contextlib.suppress(RayError):
                ray.get(task)

    def stream(self, source: Source, *steps: Step, block_bytes: int) -> Iterator[dict[str, np.ndarray]]:
        from elfs_ray.workers.on_ray.data import run_stream

        return run_stream(source, steps, block_bytes, self.verbose)

    def pool(
        self,
        factory: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        *,
        cpus: float,
        gpus: float = 0.0,
        memory: int = 0,
    ) -> OnRayPool:
        return OnRayPool(factory, arguments, num_cpus=cpus, num_gpus=gpus, memory=memory or None)

    def train(
        self, loop: Callable[[TaskT, Training], None], task: TaskT, store: RunFolder, work: str, workers: int
    ) -> dict[str, Any]:
        from elfs_ray.workers.on_ray.train import run_training

        return run_training(loop, task, store, work, workers, self.hardware)

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
        from elfs_ray.workers.on_ray.tune import run_trials

        on_gpu = self.hardware.device == "cuda"
        run_trials(trial, bare(shared), configs, search, ended, store=store, work=work, on_gpu=on_gpu)
