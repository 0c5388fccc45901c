"""Pixels that are not 8 bit, brought to 8 bit by the range that a picture uses.

Files with floats, 32 or 16 bits rarely use all that their numbers can hold (12 bits of a camera in 16, heights in
metres), and nothing in them says what they use. So each picture is scaled by its own range.

The range of a picture goes from the lowest to the highest of its finite values, all colours together. Left out are

- the value that a TIFF names as nodata (tag 42113, GDAL_NODATA), unless fewer than two other values are there;
- pixels that are wholly transparent;
- the lowest or the highest value, if it is further from the next value than all other values span (both, if each
  is further from the next than all values between them span): a nodata value that nothing names. There have to be
  `FEWEST_LEVELS` different values between the two: what has fewer is a mask, which keeps all of them.

That range becomes 0 to 255, linearly; infinities become its ends; what was left out, and NaN, becomes black;
transparent pixels stand on white. A picture without a range (one value, nothing finite) is refused.
"""

import math
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile

FEWEST_LEVELS = 8
BLOCK_VALUES = 2**20
"""Values that are in float64 at once."""
_GDAL_NODATA, _PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 42113, 262, 258, 339
_16_BIT = re.compile(r"(RGBA?|RGBa|RGBX);16([BLN])")
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


class ImageError(ValueError):
    """An image that cannot be used; the message is the reason kept in quarantine."""


class Meaning(NamedTuple):
    """What the numbers of a picture mean.

    Attributes:
        dtype: to read them as, where Pillow's mode has another sign; None: as they are.
        nodata: the value that stands for no pixel, if the file names one.
        white_is_zero: small values are bright.
        premultiplied: colours are multiplied by alpha.
        transparent: the value, or the colour, of pixels that are not seen, if any.
    """

    dtype: str | None
    nodata: float | None
    white_is_zero: bool
    premultiplied: bool
    transparent: int | tuple[int, ...] | None


def meaning(image: Image.Image) -> Meaning:
    """Of an image that was opened and not loaded yet."""
    tags: Any = getattr(image, "tag_v2", {})  # of TIFF
    signs = {("I", 1, 32): "u4", ("L", 2, 8): "i1"}
    transparent = image.info.get("transparency")
    return Meaning(
        signs.get((image.mode, _first(tags.get(_SAMPLE_FORMAT)), _first(tags.get(_BITS)))),
        _number(tags.get(_GDAL_NODATA)),
        tags.get(_PHOTOMETRIC) == 0,
        any(mode.startswith("RGBa") for mode in _raw_modes(image)),
        transparent if isinstance(transparent, int | tuple) else None,
    )


def is_8_bit(image: Image.Image, what: Meaning) -> bool:
    """Whether Pillow's own conversion to RGB is right for it; of colours with 16 bits `byte_modes` tells."""
    return not image.mode.startswith("I") and image.mode != "F" and what.dtype is None


def byte_modes(image: Image.Image) -> list[dict[str, str]]:
    """How to decode colours of 16 bits a channel so that no byte is lost; nothing for other images.

    Pillow has no mode for such pixels and keeps the upper byte of each number. Decoded a second time, as if the bytes
    were in the other order, it keeps the lower one. (Grey with alpha has four bytes, as RGBA of 8 bits.)

    Args:
        image: opened, not loaded.

    Returns:
        For each time to decode it, the raw mode to put in the place of each of the image's own.
    """
    modes = _raw_modes(image)
    if modes == {"LA;16B"}:
        return [{"LA;16B": "RGBA"}]
    tags: Any = getattr(image, "tag_v2", {})
    if modes and modes <= set("RGBA") and _first(tags.get(_BITS)) == 16:
        # Each colour in a plane of its own, not compressed: Pillow would take it for 8 bits.
        order = "L" if tags.prefix == b"II" else "B"
        return [{mode: f"{mode};16{kept}" for mode in modes} for kept in (order, _OTHER_ORDER[order])]
    found = {mode: _16_BIT.fullmatch(mode) for mode in modes}
    if not modes or not all(found.values()):
        return []
    upper = {mode: (match[1].upper(), match[2]) for mode, match in found.items() if match}
    return [
        {mode: f"{channels};16{order}" for mode, (channels, order) in upper.items()},
        {mode: f"{channels};16{_OTHER_ORDER[order]}" for mode, (channels, order) in upper.items()},
    ]


