"""Training loops in this process, with checkpoints in the run folder."""

import io
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.workers.base import Training
from elfs_ray.workers.compute import device_of_task
from elfs_ray.workers.threads import use_torch_threads

TaskT = TypeVar("TaskT")
CHECKPOINT = "checkpoint.pt"


class _Worker(Training):
    """The only one."""

    def __init__(self, store: RunFolder, work: str) -> None:
        self._store, self._work, self._device = store, work, device_of_task()
        self.told: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def is_first(self) -> bool:
        return True

    def load(self, load: Callable[[dict[str, Any]], None]) -> int:
        if not self._store.exists(self._work, CHECKPOINT):
            return 0
        kept = io.BytesIO(self._store.read_bytes(self._work, CHECKPOINT))
        state = torch.load(kept, map_location="cpu", weights_only=True)
        load(state)
        epochs_done: int = state["epochs_done"]
        return epochs_done

    def save(self, metrics: dict[str, Any], state: dict[str, Any], epochs_done: int) -> None:
        kept = io.BytesIO()
        torch.save({**state, "epochs_done": epochs_done}, kept)
        self._store.write_bytes(kept.getvalue(), self._work, CHECKPOINT)

    def tell(self, metrics: dict[str, Any]) -> None:
        self.told = metrics


def run_training(
    loop: Callable[[TaskT, Training], None], task: TaskT, store: RunFolder, work: str, threads: int
) -> dict[str, Any]:
    """Run the loop on this thread and so many of torch's; a second run goes on from its last checkpoint."""
    use_torch_threads(threads)
    worker = _Worker(store, work)
    loop(task, worker)
    return worker.told
