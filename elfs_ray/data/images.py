"""Decoding images of every kind into RGB, and saying in a few words why one cannot be used."""

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from PIL import Image, ImageOps, UnidentifiedImageError

from elfs_ray.data.files import read_uri
from elfs_ray.data.unusable import Unusable, UnusableImagesError
from elfs_ray.errors import one_line
from elfs_ray.storage import is_outage, reason

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# What Pillow's decoders raise on damaged data; anything else is a fault of this program.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)
_DRAFT_SIDE = 64
Image.init()
# Encapsulated PostScript is a program: Pillow would have Ghostscript run it.
_KINDS = sorted(set(Image.OPEN) - {"EPS"})


class ImageError(ValueError):
    """An image that cannot be used; the message is the reason kept in quarantine."""


class ImageInfo(NamedTuple):
    """What ingest records of an image.

    Attributes:
        width: pixels, as shown (after the EXIF orientation).
        height: pixels, as shown.
        content_hash: BLAKE2b of the encoded bytes, 32 hexadecimal digits.
    """

    width: int
    height: int
    content_hash: str


def decode(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode the first frame into RGB, upright, transparency on white.

    Args:
        data: encoded image of any kind that Pillow reads.
        max_pixels: larger images are refused from the header, before any pixel is decoded.

    Raises:
        ImageError: empty, not an image, truncated, damaged, or too large.
    """
    with _reasons():
        image = _open(data, max_pixels)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))


def inspect(data: bytes, *, max_pixels: int) -> ImageInfo:
    """Check that the whole image decodes, and describe it. JPEG is decoded at a reduced scale, which reads all data.

    Raises:
        ImageError: as `decode`.
    """
    with _reasons():
        image = _open(data, max_pixels)
        width, height = image.size
        if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):  # orientations that turn by a quarter
            width, height = height, width
        image.draft("RGB", (_DRAFT_SIDE, _DRAFT_SIDE))
        image.load()
    return ImageInfo(width, height, hashlib.blake2b(data, digest_size=16).hexdigest())


def to_uint8(image: Image.Image, size: int, crop_fraction: float = 1.0, interpolation: str = "bicubic") -> np.ndarray:
    """Resize the short side to size / crop_fraction and cut out the centre.

    Returns:
        uint8 [3, size, size], contiguous.
    """
    width, height = image.size
    short = max(size, round(size / crop_fraction))
    scale = short / min(width, height)
    resized = image.resize(
        (max(size, round(width * scale)), max(size, round(height * scale))), _RESAMPLING[interpolation]
    )
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    pixels = np.asarray(resized.crop((left, top, left + size, top + size)), dtype=np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


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
    pixels = np.empty((samples.count_rows(filter=wanted), 3, size, size), dtype=np.uint8)

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
                    pixels[row] = loaded
                    row += 1
    if failed:
        raise UnusableImagesError(failed, prefix)
    return pixels


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


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    image = Image.open(io.BytesIO(data), formats=_KINDS)
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels are more than ingest.max_pixels={max_pixels}")
    if width == 0 or height == 0:
        raise ImageError(f"the image has no pixels ({width} x {height})")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow would clip: scale 16-bit grey, and what lies in no known range by its own extremes.
        values = np.asarray(image, dtype=np.float64)
        is_16_bit = image.mode.startswith("I") and values.size > 0 and values.min() >= 0 and values.max() <= 65535
        low, high = (0.0, 65535.0) if is_16_bit else (float(values.min()), float(values.max()))
        scaled = (values - low) / max(high - low, 1e-12) * 255
        return Image.fromarray(np.round(scaled).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn what Pillow says of bad data into short reasons."""
    try:
        with warnings.catch_warnings():
            # The size is checked against our own limit; other warnings of a file that decodes do not matter.
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image, or of a kind that Pillow does not read") from None
    except Image.DecompressionBombError:
        raise ImageError("far too many pixels (a decompression bomb)") from None
    except _DECODING_ERRORS as error:
        text = one_line(error)
        kind = "truncated" if "truncated" in text.lower() or isinstance(error, EOFError) else "damaged"
        raise ImageError(f"the image is {kind}: {text}") from None
