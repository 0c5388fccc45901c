"""Decoding images of every kind into RGB, and saying in a few words why one cannot be used."""

import contextlib
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from elfs_ray.artifacts.filesystems import is_outage, reason
from elfs_ray.data import pixels
from elfs_ray.data.files import read_uri
from elfs_ray.data.orientation import FROM_THE_BOTTOM, FROM_THE_RIGHT, QUARTER_TURNS, TURNS, UPRIGHT, orientation
from elfs_ray.data.pixels import ImageError
from elfs_ray.errors import one_line

__all__ = [
    "ImageError",
    "ImageInfo",
    "as_shown",
    "decode",
    "inspect",
    "load_image",
    "load_with",
    "opened",
    "resized_sides",
    "to_square",
    "to_uint8",
]

T = TypeVar("T")
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
LONGEST = 4
"""The long side of pictures that are resized whole, in short sides."""
DRAFT_MARGIN = 2
"""A JPEG is decoded at no smaller size than so many times the one that it will be resized to."""
_INSPECTED_SIDE = 64
_ORIENTATION = 0x0112
Image.init()
# Encapsulated PostScript is a program: Pillow would have Ghostscript run it.
_KINDS = sorted(set(Image.OPEN) - {"EPS"})
_LIMIT_LOCK = threading.Lock()


class ImageInfo(NamedTuple):
    """What ingest records of an image.

    Attributes:
        width: pixels, as shown (turned as its orientation says).
        height: pixels, as shown.
        content_hash: BLAKE2b of the encoded bytes, 32 hexadecimal digits.
    """

    width: int
    height: int
    content_hash: str


class _Shown(NamedTuple):
    """A picture as it is shown, perhaps decoded at a reduced scale.

    Attributes:
        image: RGB of 8 bits, upright.
        size: width and height of the picture decoded whole.
        box: left, top, right and bottom of the picture in `image`. At a reduced scale it ends within a pixel.
    """

    image: Image.Image
    size: tuple[int, int]
    box: tuple[float, float, float, float]


def decode(data: bytes, *, max_pixels: int, short_side: int | None = None) -> Image.Image:
    """Decode the first frame into RGB of 8 bits, upright, transparency on white, without metadata.

    What is not 8 bit is scaled by the range that it uses (`elfs_ray.data.pixels`).

    Args:
        data: encoded image of any kind that Pillow reads.
        max_pixels: larger images are refused from the header, before any pixel is decoded.
        short_side: JPEG may be decoded at a reduced scale that leaves at least so many pixels in the shorter side. The
            pixels at an edge may then be partly of the padding that JPEG has there; `to_square` leaves it out.

    Raises:
        ImageError: empty, not an image, truncated, damaged, too large, or without anything to see.
    """
    return _shown(data, max_pixels, short_side).image


def inspect(data: bytes, *, max_pixels: int) -> ImageInfo:
    """Check that the whole image decodes, by doing all that `decode` does, and describe it.

    JPEG is decoded at a reduced scale, which reads all data.

    Raises:
        ImageError: as `decode`.
    """
    width, height = _shown(data, max_pixels, _INSPECTED_SIDE).size
    return ImageInfo(width, height, hashlib.blake2b(data, digest_size=16).hexdigest())


def to_square(
    data: bytes, size: int, crop_fraction: float = 1.0, interpolation: str = "bicubic", *, max_pixels: int
) -> np.ndarray:
    """What `to_uint8` gives of an encoded image, nearly: large JPEGs are decoded at a reduced scale.

    Those take a half to a tenth of the time so. At least `DRAFT_MARGIN` times the pixels that are asked for remain, so
    that an antialiased resize has the last word. From the pixels after decoding the whole picture these differ by 0.1
    to 1.2 of 255 on average (photographs of 2000 to 4000 pixels, the more the finer their detail;
    tests/data/test_drafts.py). Small JPEGs and other kinds give the same pixels.

    Returns:
        uint8 [3, size, size], contiguous.

    Raises:
        ImageError: as `decode`.
    """
    short, _ = resized_sides((size, size), size, crop_fraction)
    return _square(_shown(data, max_pixels, DRAFT_MARGIN * short), size, crop_fraction, interpolation)


