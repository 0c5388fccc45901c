"""Which way up a picture is shown, from its metadata, however damaged these are.

Pillow reads all of an EXIF block, and raises what it stumbles over; here nothing but the orientation is looked at.
"""

import re
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

UPRIGHT = 1
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture with this orientation upright."""
QUARTER_TURNS = (5, 6, 7, 8)
"""Orientations whose width and height change places."""
FROM_THE_RIGHT, FROM_THE_BOTTOM = (2, 3, 6, 7), (3, 4, 7, 8)
"""Orientations in which what is stored at the top left is shown at the right, and at the bottom."""

_TAG = 0x0112
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # EXIF type -> format of `struct`
_IN_XMP = re.compile(r'tiff:Orientation(?:="|>)([0-9])')


def orientation(info: Mapping[Any, Any]) -> int:
    """The orientation that an image's `info` names, 1 to 8.

    EXIF counts before XMP. Without either, or where what is there cannot be read or is no whole number from 1 to 8, a
    picture is upright, as browsers have it.
    """
    block = _exif(info)
    named = _in_exif(block) if block else None
    if named is None:
        named = _in_xmp(info.get("xmp") or info.get("XML:com.adobe.xmp"))
    return named if named in TURNS else UPRIGHT


def _exif(info: Mapping[Any, Any]) -> bytes:
    """The EXIF block, without the mark that JPEG puts before it."""
    block, profile = info.get("exif"), info.get("Raw profile type exif")
    if not isinstance(block, bytes) and isinstance(profile, str):  # ImageMagick's way with PNG: hexadecimal text
        try:
            block = bytes.fromhex("".join(profile.split("\n")[3:]))
        except ValueError:
            block = None
    if not isinstance(block, bytes):
        return b""
    return re.sub(rb"^(Exif\0\0){1,2}", b"", block)


def _in_exif(block: bytes) -> int | None:
    """The value of the tag; 0 where the block cannot be read up to it, None where the block has none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 0
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (entries,) = struct.unpack_from(order + "H", block, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", block, place)
            if tag == _TAG:
                known = kind in _WHOLE_NUMBERS and count == 1
                return int(struct.unpack_from(order + _WHOLE_NUMBERS[kind], block, place + 8)[0]) if known else 0
    except struct.error:
        return 0
    return None


def _in_xmp(text: object) -> int:
    """The value in an XMP packet; 0 where it has none."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    found = _IN_XMP.search(text) if isinstance(text, str) else None
    return int(found[1]) if found else 0
