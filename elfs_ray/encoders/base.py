"""What an encoder is: a network that maps images to vectors, and how images are prepared for it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from elfs_ray.workers.threads import use_torch_threads


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes input.

    Attributes:
        size: pixels a side.
        mean: of each channel, after scaling to 0..1.
        std: of each channel.
        interpolation: nearest, bilinear, bicubic or lanczos.
        crop_fraction: the short side is resized to size / crop_fraction before the centre is cut out.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_fraction: float = 1.0


ROWS_AT_ONCE = 8
"""Images in one forward pass of processors: activations of more leave their caches. Each pass has one thread: how many
images and threads share one can change the last bits.
"""


def threads_busy(images: int) -> int:
    """How many of the threads that torch may use here have a pass to do, on processors."""
    return min(torch.get_num_threads(), max(1, -(-images // ROWS_AT_ONCE)))


@dataclass
class Encoder:
    """A network in evaluation mode.

    Attributes:
        name: as it was asked for.
        module: maps normalised images [b, 3, size, size] to vectors [b, dim].
        dim: width of its output.
        source: where its weights came from.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    dim: int
    source: str
    _scales: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Freeze the network."""
        self.module.eval().requires_grad_(False)

    def encode(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Vectors of images, on the device of the pixels; on processors by as many threads as torch may use here.

        Args:
            pixels: uint8 [b, 3, size, size].
            dtype: arithmetic; half precision runs under autocast.

        Returns:
            float32 [b, dim].
        """
        if pixels.device.type != "cpu":
            return self._pass(pixels, dtype)
        threads, parts = torch.get_num_threads(), pixels.split(ROWS_AT_ONCE)
        try:
            with ThreadPoolExecutor(threads_busy(len(pixels)), initializer=use_torch_threads, initargs=(1,)) as pool:
                return torch.cat(list(pool.map(partial(self._pass, dtype=dtype), parts)))
        finally:
            torch.set_num_threads(threads)  # which threads that have not computed yet take over

    @torch.inference_mode()
    def _pass(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """Vectors of images that go through the network together."""
        mean, std = self._scale(pixels.device)
        images = pixels.to(memory_format=torch.channels_last).float().sub_(mean).div_(std)
        with torch.autocast(pixels.device.type, dtype=dtype, enabled=dtype != torch.float32):
            vectors: Tensor = self.module(images)
        return vectors.float()

    def _scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the channels, of pixels up to 255, float32 [1, 3, 1, 1]; made once for a device."""
        if device not in self._scales:
            how = self.preprocessing
            # Made on the processor: the copy is whole before another thread, with a stream of its own, reads it.
            mean, std = (torch.tensor(each).mul_(255).view(1, 3, 1, 1).to(device) for each in (how.mean, how.std))
            self._scales[device] = mean, std
        return self._scales[device]