def to_uint8(image: Image.Image, size: int, crop_fraction: float = 1.0, interpolation: str = "bicubic") -> np.ndarray:
    """Resize the short side to size / crop_fraction and cut out the centre.

    Of a long and narrow picture only what is cut out is resized: 1 x 65,000 would become 65,000 times `size` high.
    Others are resized whole. Pillow resizes one side after the other, in an order that depends on the sizes, and rounds
    in between: single values would differ from those that earlier versions gave.

    Returns:
        uint8 [3, size, size], contiguous.
    """
    return _square(_Shown(image, image.size, (0, 0, *image.size)), size, crop_fraction, interpolation)


def resized_sides(sides: tuple[int, int], size: int, crop_fraction: float) -> tuple[int, tuple[int, int]]:
    """The short side, and both in their order, that a picture gets before its centre of `size` pixels is cut out."""
    short = max(size, round(size / crop_fraction))
    scale = short / min(sides)
    first, second = (max(size, round(side * scale)) for side in sides)
    return short, (first, second)


def load_image(source: bytes | str, location: str, max_pixels: int, short_side: int | None = None) -> Image.Image | str:
    """Read and decode an image, as `decode` does, or say why that cannot be.

    Args:
        source: its encoded bytes, or its path or URI.
        location: what reaches URIs like it.
        max_pixels: larger images are refused.
        short_side: as for `decode`.

    Raises:
        OSError: the store does not answer, which says nothing of the image.
    """
    return load_with(source, location, partial(decode, max_pixels=max_pixels, short_side=short_side))


def load_with(source: bytes | str, location: str, use: Callable[[bytes], T]) -> T | str:
    """Read an image and make something of its bytes, or say why that cannot be.

    Args:
        source: its encoded bytes, or its path or URI.
        location: what reaches URIs like it.
        use: may raise `ImageError`.

    Raises:
        OSError: the store does not answer, which says nothing of the image.
    """
    try:
        return use(source if isinstance(source, bytes) else read_uri(source, location))
    except ImageError as error:
        return str(error)
    except OSError as error:
        if is_outage(error):
            raise
        return f"the file cannot be read: {reason(error)}"


def as_shown(image: Image.Image) -> Image.Image:
    """A picture that Pillow has opened or made already, as `decode` gives one: a copy in RGB of 8 bits, upright.

    Raises:
        ImageError: truncated, damaged, or without anything to see.
    """
    with _reasons():
        copy = image.copy()
        turn = orientation(copy.info)
        copy = copy.transpose(TURNS[turn]) if turn in TURNS else copy
    what = pixels.meaning(copy)
    if not pixels.is_8_bit(copy, what):
        return pixels.to_8_bit(np.asarray(copy), what)
    with _reasons():
        return _to_rgb(copy)


def _square(picture: _Shown, size: int, crop_fraction: float, interpolation: str) -> np.ndarray:
    """As `to_uint8`, of a picture that may have been decoded at a reduced scale."""
    short, resized = resized_sides(picture.size, size, crop_fraction)
    left, top = ((side - size) // 2 for side in resized)
    method = _RESAMPLING[interpolation]
    if max(resized) <= LONGEST * short:
        square = picture.image.resize(resized, method, box=picture.box)
        square = square.crop((left, top, left + size, top + size))
    else:
        first_x, first_y, last_x, last_y = picture.box
        x, y = (last_x - first_x) / resized[0], (last_y - first_y) / resized[1]
        box = (first_x + left * x, first_y + top * y, first_x + (left + size) * x, first_y + (top + size) * y)
        square = picture.image.resize((size, size), method, box=box)
    return np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))


