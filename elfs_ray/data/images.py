"""Decoding images of every kind into RGB, and saying in a few words why one cannot be used."""

import contextlib
import hashlib
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from PIL import Image, ImageFile, UnidentifiedImageError

from elfs_ray.data import pixels
from elfs_ray.data.files import read_uri
from elfs_ray.data.orientation import QUARTER_TURNS, TURNS, UPRIGHT, orientation
from elfs_ray.data.pixels import ImageError
from elfs_ray.data.unusable import Unusable, UnusableImagesError
from elfs_ray.errors import one_line
from elfs_ray.storage import is_outage, reason

__all__ = ["ImageError", "ImageInfo", "decode", "inspect", "load_image", "read_pixels", "to_uint8"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
LONGEST = 4
"""The long side of pictures that are resized whole, in short sides."""
_DRAFT_SIDE = 64
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


def decode(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode the first frame into RGB of 8 bits, upright, transparency on white, without metadata.

    What is not 8 bit is scaled by the range that it uses (`elfs_ray.data.pixels`).

    Args:
        data: encoded image of any kind that Pillow reads.
        max_pixels: larger images are refused from the header, before any pixel is decoded.

    Raises:
        ImageError: empty, not an image, truncated, damaged, too large, or without anything to see.
    """
    return _shown(data, max_pixels)[0]


def inspect(data: bytes, *, max_pixels: int) -> ImageInfo:
    """Check that the whole image decodes, by doing all that `decode` does, and describe it.

    JPEG is decoded at a reduced scale, which reads all data.

    Raises:
        ImageError: as `decode`.
    """
    width, height = _shown(data, max_pixels, reduced=True)[1]
    return ImageInfo(width, height, hashlib.blake2b(data, digest_size=16).hexdigest())


def to_uint8(image: Image.Image, size: int, crop_fraction: float = 1.0, interpolation: str = "bicubic") -> np.ndarray:
    """Resize the short side to size / crop_fraction and cut out the centre.

    Of a long and narrow picture only what is cut out is resized: 1 x 65,000 would become 65,000 times `size` high.
    Others are resized whole. Pillow resizes one side after the other, in an order that depends on the sizes, and rounds
    in between: single values would differ from those that earlier versions gave.

    Returns:
        uint8 [3, size, size], contiguous.
    """
    short = max(size, round(size / crop_fraction))
    scale = short / min(image.size)
    resized = [max(size, round(side * scale)) for side in image.size]
    left, top = ((side - size) // 2 for side in resized)
    if max(resized) <= LONGEST * short:
        square = image.resize((resized[0], resized[1]), _RESAMPLING[interpolation])
        square = square.crop((left, top, left + size, top + size))
    else:
        x, y = (side / long for side, long in zip(image.size, resized, strict=True))
        box = (left * x, top * y, (left + size) * x, (top + size) * y)
        square = image.resize((size, size), _RESAMPLING[interpolation], box=box)
    return np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))


def read_pixels(
    samples: pads.Dataset,
    size: int,
    max_pixels: int,
    *,
    positions: np.ndarray | None = None,
    location: str = "",
    prefix: str = "",
    threads: int = 8,
) -> np.ndarray:
    """Images of the samples artifact in memory, uint8 [n, 3, size, size], for networks that train on images.

    Args:
        samples: the artifact.
        size: pixels a side.
        max_pixels: larger images are refused.
        positions: of some samples, int64 [n] in ascending order; without: all.
        location: where they came from, which says how to reach them.
        prefix: `test/` for the samples of separate test images.
        threads: that read and decode.

    Raises:
        UnusableImagesError: some cannot be read any more; all of them are named.
    """
    column = "image" if "image" in samples.schema.names else "uri"
    wanted = None if positions is None else pc.field("index").isin(pa.array(positions))
    images = np.empty((samples.count_rows(filter=wanted), 3, size, size), dtype=np.uint8)

    def load(source: bytes | str) -> np.ndarray | str:
        image = load_image(source, location, max_pixels)
        return image if isinstance(image, str) else to_uint8(image, size)

    row, failed = 0, list[Unusable]()
    with ThreadPoolExecutor(threads) as pool:
        for batch in samples.to_batches(columns=["index", "sample_id", column], batch_size=4096, filter=wanted):
            keys = zip(batch["index"].to_pylist(), batch["sample_id"].to_pylist(), strict=True)
            for key, loaded in zip(keys, pool.map(load, batch[column].to_pylist()), strict=True):
                if isinstance(loaded, str):
                    failed.append(Unusable(*key, loaded))
                else:
                    images[row] = loaded
                    row += 1
    if failed:
        raise UnusableImagesError(failed, prefix)
    return images


def load_image(source: bytes | str, location: str, max_pixels: int) -> Image.Image | str:
    """Read and decode an image, as `decode` does, or say why that cannot be.

    Args:
        source: its encoded bytes, or its path or URI.
        location: what reaches URIs like it.
        max_pixels: larger images are refused.

    Raises:
        OSError: the store does not answer, which says nothing of the image.
    """
    try:
        data = source if isinstance(source, bytes) else read_uri(source, location)
        return decode(data, max_pixels=max_pixels)
    except ImageError as error:
        return str(error)
    except OSError as error:
        if is_outage(error):
            raise
        return f"the file cannot be read: {reason(error)}"


def _shown(data: bytes, max_pixels: int, *, reduced: bool = False) -> tuple[Image.Image, tuple[int, int]]:
    """The picture as it is shown, in RGB; and its width and height, also where JPEG is decoded at a reduced scale."""
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    _allow(max_pixels)
    file = io.BytesIO(data)
    try:
        with _reasons():
            image = _open(file, max_pixels)
            stored, what = image.size, pixels.meaning(image)
            numbers, modes = pixels.netpbm_numbers(image, data), pixels.byte_modes(image)
            drafted = reduced and image.draft("RGB", (_DRAFT_SIDE, _DRAFT_SIDE)) is not None
            upright, turn = _load(image, max_pixels, modes[0] if modes else {}) if numbers is None else (image, UPRIGHT)
            again = [_load(_open(io.BytesIO(data), max_pixels), max_pixels, mode)[0] for mode in modes[1:]]
        size = (stored[::-1] if turn in QUARTER_TURNS else stored) if drafted else upright.size
        if numbers is not None:
            return pixels.to_8_bit(numbers, what), size
        if modes:
            return pixels.from_16_bit([upright, *again], what), size
        if not pixels.is_8_bit(upright, what):
            return pixels.to_8_bit(np.asarray(upright), what), size
        with _reasons():
            return _to_rgb(upright), size
    except MemoryError:
        raise ImageError("the image needs more memory than there is") from None


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
