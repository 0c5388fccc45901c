"""Decoding JPEGs on a graphics card, and making squares of them there, as `elfs_ray.data.images` does with Pillow.

The same short side, crop and antialiased interpolation. Pillow rounds to whole numbers between the two directions, and
decoders differ in how they enlarge the colours; on average the pixels are within 2 of 255 of Pillow's
(tests/data/test_card_decoding.py compares them on a processor, where the difference is below 0.5).
"""

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from elfs_ray.data.images import resized_sides

INTERPOLATIONS = ("bilinear", "bicubic")
"""Those that torch has with antialiasing; pictures for others are left to Pillow."""
CARD_BYTES = 2**28
"""Decoded pictures that are on the card at once; four times as much while they are resized."""


def can_decode(device: torch.device) -> bool:
    """Whether torchvision decodes JPEG on this device: tries a small one."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    try:
        return _decoded([file.getvalue()], device)[0].device.type == device.type
    except (RuntimeError, ImportError, OSError):
        return False


def built_for_cards() -> bool:
    """Whether the torchvision of this machine was built for cards; a card need not be there."""
    try:
        from torchvision import version
    except (ImportError, RuntimeError, OSError):
        return False
    return getattr(version, "cuda", None) is not None


@dataclass(frozen=True)
class CardDecoder:
    """Decodes JPEGs on a device.

    Attributes:
        device: a card; or a processor, for tests, and for runs that began with a card and go on without.
        size: pixels a side.
        crop_fraction: the short side is resized to size / crop_fraction before the centre is cut out.
        interpolation: one of `INTERPOLATIONS`.
    """

    device: torch.device
    size: int
    crop_fraction: float
    interpolation: str

    def __call__(self, jpegs: Sequence[bytes], turns: Sequence[int], areas: Sequence[int]) -> list[Tensor | None]:
        """Squares uint8 [3, size, size] on the device, in order; None where one cannot be decoded here.

        Args:
            jpegs: encoded pictures, grey or in colour.
            turns: the orientation of each, 1 to 8.
            areas: pixels of each, by which it is seen how many fit at once.
        """
        squares: list[Tensor | None] = []
        for number, rows in enumerate(_portions(areas)):
            if number and self.device.type == "cuda":
                # The decoder has a stream of its own, and would write where the last portion is still being resized.
                torch.cuda.current_stream(self.device).synchronize()
            pictures = self._pictures([jpegs[row] for row in rows], [turns[row] for row in rows])
            squares += self._squares(pictures)
        return squares

    def _pictures(self, jpegs: list[bytes], turns: list[int]) -> list[Tensor | None]:
        """Pictures uint8 [3, h, w], upright: all by one call, or one by one if it fails for any of them."""
        pictures: list[Tensor | None]
        try:
            pictures = [*_decoded(jpegs, self.device)]
        except RuntimeError:
            pictures = [self._one(jpeg) for jpeg in jpegs]
        return [None if one is None else upright(one, turn) for one, turn in zip(pictures, turns, strict=True)]

    def _one(self, jpeg: bytes) -> Tensor | None:
        try:
            return _decoded([jpeg], self.device)[0]
        except RuntimeError:
            return None

    def _squares(self, pictures: list[Tensor | None]) -> list[Tensor | None]:
        """Resized and cut, those of the same shape together."""
        shapes: dict[torch.Size, list[int]] = {}
        for row, picture in enumerate(pictures):
            if picture is not None:
                shapes.setdefault(picture.shape, []).append(row)
        found: list[Tensor | None] = [None] * len(pictures)
        for rows in shapes.values():
            alike = [picture for row in rows if (picture := pictures[row]) is not None]
            try:
                made = squares(torch.stack(alike), self.size, self.crop_fraction, self.interpolation)
            except RuntimeError:  # no memory, or reduced by more than the card's program can
                continue
            for row, square in zip(rows, made.unbind(), strict=True):
                found[row] = square
        return found


def upright(picture: Tensor, turn: int) -> Tensor:
    """A picture [..., h, w] turned by its orientation, 1 to 8."""
    if turn in (5, 6, 7, 8):
        picture = picture.transpose(-1, -2)
    # After the transposition: 6 and 8 are quarter turns, 7 the other diagonal.
    mirrored = [side for side, turns in ((-1, (2, 3, 6, 7)), (-2, (3, 4, 7, 8))) if turn in turns]
    return picture.flip(mirrored) if mirrored else picture


def squares(pictures: Tensor, size: int, crop_fraction: float, interpolation: str) -> Tensor:
    """Pictures uint8 [b, 3, h, w] resized with antialiasing and cut to their centre, uint8 [b, 3, size, size]."""
    height, width = pictures.shape[-2:]
    _, (to_width, to_height) = resized_sides((width, height), size, crop_fraction)
    resized = F.interpolate(pictures.float(), (to_height, to_width), mode=interpolation, antialias=True)
    left, top = (to_width - size) // 2, (to_height - size) // 2
    return resized[..., top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8)


def _portions(areas: Sequence[int]) -> Iterator[list[int]]:
    """Neighbouring positions whose pictures take at most `CARD_BYTES` together, or one that takes more."""
    totals = list(itertools.accumulate(areas, initial=0))
    start = 0
    while start < len(areas):
        stop = start + 1
        while stop < len(areas) and 3 * (totals[stop + 1] - totals[start]) <= CARD_BYTES:
            stop += 1
        yield list(range(start, stop))
        start = stop


def _decoded(jpegs: list[bytes], device: torch.device) -> list[Tensor]:
    """Pictures uint8 [3, h, w] on the device, by one call."""
    from torchvision.io import ImageReadMode, decode_jpeg

    # A copy: torch warns of memory that it must not write to.
    encoded = [torch.from_numpy(np.frombuffer(bytearray(jpeg), np.uint8)) for jpeg in jpegs]
    decoded: list[Tensor] = decode_jpeg(encoded, ImageReadMode.RGB, device)
    return decoded
