"""Random flips and shifted crops of small images, drawn for each image by itself.

A draw is a hash of a seed, the epoch and the image's number: it is the same on every device, in whatever batch the
image comes and whichever worker trains on it.
"""

import hashlib
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

# SplitMix64 (Steele, Lea & Flood, OOPSLA 2014, figure 17), in signed integers of 64 bits that wrap around.
_STEP, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
_BITS = 2**64


class Draws(NamedTuple):
    """What decides the random draws for a batch.

    Attributes:
        seed: of the training.
        epoch: counted from 0.
        samples: number of each image, int64 [b].
    """

    seed: int
    epoch: int
    samples: Int64[Tensor, " b"]


def draw(draws: Draws, count: int) -> Int64[Tensor, "b {count}"]:
    """Numbers from 0 to 2^63 - 1, `count` for each image, on the device of `samples`."""
    digest = hashlib.blake2b(f"{draws.seed}/{draws.epoch}".encode(), digest_size=8).digest()
    key = int.from_bytes(digest, "little", signed=True)
    streams = torch.arange(1, count + 1, device=draws.samples.device)
    return _mix(key + _STEP * (draws.samples[:, None] * count + streams)) & (_BITS // 2 - 1)


def _mix(values: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    values = (values ^ _shifted(values, 30)) * _FIRST
    values = (values ^ _shifted(values, 27)) * _SECOND
    return values ^ _shifted(values, 31)


def _shifted(values: Int64[Tensor, "*shape"], bits: int) -> Int64[Tensor, "*shape"]:
    """Shifted to the right, zeros coming in."""
    return (values >> bits) & (_BITS // 2**bits - 1)


def augment(images: UInt8[Tensor, "b 3 s s"], draws: Draws | None) -> UInt8[Tensor, "b 3 s s"]:
    """Random flip and shifted crop, the border mirrored (an eighth of the side); without draws: unchanged."""
    if draws is None:
        return images
    size = images.shape[2]
    margin = max(1, size // 8)
    flips, *shifts = draw(draws, 3).unbind(1)
    places = torch.arange(size, device=images.device)
    rows, columns = (_mirrored(shift[:, None] % (2 * margin + 1) - margin + places, size) for shift in shifts)
    columns = torch.where(flips[:, None] % 2 == 1, columns.flip(1), columns)
    image = torch.arange(len(images), device=images.device)[:, None, None]
    pixels = (image * size + rows[:, :, None]) * size + columns[:, None, :]
    by_pixel = images.permute(0, 2, 3, 1).reshape(-1, 3)
    return by_pixel.index_select(0, pixels.flatten()).view(-1, size, size, 3).permute(0, 3, 1, 2)


def _mirrored(places: Int64[Tensor, "b s"], size: int) -> Int64[Tensor, "b s"]:
    """Places beyond the border, counted back from it."""
    return (size - 1 - (size - 1 - places.abs()).abs()).clamp_min(0)


def prepare_images(images: UInt8[Tensor, "b 3 s s"], draws: Draws | None) -> Float[Tensor, "b 3 s s"]:
    """Images in [-1, 1] from uint8 ones, augmented where draws are given, float32 [b, 3, s, s]."""
    return augment(images, draws).float().div_(127.5).sub_(1)