def netpbm_numbers(image: ImageFile.ImageFile, data: bytes) -> np.ndarray | None:
    """The numbers, [h, w, 3], of an opened PPM with more than 8 bits; None for other images. Pillow keeps 8 bits.

    Raises:
        ImageError: they are not all there.
    """
    tile = image.tile[0] if image.tile else None
    if tile is None or tile.codec_name not in ("ppm", "ppm_plain") or image.mode != "RGB":
        return None
    if not isinstance(tile.args, tuple) or tile.args[1] <= 255:
        return None
    width, height = image.size
    count = 3 * width * height
    if tile.codec_name == "ppm":
        numbers = np.frombuffer(data, ">u2", (len(data) - tile.offset) // 2, tile.offset)[:count]
    else:
        words = re.sub(rb"#[^\r\n]*", b" ", data[tile.offset :]).split(maxsplit=count)[:count]
        numbers = np.array(words).astype(np.uint32)
    if numbers.size < count:
        raise ImageError("the image is truncated: some of its pixels are missing")
    return numbers.reshape(height, width, 3)


def decode_as(image: ImageFile.ImageFile, modes: dict[str, str]) -> None:
    """Have an opened image decoded in other raw modes than its own."""
    tiles = []
    for tile in image.tile:
        mode, rest = (tile.args[0], tile.args[1:]) if isinstance(tile.args, tuple) else (tile.args, None)
        other = modes[str(mode)]
        tiles.append(tile._replace(args=other if rest is None else (other, *rest)))
    image.tile = tiles


def from_16_bit(decoded: list[Image.Image], what: Meaning) -> Image.Image:
    """RGB of colours with 16 bits a channel.

    Args:
        decoded: the image in each of the `byte_modes`.
        what: `meaning` of it.

    Raises:
        ImageError: it has no range.
    """
    if len(decoded) == 1:
        values = np.asarray(decoded[0]).view(">u2")  # [h, w, 2]: grey, alpha
        return to_8_bit(values[..., 0], what, values[..., 1])
    values = np.asarray(decoded[0]).astype(np.uint16)
    values <<= 8
    values |= np.asarray(decoded[1])
    return to_8_bit(values[..., :3], what, values[..., 3] if values.shape[2] == 4 else None)


def to_8_bit(values: np.ndarray, what: Meaning, alpha: np.ndarray | None = None) -> Image.Image:
    """RGB of a picture by its own range; the rule is that of the module.

    Args:
        values: of any type, [h, w] grey or [h, w, 3] colours.
        what: they mean.
        alpha: uint16 [h, w], if the picture has one.

    Raises:
        ImageError: it has no range.
    """
    picture = _Picture(values if what.dtype is None else values.view(what.dtype), alpha, what)
    picture, low, high = _range(picture)
    shown = np.empty(values.shape, np.uint8)
    for rows, block in picture.blocks():
        block[np.isfinite(block) & ((block < low) | (block > high))] = np.nan
        scaled = np.clip((block - low) / (high - low), 0, 1) * 255
        if what.white_is_zero:
            scaled = 255 - scaled
        scaled = np.nan_to_num(scaled, copy=False, nan=0)
        seen = picture.seen(rows)
        if seen is not None:
            scaled = 255 + (scaled - 255) * seen
        shown[rows] = np.rint(scaled)
    return Image.fromarray(shown).convert("RGB")


class _Picture(NamedTuple):
    values: np.ndarray
    alpha: np.ndarray | None
    what: Meaning

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and their values in float64, with NaN for what is left out from the start."""
        height = len(self.values)
        step = max(1, BLOCK_VALUES * height // self.values.size)
        for start in range(0, height, step):
            rows = slice(start, start + step)
            with np.errstate(invalid="ignore"):  # of the kinds of NaN, some signal
                block = self.values[rows].astype(np.float64)
            if self.what.nodata is not None:
                block[_equal(self.values[rows], self.what.nodata)] = np.nan
            seen = self.seen(rows)
            if seen is not None:
                if self.what.premultiplied:
                    block /= np.maximum(seen, 1 / 65535)
                block[np.broadcast_to(seen == 0, block.shape)] = np.nan
            yield rows, block

    def seen(self, rows: slice) -> np.ndarray | None:
        """How opaque pixels are, 0 to 1, of a shape to go with the values; None where all of them are."""
        block, key = self.values[rows], self.what.transparent
        if self.alpha is not None:
            opacity = self.alpha[rows] / 65535
        elif key is not None and np.size(key) == (3 if block.ndim == 3 else 1):
            opacity = 1.0 - _equal(block, key)
        else:
            return None
        return opacity[..., None] if block.ndim == 3 else opacity

    def extremes(self, low: float = -np.inf, high: float = np.inf) -> tuple[float, float]:
        """The lowest and the highest of the values between two others; infinite where there are none."""
        lowest, highest = np.inf, -np.inf
        for _, block in self.blocks():
            between = block[(block > low) & (block < high)]
            if between.size:
                lowest, highest = min(lowest, float(between.min())), max(highest, float(between.max()))
        return lowest, highest

    def has_levels(self, low: float, high: float) -> bool:
        """Whether `FEWEST_LEVELS` different values lie between two others."""
        for _ in range(FEWEST_LEVELS):
            low, _ = self.extremes(low, high)
        return low < high


def _range(picture: _Picture) -> tuple[_Picture, float, float]:
    """The lowest and the highest value that count; the picture, without its nodata if this is one of two values."""
    lowest, highest = picture.extremes()
    if lowest >= highest and picture.what.nodata is not None:
        picture = picture._replace(what=picture.what._replace(nodata=None))
        lowest, highest = picture.extremes()
    if lowest > highest:
        raise ImageError("the image shows nothing: none of its pixels has a finite value")
    if lowest == highest:
        raise ImageError(f"the image shows nothing: all its pixels have the value {lowest:g}")
    low, high = picture.extremes(lowest, highest)
    far_low, far_high = low - lowest > highest - low, highest - high > high - lowest
    both = min(low - lowest, highest - high) > high - low
    if (both or far_low or far_high) and low < high and picture.has_levels(lowest, highest):
        return picture, lowest if not (both or far_low) else low, highest if not (both or far_high) else high
    return picture, lowest, highest


def _equal(block: np.ndarray, value: float | tuple[int, ...]) -> np.ndarray:
    """Pixels that have this value, in all colours; bool [h, w]."""
    with np.errstate(over="ignore", invalid="ignore"):  # as text, the largest float32 may be a little larger than it is
        same = block == (np.float32(value) if block.dtype == np.float32 else np.asarray(value, np.float64))  # type: ignore[arg-type]
    return same.all(axis=-1) if block.ndim == 3 else same


def _raw_modes(image: Image.Image) -> set[str]:
    """The orders in which an opened image has its pixels stored, one or more."""
    arguments: list[Any] = [tile[3] for tile in getattr(image, "tile", ())]
    first = [one[0] if isinstance(one, tuple) and one else one for one in arguments]
    return {one if isinstance(one, str) else "" for one in first}


def _first(value: Any) -> Any:
    """Of a tag that holds one number for each channel."""
    return value[0] if isinstance(value, tuple) and value else value


def _number(value: Any) -> float | None:
    """The number that a tag has as text."""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    try:
        number = float(text.strip(" \0\n"))
    except ValueError:
        return None
    return None if math.isnan(number) else number  # NaN is left out anyway