def _shown(data: bytes, max_pixels: int, short_side: int | None) -> _Shown:
    """Decode; JPEG at a reduced scale, if one leaves at least `short_side` pixels in its shorter side."""
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    _allow(max_pixels)
    file = io.BytesIO(data)
    try:
        with _reasons():
            image = _open(file, max_pixels)
            stored, what = image.size, pixels.meaning(image)
            numbers, modes = pixels.netpbm_numbers(image, data), pixels.byte_modes(image)
            drafted = None if short_side is None else image.draft("RGB", (short_side, short_side))
            upright, turn = _load(image, max_pixels, modes[0] if modes else {}) if numbers is None else (image, UPRIGHT)
            again = [_load(_open(io.BytesIO(data), max_pixels), max_pixels, mode)[0] for mode in modes[1:]]
        if numbers is not None:
            shown = pixels.to_8_bit(numbers, what)
        elif modes:
            shown = pixels.from_16_bit([upright, *again], what)
        elif not pixels.is_8_bit(upright, what):
            shown = pixels.to_8_bit(np.asarray(upright), what)
        else:
            with _reasons():
                shown = _to_rgb(upright)
    except MemoryError:
        raise ImageError("the image needs more memory than there is") from None
    if drafted is None:
        return _Shown(shown, upright.size, (0, 0, *upright.size))
    return _Shown(shown, stored[::-1] if turn in QUARTER_TURNS else stored, _turned_box(drafted[1], shown.size, turn))


def _turned_box(box: tuple[float, ...], size: tuple[int, int], turn: int) -> tuple[float, float, float, float]:
    """Where the picture is after a turn, if before it lay at the top left of an image that now has this size."""
    _, _, width, height = box
    if turn in QUARTER_TURNS:
        width, height = height, width
    left = size[0] - width if turn in FROM_THE_RIGHT else 0
    top = size[1] - height if turn in FROM_THE_BOTTOM else 0
    return left, top, left + width, top + height


def opened(data: bytes, max_pixels: int) -> Image.Image:
    """The image with its header read and no pixel decoded.

    Raises:
        ImageError: no image, or too large.
    """
    _allow(max_pixels)
    with _reasons():
        return _open(io.BytesIO(data), max_pixels)


def _allow(max_pixels: int) -> None:
    """Raise Pillow's own limit to ours, never lower it: it stands for the process, and decoding runs in threads."""
    with _LIMIT_LOCK:
        if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = max_pixels


def _open(file: io.BytesIO, max_pixels: int) -> ImageFile.ImageFile:
    image = Image.open(file, formats=_KINDS)
    _check_size(image, max_pixels)
    return image


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels are more than ingest.max_pixels={max_pixels}")
    if width == 0 or height == 0:
        raise ImageError(f"the image has no pixels ({width} x {height})")


def _load(image: ImageFile.ImageFile, max_pixels: int, raw_modes: dict[str, str]) -> tuple[Image.Image, int]:
    """Decode the pixels, in other raw modes if any are given, and turn them upright; returns the orientation, too."""
    if raw_modes:
        pixels.decode_as(image, raw_modes)
    _forget_metadata_of_tiff(image)
    image.load()
    _check_size(image, max_pixels)  # an icon's header may tell of another size
    # Only now: PNG may have metadata behind the pixels; and TIFF turns itself, and then no longer has an orientation.
    turn = orientation(image.info)
    if turn in TURNS:
        return image.transpose(TURNS[turn]), turn
    return image, turn


def _forget_metadata_of_tiff(image: Image.Image) -> None:
    """Leave TIFF nothing but its orientation to stumble over: on loading, Pillow reads all EXIF, damaged or not."""
    if not hasattr(image, "tag_v2"):
        return
    if not isinstance(image.info.get("xmp"), bytes):
        image.info.pop("xmp", None)
    with contextlib.suppress(Exception):
        image.getexif()
    exif = image.getexif()  # what was read of it
    for tag in set(exif) - {_ORIENTATION}:
        del exif[tag]


def _to_rgb(image: Image.Image) -> Image.Image:
    transparency = image.info.get("transparency")
    if not isinstance(transparency, int | bytes | tuple):  # PNG may have a text of that name
        image.info.pop("transparency", None)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB") if image.mode != "RGB" else image
    image.info = {}
    return image


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn what Pillow says of bad data into short reasons.

    Around calls of Pillow alone: it raises whatever it runs into, and what goes wrong elsewhere is a fault of ours.
    """
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image, or of a kind that Pillow does not read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("far too many pixels (a decompression bomb)") from None
    except Exception as error:  # noqa: BLE001 - see above
        text = one_line(error)
        kind = "truncated" if "truncated" in text.lower() or isinstance(error, EOFError) else "damaged"
        raise ImageError(f"the image is {kind}: {text}") from None
