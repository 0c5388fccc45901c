"""Images of every kind that folders hold: decoded into RGB, or refused with a reason in a few words."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from elfs_ray.data.images import ImageError, decode, inspect, to_uint8

LIMIT = 1_000_000


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width=40, height=30):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 6, rows * 8, columns + rows], axis=2).astype(np.uint8)


class TestDecode:
    def test_rgb_is_unchanged(self):
        np.testing.assert_array_equal(
            np.asarray(decode(encode(Image.fromarray(gradient())), max_pixels=LIMIT)), gradient()
        )

    @pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
    def test_reads_the_usual_kinds(self, kind):
        image = decode(encode(Image.fromarray(gradient()), kind), max_pixels=LIMIT)
        assert (image.mode, image.size) == ("RGB", (40, 30))

    @pytest.mark.parametrize(
        ("mode", "pixel", "expected"),
        [
            ("L", 128, (128, 128, 128)),
            ("1", 255, (255, 255, 255)),
            ("LA", (0, 0), (255, 255, 255)),
            ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
            ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
            ("CMYK", (0, 255, 255, 0), (254, 0, 0)),
            ("I;16", 65535, (255, 255, 255)),
            ("I;16", 257, (1, 1, 1)),
        ],
    )
    def test_modes(self, mode, pixel, expected):
        kind = "TIFF" if mode == "CMYK" else "PNG"
        image = decode(encode(Image.new(mode, (4, 4), pixel), kind), max_pixels=LIMIT)
        assert image.getpixel((1, 1)) == pytest.approx(expected, abs=1)

    def test_palette_with_transparency_stands_on_white(self):
        image = Image.new("P", (4, 4), 1)
        image.putpalette([10, 20, 30, 200, 100, 50])
        assert decode(encode(image), max_pixels=LIMIT).getpixel((0, 0)) == (200, 100, 50)
        assert decode(encode(image, transparency=1), max_pixels=LIMIT).getpixel((0, 0)) == (255, 255, 255)

    def test_first_frame_of_an_animation(self):
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert decode(data, max_pixels=LIMIT).getpixel((0, 0)) == (255, 0, 0)

    def test_camera_orientation_is_applied(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encode(Image.fromarray(gradient()), "JPEG", exif=exif)
        assert decode(data, max_pixels=LIMIT).size == (30, 40)
        assert inspect(data, max_pixels=LIMIT)[:2] == (30, 40)

    def test_float_images_use_their_own_range(self):
        image = Image.fromarray(np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4))
        pixels = np.asarray(decode(encode(image, "TIFF"), max_pixels=LIMIT))
        assert (pixels.min(), pixels.max()) == (0, 255)


def bomb(side=60_000):
    """A PNG that claims far more pixels than it holds."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


JPEG = encode(Image.fromarray(gradient()), "JPEG")
PNG = encode(Image.fromarray(gradient()))


@pytest.mark.parametrize("reader", [decode, inspect])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello, not an image", "not an image"),
        (JPEG[:300], "truncated|damaged"),
        (PNG[:60], "truncated|damaged"),
        (PNG[:50] + b"\0" * 20 + PNG[70:], "damaged|truncated"),
        (bomb(), "decompression bomb"),
        (bomb(8000), "8000 x 8000 pixels are more than ingest.max_pixels=1000000"),
    ],
)
def test_bad_images_are_refused_with_a_reason(reader, data, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        reader(data, max_pixels=LIMIT)
    assert "\n" not in str(caught.value)


@given(st.integers(0, len(JPEG) - 1), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_is_a_reason_or_an_image(position, damage):
    data = JPEG[:position] + damage + JPEG[position + len(damage) :]
    try:
        assert decode(data, max_pixels=LIMIT).mode == "RGB"
    except ImageError as error:
        assert str(error)  # noqa: PT017 - either outcome is right, anything else is not


class TestResize:
    @pytest.mark.parametrize("size", [(40, 30), (30, 40), (500, 7), (1, 1)])
    def test_gives_a_square(self, size):
        pixels = to_uint8(Image.new("RGB", size, "red"), 16)
        assert pixels.shape == (3, 16, 16)
        assert (pixels[0] == 255).all()
        assert pixels.flags.c_contiguous

    def test_cuts_the_centre(self):
        wide = np.zeros((10, 30, 3), np.uint8)
        wide[:, 10:20] = 255
        assert (to_uint8(Image.fromarray(wide), 10, interpolation="nearest") == 255).all()


def test_content_hash_follows_the_bytes():
    assert inspect(PNG, max_pixels=LIMIT).content_hash == inspect(PNG, max_pixels=LIMIT).content_hash
    assert inspect(PNG, max_pixels=LIMIT).content_hash != inspect(JPEG, max_pixels=LIMIT).content_hash
