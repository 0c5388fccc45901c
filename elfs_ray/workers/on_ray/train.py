"""What the two training stages share: running a loop with Ray Train, and checkpoints."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from elfs_ray.workers.on_ray.session import worker_threads

if TYPE_CHECKING:
    from elfs_ray.stages.stage import StageContext

TaskT = TypeVar("TaskT")
STATE_FILE = "state.pt"
METRICS_FILE = "metrics.json"
MAX_WORKER_FAILURES = 3
PROGRESS_STEPS = 20
_TorchBackend: Any = TorchConfig().backend_cls


def run_training(context: "StageContext", loop: Callable[[TaskT], None], task: TaskT, workers: int) -> dict[str, Any]:
    """Run `loop(task)` on Ray Train workers and return the metrics that it saved as `METRICS_FILE` in the work folder.

    A worker that dies is replaced, and the loop starts again from the last checkpoint; so does a second run of the
    driver, because the storage path and the name stay the same.
    """
    hardware, store = context.hardware, context.store

    def worker(config: dict[str, TaskT]) -> None:
        of_this_machine = ray.train.get_context().get_local_world_size()
        torch.set_num_threads(worker_threads(hardware.cpus, workers, of_this_machine))
        use_tensor_cores(training_device())
        loop(config["task"])

    on_gpu = hardware.device == "cuda"
    # More workers than processors would wait for ever for one each; so would they for shares that are rounded up.
    share = min(1.0, 10_000 * hardware.cpus // workers / 10_000)
    trainer = TorchTrainer(
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
            storage_path=store.path(context.work),
            storage_filesystem=None if store.is_local else store.filesystem,
            failure_config=FailureConfig(max_failures=MAX_WORKER_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    trainer.fit()
    metrics: dict[str, Any] = store.read_json(context.work, METRICS_FILE)
    return metrics


def training_device() -> torch.device:
    """The worker's own GPU; the processor where torch cannot use the GPU that Ray gave to one of the workers."""
    talk_over_cards = not dist.is_initialized() or dist.get_backend() == "nccl"
    return get_device() if torch.cuda.is_available() and talk_over_cards else torch.device("cpu")


def use_tensor_cores(device: torch.device) -> None:
    """Let a card multiply what stays float32 in TF32, and choose the fastest convolutions; processors stay exact."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def device_of_task() -> torch.device:
    """The GPU that Ray gave to this task or trial, ready to use; the processor if there is none that torch can use."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    use_tensor_cores(device)
    return device


def is_first_worker() -> bool:
    """Whether this worker writes results and checkpoints."""
    return ray.train.get_context().get_world_rank() == 0


def tells_progress(step: int, steps: int) -> bool:
    """Whether this worker says how far it is after a step of an epoch: the first one does, now and then."""
    return is_first_worker() and ((step + 1) % PROGRESS_STEPS == 0 or step + 1 == steps)


def is_first_of_machine() -> bool:
    """Whether this worker removes what those of its machine shared."""
    return ray.train.get_context().get_local_rank() == 0


def load_state(load: Callable[[dict[str, Any]], None]) -> int:
    """Give the last checkpoint's state, if there is one, to `load`; returns the number of epochs done."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / STATE_FILE, map_location="cpu", weights_only=True)
    load(state)
    epochs_done: int = state["epochs_done"]
    return epochs_done


def save_checkpoint(metrics: dict[str, Any], state: dict[str, Any], epochs_done: int) -> None:
    """Report to Ray Train with the first worker's state as checkpoint; every worker must call it."""
    if not is_first_worker():
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save({**state, "epochs_done": epochs_done}, Path(folder) / STATE_FILE)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


class _DeviceBackend(_TorchBackend):  # type: ignore[misc] # Ray's own class is private
    """Lets workers talk over what they have: Ray Train takes for granted that torch can use each GPU that Ray gives."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        on_gpu = all(worker_group.execute(torch.cuda.is_available))
        super().on_start(worker_group, replace(backend_config, backend="nccl" if on_gpu else "gloo"))


class _DeviceConfig(TorchConfig):
    @property
    def backend_cls(self) -> type[_DeviceBackend]:
        return _DeviceBackend
