"""What the two training stages share: running a loop with Ray Train, checkpoints, and averaging over workers."""

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
from torch import Tensor, nn

from elfs_ray.engine.stage import StageContext

TaskT = TypeVar("TaskT")
STATE_FILE = "state.pt"
METRICS_FILE = "metrics.json"
MAX_WORKER_FAILURES = 3
_TorchBackend: Any = TorchConfig().backend_cls


def run_training(context: StageContext, loop: Callable[[TaskT], None], task: TaskT, workers: int) -> dict[str, Any]:
    """Run `loop(task)` on Ray Train workers and return the metrics that it saved as `METRICS_FILE` in the work folder.

    A worker that dies is replaced, and the loop starts again from the last checkpoint; so does a second run of the
    driver, because the storage path and the name stay the same.
    """
    hardware, store = context.hardware, context.store
    threads = max(1, hardware.cpus // workers)

    def worker(config: dict[str, TaskT]) -> None:
        torch.set_num_threads(threads)
        loop(config["task"])

    on_gpu = hardware.device == "cuda"
    trainer = TorchTrainer(
        worker,
        train_loop_config={"task": task},
        torch_config=_DeviceConfig(),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=on_gpu, resources_per_worker={"GPU": 1} if on_gpu else {"CPU": 1}
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
    """The worker's own GPU; the processor where Ray gave one that torch cannot use."""
    return get_device() if torch.cuda.is_available() else torch.device("cpu")


def is_first_worker() -> bool:
    """Whether this worker writes results and checkpoints."""
    return ray.train.get_context().get_world_rank() == 0


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


def worker_share(rows: int) -> slice:
    """The rows of a batch that this worker computes on: every worker-count-th one."""
    training = ray.train.get_context()
    return slice(training.get_world_rank(), rows, training.get_world_size())


def share_weight(rows: int) -> float:
    """What a mean over this worker's share counts for in the mean over the batch; 1 where all shares are equal."""
    training = ray.train.get_context()
    share = len(range(training.get_world_rank(), rows, training.get_world_size()))
    return share * training.get_world_size() / rows


def average_over_workers(value: Tensor, weight: float = 1.0) -> Tensor:
    """The mean of a tensor over all workers, each with its `share_weight`."""
    if not _distributed():
        return value
    value = value * weight
    dist.all_reduce(value)
    return value / dist.get_world_size()


def average_gradients(model: nn.Module, weight: float = 1.0) -> None:
    """Replace each gradient by its mean over all workers, each with its `share_weight`, in one exchange."""
    if not _distributed():
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = average_over_workers(torch.cat([gradient.reshape(-1) for gradient in gradients]), weight)
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()


def gather_rows(values: Tensor, rows: int) -> Tensor:
    """The rows of a whole batch, in order, from the shares that the workers hold."""
    if not _distributed():
        return values
    world = dist.get_world_size()
    longest = -(-rows // world)
    padded = values.new_zeros((longest, *values.shape[1:]))
    padded[: len(values)] = values
    shares = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(shares, padded)
    return torch.stack(shares, dim=1).flatten(0, 1)[:rows]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _DeviceBackend(_TorchBackend):  # type: ignore[misc] # Ray's own class is private
    """Lets workers talk over what they have: Ray Train takes for granted that torch can use each GPU that Ray gives."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        on_gpu = all(worker_group.execute(torch.cuda.is_available))
        super().on_start(worker_group, replace(backend_config, backend="nccl" if on_gpu else "gloo"))


class _DeviceConfig(TorchConfig):
    @property
    def backend_cls(self) -> type[_DeviceBackend]:
        return _DeviceBackend
