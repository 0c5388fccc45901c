"""Training workers that share each batch: whose rows, what each share weighs, and how all end up with one network.

How many workers there are changes nothing but the order of sums: gradients are weighted by the rows that they come
from, batch norm sees the whole batch, and a share may be empty.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def worker_share(rows: int) -> slice:
    """The rows of a batch that this worker computes on: every worker-count-th one."""
    rank, workers = _place()
    return slice(rank, rows, workers)


def share_weight(share: int, rows: int) -> float:
    """What the mean over a worker's share counts for in the mean over the batch; 1 where all shares are equal."""
    return share * _place()[1] / rows


def owned(samples: Tensor) -> Tensor:
    """Which samples are this worker's in every epoch, bool [n], by their positions int64 [n]."""
    rank, workers = _place()
    return samples % workers == rank


def owned_of_batches(batches: Sequence[Tensor]) -> list[Tensor]:
    """The samples of each batch that are this worker's, on their device; it is waited for once."""
    if not _several() or not batches:
        return list(batches)
    positions = torch.cat(list(batches)).cpu()
    mine = owned(positions)
    sizes = [int(part.sum()) for part in mine.split([len(batch) for batch in batches])]
    return list(positions[mine].to(batches[0].device).split(sizes))


def average_over_workers(value: Tensor, weight: float = 1.0) -> Tensor:
    """The mean of a tensor over all workers, each with its `share_weight`."""
    if not _several():
        return value
    value = value * weight
    dist.all_reduce(value)
    return value / dist.get_world_size()


def summed_on_first(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sums over all workers of tensors of the same names, on the first worker; every worker must call it."""
    if not _several():
        return dict(state)
    sums = {}
    for name, values in state.items():
        total = values.to(torch.uint8) if values.dtype == torch.bool else values.clone()
        dist.reduce(total, dst=0)
        sums[name] = total.to(values.dtype)
    return sums


def data_parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, with gradients averaged over the workers and batch norm over the whole batch."""
    if not _several():
        return network.to(device)
    on_card = device.type == "cuda"
    if on_card:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        torch.cuda.set_device(device)
    else:
        _share_batch_norm(network)
    return nn.parallel.DistributedDataParallel(network.to(device), device_ids=[device] if on_card else None)


def bare(network: nn.Module) -> nn.Module:
    """The network itself: its state has the same names with one worker and with several."""
    inner: nn.Module = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    return inner


def _place() -> tuple[int, int]:
    """Number of this worker, and how many there are."""
    there = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if there else (0, 1)


def _several() -> bool:
    return _place()[1] > 1


def _share_batch_norm(network: nn.Module) -> None:
    """Replace each batch norm, in place, by one over all workers: torch's own wants a card."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            shared = _SharedBatchNorm(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            setattr(network, name, shared)
        else:
            _share_batch_norm(child)


class _SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all workers, on processors."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Feature maps [b, c, h, w]; b may be 0."""
        if not self.training:
            return super().forward(input)
        images = input.float()
        count = torch.full((1,), images.numel() / images.shape[1])
        totals = _Sum.apply(torch.cat([images.sum(dim=(0, 2, 3)), count]))
        mean = totals[:-1] / totals[-1]
        centred = images - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum(dim=(0, 2, 3))) / totals[-1]
        self._remember(mean, variance * totals[-1] / (totals[-1] - 1).clamp_min(1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        running: Any = (self.running_mean, mean), (self.running_var, variance)
        for kept, now in running:
            kept.lerp_(now, float(self.momentum or 0))
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all workers; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient
