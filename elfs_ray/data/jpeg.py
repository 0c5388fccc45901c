"""Which JPEGs a graphics card decodes as Pillow does, from their headers.

Without torch, as `elfs_ray.stages.parts.embed_rows`, whose tasks ask.
"""

from typing import Any, NamedTuple

from elfs_ray.data.images import LONGEST, opened, resized_sides
from elfs_ray.data.orientation import orientation

CARD_PIXELS = 2**25
"""Larger pictures are decoded at a reduced scale by processors: whole they would fill a small card."""
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
# Baseline, extended and progressive, with Huffman codes; the others are lossless, hierarchical or arithmetic.
_FRAMES, _NO_FRAMES = range(0xC0, 0xC3), (0xC4, 0xC8, 0xCC)
_SAMPLING = ((1, 1), (2, 1), (1, 2), (2, 2))


class CardJpeg(NamedTuple):
    """A JPEG that is left to a card.

    Attributes:
        turn: its orientation, 1 to 8.
        pixels: how many it has.
    """

    turn: int
    pixels: int


def for_card(data: bytes, size: int, crop_fraction: float, max_pixels: int) -> CardJpeg | None:
    """Whether a card can make a square of an image as `images.to_square` does; None: leave it to Pillow.

    Grey or YCbCr of 8 bits, with the usual codes and sampling, one picture in the file, whole to its end, neither
    narrow nor very large. Anything unusual is Pillow's.

    Args:
        data: the encoded image, of any kind.
        size: pixels a side of the square.
        crop_fraction: as for `images.to_uint8`.
        max_pixels: larger images are refused.

    Raises:
        ImageError: no image, or more pixels than allowed.
    """
    if not (data.startswith(_START) and data.endswith(_END)):
        return None
    image: Any = opened(data, max_pixels)
    width, height = image.size
    short, resized = resized_sides((width, height), size, crop_fraction)
    if image.format != "JPEG" or width * height > CARD_PIXELS or max(resized) > LONGEST * short:
        return None
    if _frame(data) not in _FRAMES or not _usual_colours(image):
        return None
    return CardJpeg(orientation(image.info), width * height)


def _usual_colours(image: Any) -> bool:
    """Grey; or YCbCr, by the header as Pillow reads it, with colours at full, half or a quarter resolution."""
    numbers, sampling = [layer[0] for layer in image.layer], [layer[1:3] for layer in image.layer]
    if image.mode == "L":
        return sampling == [(1, 1)]
    is_rgb = image.info.get("adobe_transform", 1) != 1 or bytes(numbers) == b"RGB"
    return image.mode == "RGB" and not is_rgb and sampling[0] in _SAMPLING and sampling[1:] == [(1, 1)] * 2


def _frame(data: bytes) -> int | None:
    """The second byte of the marker that begins the frame; None where the segments before it are damaged."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker & 0xF0 == 0xC0 and marker not in _NO_FRAMES:
            return marker
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
