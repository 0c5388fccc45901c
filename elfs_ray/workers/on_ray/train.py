"""Training loops on the workers of Ray Train, with their checkpoints."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.workers.base import Training
from elfs_ray.workers.compute import use_tensor_cores
from elfs_ray.workers.hardware import Hardware
from elfs_ray.workers.machine import keep_freed_memory
from elfs_ray.workers.on_ray.session import worker_threads
from elfs_ray.workers.threads import use_torch_threads

TaskT = TypeVar("TaskT")
STATE_FILE = "state.pt"
METRICS_FILE = "metrics.json"
MAX_WORKER_FAILURES = 3
_TorchBackend: Any = TorchConfig().backend_cls


class _Worker(Training):
    """One of Ray Train's."""

    def __init__(self, store: RunFolder, work: str) -> None:
        self._store, self._work, self._device = store, work, _device()

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def is_first(self) -> bool:
        return ray.train.get_context().get_world_rank() == 0

    def load(self, load: Callable[[dict[str, Any]], None]) -> int:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return 0
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / STATE_FILE, map_location="cpu", weights_only=True)
        load(state)
        epochs_done: int = state["epochs_done"]
        return epochs_done

    def save(self, metrics: dict[str, Any], state: dict[str, Any], epochs_done: int) -> None:
        if not self.is_first:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save({**state, "epochs_done": epochs_done}, Path(folder) / STATE_FILE)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    def tell(self, metrics: dict[str, Any]) -> None:
        self._store.write_json(metrics, self._work, METRICS_FILE)


def run_training(
    loop: Callable[[TaskT, Training], None],
    task: TaskT,
    store: RunFolder,
    work: str,
    workers: int,
    hardware: Hardware,
) -> dict[str, Any]:
    """Run the loop on Ray Train workers.

    A worker that dies is replaced, and the loop starts again from the last checkpoint; so does a second run of the
    driver, because the storage path and the name stay the same.
    """

    def worker(config: dict[str, TaskT]) -> None:
        of_this_machine = ray.train.get_context().get_local_world_size()
        use_torch_threads(worker_threads(hardware.cpus, workers, of_this_machine))
        keep_freed_memory()
        training = _Worker(store, work)
        use_tensor_cores(training.device)
        loop(config["task"], training)

    on_gpu = hardware.device == "cuda"
    # More workers than processors would wait for ever for one each; so would they for shares that are rounded up.
    share = min(1.0, 10_000 * hardware.cpus // workers / 10_000)
    trainer = _Trainer(
        worker,
        train_loop_config={"task": task},
        torch_config=_DeviceConfig(),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=on_gpu,
            resources_per_worker={"GPU": 1} if on_gpu else {"CPU": share},
        ),
        run_config=RunConfig(
            name="training",
            storage_path=store.path(work),
            storage_filesystem=None if store.is_local else store.filesystem,
            failure_config=FailureConfig(max_failures=MAX_WORKER_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    trainer.fit()
    metrics: dict[str, Any] = store.read_json(work, METRICS_FILE)
    return metrics


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to whoever handles it: Ray's own handler ends the process without a word, and stays in place.

    And starts no process that would hand out data sets, of which it has none.
    """

    _controller: Any = None

    def fit(self) -> Any:
        """Train; an interruption ends the workers, too, which may be on a cluster that stays."""
        try:
            return super().fit()
        except KeyboardInterrupt:
            if self._controller is not None:
                ray.kill(self._controller)
            raise

    def _create_default_callbacks(self) -> list[Any]:
        default = super()._create_default_callbacks()  # type: ignore[misc] # Ray's own method is private
        return [each for each in default if type(each).__name__ != "DatasetsCallback"]

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller


def _device() -> torch.device:
    """The worker's own GPU; the processor where torch cannot use the GPU that Ray gave to one of the workers."""
    talk_over_cards = not dist.is_initialized() or dist.get_backend() == "nccl"
    return get_device() if torch.cuda.is_available() and talk_over_cards else torch.device("cpu")


class _DeviceBackend(_TorchBackend):  # type: ignore[misc] # Ray's own class is private
    """Lets workers talk over what they have: Ray Train takes for granted that torch can use each GPU that Ray gives."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        on_gpu = all(worker_group.execute(torch.cuda.is_available))
        super().on_start(worker_group, replace(backend_config, backend="nccl" if on_gpu else "gloo"))


class _DeviceConfig(TorchConfig):
    @property
    def backend_cls(self) -> type[_DeviceBackend]:
        return _DeviceBackend
