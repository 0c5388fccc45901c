"""Which way up pictures are, and that no metadata, however damaged, lose one."""

import struct
import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from elfs_ray.data.image_kinds import ending_of
from elfs_ray.data.images import ImageError, decode, inspect
from elfs_ray.data.orientation import orientation
from image_files import PIXELS, chunk, encode, exif, tiff, with_exif

LIMIT = 1_000_000
pytestmark = pytest.mark.filterwarnings(
    r"ignore::UserWarning:PIL\..*"
)  # of damaged metadata, which the program filters
UP = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}


def shown(data):
    """The pixels, after checking that both readers agree on their size."""
    pixels = np.asarray(decode(data, max_pixels=LIMIT))
    width, height, _ = inspect(data, max_pixels=LIMIT)
    assert pixels.shape == (height, width, 3)
    return pixels


def xmp(number):
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{number}"/></x:xmpmeta>'.encode()


def png_with_xmp(number):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp(number).decode())
    return encode(Image.fromarray(PIXELS), pnginfo=info)


def named(number):
    return exif((0x0112, 3, 1, number))


def behind_the_pixels(number):
    data = encode(Image.fromarray(PIXELS))
    return data[:-12] + chunk(b"eXIf", named(number)) + data[-12:]


KINDS = {
    "PNG": lambda number: with_exif("PNG", named(number)),
    "PNG, big-endian": lambda number: with_exif("PNG", exif((0x0112, 3, 1, number), order=">")),
    "PNG, behind the pixels": behind_the_pixels,
    "PNG, XMP": png_with_xmp,
    "WebP": lambda number: encode(Image.fromarray(PIXELS), "WEBP", lossless=True, exif=named(number)),
    "WebP, XMP": lambda number: encode(Image.fromarray(PIXELS), "WEBP", lossless=True, xmp=xmp(number)),
    "TIFF": lambda number: tiff(PIXELS, (0x0112, 3, 1, number)),
    "TIFF, big-endian": lambda number: tiff(PIXELS, (0x0112, 3, 1, number), order=">"),
    "TIFF, deflated": lambda number: tiff(PIXELS, (0x0112, 3, 1, number), compressed=True),
    "TIFF, by Pillow": lambda number: encode(Image.fromarray(PIXELS), "TIFF", exif=b"Exif\0\0" + named(number)),
    "TIFF, XMP": lambda number: encode(Image.fromarray(PIXELS), "TIFF", tiffinfo={700: xmp(number)}),
}


@pytest.mark.parametrize("number", UP)
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_upright(kind, number):
    np.testing.assert_array_equal(shown(KINDS[kind](number)), UP[number](PIXELS))


@pytest.mark.parametrize("number", UP)
@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_jpeg_is_upright(kind, number):
    """Turned after decoding, so to the value as a JPEG that is not."""
    options = {"save_all": True, "append_images": [Image.fromarray(PIXELS)]} if kind == "MPO" else {}
    data = encode(Image.fromarray(PIXELS), kind, exif=b"Exif\0\0" + named(number), **options)
    plain = shown(encode(Image.fromarray(PIXELS), "JPEG"))
    np.testing.assert_array_equal(shown(data), UP[number](plain))


# Each of them ended a run, or would have: what it is, and the orientation that counts.
BLOCKS = {
    "a number where text belongs": (exif((0x010E, 4, 1, 7), (0x0112, 3, 1, 6)), 6),
    "LONG in the place of SHORT": (exif((0x0112, 3, 1, 6), (0x0128, 4, 1, 70_000)), 6),
    "a fraction where text belongs": (exif((0x010F, 5, 1, 8), (0x0112, 3, 1, 6)), 6),
    "text behind the end": (exif((0x010F, 2, 30, 5000), (0x0112, 3, 1, 6)), 6),
    "an absurd count": (exif((0x010F, 2, 2**32 - 1, 26), (0x0112, 3, 1, 6)), 6),
    "a directory that is itself": (exif((0x0112, 3, 1, 6), (0x8769, 4, 1, 8), (0x8825, 4, 1, 8)), 6),
    "a directory behind the end": (exif((0x0112, 3, 1, 6), (0x8769, 4, 1, 2**31), (0x8825, 3, 1, 1)), 6),
    "unsorted": (exif((0x0131, 2, 3, 0), (0x0112, 3, 1, 8)), 8),
    "cut off behind the tag": (exif((0x0112, 3, 1, 6), (0x0131, 2, 30, 100))[:24], 6),
    "cut off in the tag": (exif((0x0112, 3, 1, 6))[:17], 1),
    "cut off in the head": (exif((0x0112, 3, 1, 6))[:5], 1),
    "empty": (b"", 1),
    "no EXIF": (b"hello", 1),
    "another number of TIFF": (exif((0x0112, 3, 1, 6)).replace(b"II*\0", b"II+\0"), 1),
    "orientation 0": (exif((0x0112, 3, 1, 0)), 1),
    "orientation 9": (exif((0x0112, 3, 1, 9)), 1),
    "orientation as LONG": (exif((0x0112, 4, 1, 6)), 6),
    "orientation as LONG, too large": (exif((0x0112, 4, 1, 2**32 - 2)), 1),
    "orientation below zero": (exif((0x0112, 8, 1, 65530)), 1),
    "orientation as text": (exif((0x0112, 2, 2, int.from_bytes(b"6\0\0\0", "little"))), 1),
    "orientation as a fraction": (exif((0x0112, 5, 1, 26), behind=struct.pack("<II", 6, 4)), 1),
    "orientation of an unknown type": (exif((0x0112, 99, 1, 6)), 1),
    "no orientation of many": (exif((0x0112, 3, 4, 26), behind=b"\6\0" * 4), 1),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("block", BLOCKS)
def test_damaged_exif(block, kind):
    data, number = BLOCKS[block]
    options = {"lossless": True} if kind == "WEBP" else {}
    file = encode(Image.fromarray(PIXELS), kind, exif=b"Exif\0\0" + data, **options)
    np.testing.assert_array_equal(shown(file), UP[number](PIXELS))


@pytest.mark.parametrize("block", BLOCKS)
def test_damaged_exif_in_jpeg(block):
    data, number = BLOCKS[block]
    assert shown(with_exif("JPEG", data)).shape == UP[number](PIXELS).shape


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "found",
    [
        [(0x8769, 4, 1, 8)], [(0x8769, 4, 1, 2**31)], [(0x8769, 2, 1, 8)], [(0x8825, 3, 1, 1)], [(0xA005, 4, 1, 2)],
        [(700, 3, 1, 7)], [(700, 3, 2, 7)], [(700, 4, 1, 7)], [(700, 2, 3, 7)], [(0x0131, 4, 1, 7)],
    ],
)  # fmt: skip
def test_damaged_metadata_of_tiff(found, compressed):
    data = tiff(PIXELS, (0x0112, 3, 1, 6), *found, compressed=compressed)
    np.testing.assert_array_equal(shown(data), UP[6](PIXELS))


