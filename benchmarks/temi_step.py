"""One training step of TEMI on random embeddings, for the scripts that time it; needs no more than torch and `core`."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from elfs_ray.core.temi_training import TemiOptions, TemiTraining


def temi_step(
    heads: int,
    dim: int,
    classes: int,
    pairs: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    compiled: bool = False,
) -> Callable[[], None]:
    """A step on the same `pairs` again and again, as the engine takes it."""
    views = F.normalize(torch.randn(2 * pairs, dim, generator=torch.Generator().manual_seed(0)), dim=1).to(device)
    training = TemiTraining(TemiOptions(heads, classes, dtype=dtype), dim, 0, device, compiled=compiled)
    return lambda: training.step(views, 1e-4)
