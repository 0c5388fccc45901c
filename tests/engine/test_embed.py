"""Encoding when memory runs short."""

import pytest
import torch
from torch import nn

from elfs_ray.encoders import Encoder, Preprocessing
from elfs_ray.engine.embed import AdaptiveForward
from elfs_ray.errors import RunError


class Greedy(nn.Module):
    """Means of the channels; more rows than fit raise what torch raises."""

    def __init__(self, fits):
        super().__init__()
        self.fits, self.sizes = fits, []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.mean(dim=(2, 3))


def forward(fits):
    module = Greedy(fits)
    encoder = Encoder("greedy", module, Preprocessing(4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), 3, "none")
    return module, AdaptiveForward(encoder, torch.device("cpu"), torch.float32, 16)


def test_batches_get_smaller_and_stay_small():
    pixels = torch.randint(256, (16, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    _, plain = forward(16)
    module, adaptive = forward(5)
    assert torch.allclose(adaptive(pixels), plain(pixels))
    assert module.sizes == [16, 8, 4, 4, 4, 4]
    adaptive(pixels)
    assert module.sizes[6:] == [4, 4, 4, 4]


def test_one_image_that_does_not_fit_says_what_to_do():
    _, adaptive = forward(0)
    with pytest.raises(RunError, match=r"no memory for one image of 4 pixels a side; use --set embed\.image_size"):
        adaptive(torch.zeros(16, 3, 4, 4, dtype=torch.uint8))