class TestWhereItIsNamed:
    def test_exif_counts_before_xmp(self):
        assert orientation({"exif": named(3), "xmp": xmp(6)}) == 3
        assert orientation({"exif": exif((0x0131, 2, 1, 0)), "xmp": xmp(6)}) == 6

    def test_exif_that_cannot_be_read_is_upright(self):
        assert orientation({"exif": b"II*\0\xff\xff\xff\xff", "xmp": xmp(6)}) == 1

    def test_imagemagick_writes_hexadecimal_text(self):
        block = b"Exif\0\0" + named(6)
        text = f"\nexif\n{len(block):8}\n{block.hex()}\n"
        assert orientation({"Raw profile type exif": text}) == 6
        assert orientation({"Raw profile type exif": text[:-3] + "xy"}) == 1
        assert orientation({"Raw profile type exif": 7}) == 1

    @pytest.mark.parametrize(
        ("packet", "number"),
        [
            (xmp(6), 6), (xmp(6).decode(), 6), (b"<tiff:Orientation>8</tiff:Orientation>", 8), (xmp(0), 1), (xmp(9), 1),
            (b"\xff\xfe", 1), ((1, 2), 1), (7, 1), (None, 1),
        ],
    )  # fmt: skip
    def test_xmp(self, packet, number):
        assert orientation({"xmp": packet}) == number

    def test_the_mark_of_jpeg_is_skipped_twice(self):
        assert orientation({"exif": b"Exif\0\0Exif\0\0" + named(5)}) == 5


@pytest.mark.parametrize(
    "texts",
    [
        {"transparency": "7"}, {"exif": "hello"}, {"xmp": "hello"}, {"Raw profile type exif": "hello"}, {"gamma": "x"},
        {"icc_profile": "x"}, {"dpi": "x"}, {"XML:com.adobe.xmp": "\xff"}, {"srgb": "x"}, {"chromaticity": "x"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "LA", "RGBA"])
def test_texts_of_png_are_no_metadata(texts, mode):
    """Pillow puts them beside what it read itself."""
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    image = Image.fromarray(PIXELS).convert(mode)
    expected = shown(encode(image))
    np.testing.assert_array_equal(shown(encode(image, pnginfo=info)), expected)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"tRNS", bytes(range(256)) * 2), (b"tRNS", b""), (b"gAMA", b"\0\0\0\0"), (b"iCCP", b"x\0\0hello"),
        (b"iCCP", b"x"), (b"cHRM", b"\xff" * 32), (b"eXIf", b"\xff"), (b"zTXt", b"exif\0\0x"), (b"tEXt", b"bbox\0x"),
        (b"acTL", b"\0\0\0\2\0\0\0\0"), (b"pHYs", b"\xff" * 9),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_damaged_chunks_of_png_are_refused_by_both_readers_or_by_none(name, data, mode):
    image = encode(Image.fromarray(PIXELS).convert(mode))
    at = image.index(b"IDAT") - 4
    file = image[:at] + chunk(name, data) + image[at:]
    found = []
    for reader in (decode, inspect):
        try:
            made = reader(file, max_pixels=LIMIT)
            found.append((made.width, made.height))
        except ImageError as error:
            found.append(str(error))
    assert found[0] == found[1]


def test_no_filter_of_warnings_is_touched(monkeypatch):
    """Images are decoded in threads: `catch_warnings` would leave the filters of one to another."""
    before = list(warnings.filters)
    block = exif((0x010F, 2, 30, 5000), (0x0112, 3, 1, 6))
    with monkeypatch.context() as patch:  # pytest needs it afterwards
        patch.delattr(warnings, "catch_warnings")
        for data in (with_exif("JPEG", block), tiff(PIXELS, (0x8769, 2, 40, 3))):
            shown(data)
            assert ending_of(data) in ("jpg", "tif")
    assert warnings.filters == before
