"""Images of every kind that folders hold: decoded into RGB, or refused with a reason in a few words."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from elfs_ray.data.images import LONGEST, ImageError, decode, inspect, to_uint8
from image_files import encode

LIMIT = 1_000_000
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\..*")  # of odd files, which the program filters
RESAMPLING = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos")}


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


def test_errors_of_the_program_are_no_reasons():
    with pytest.raises(TypeError):
        decode("text", max_pixels=LIMIT)
    with pytest.raises(TypeError):
        decode(PNG, max_pixels="many")


def test_nothing_is_decoded_that_its_header_does_not_tell():
    """An icon's header has one byte for each side; the PNG in it may be larger."""
    data = bytearray(encode(Image.new("RGB", (200, 200), "red"), "ICO", sizes=[(200, 200)]))
    data[6:8] = bytes([8, 8])
    with pytest.raises(ImageError, match=r"200 x 200 pixels are more than ingest\.max_pixels=1000"):
        decode(bytes(data), max_pixels=1000)
    assert inspect(bytes(data), max_pixels=LIMIT)[:2] == decode(bytes(data), max_pixels=LIMIT).size == (200, 200)


def test_what_is_decoded_has_no_metadata():
    data = encode(Image.fromarray(gradient()), "JPEG", comment=b"x" * 5000, dpi=(1, 1), exif=Image.Exif())
    image = decode(data, max_pixels=LIMIT)
    assert image.info == {}
    assert len(encode(image, "JPEG")) < 2000


class TestPillowsOwnLimit:
    """A limit of ours above it holds; one below leaves it as it is."""

    KINDS = ("JPEG", "MPO", "PNG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "PPM", "JPEG2000")

    @pytest.mark.parametrize("kind", KINDS)
    def test_is_raised(self, monkeypatch, kind):
        more = {
            "MPO": {"save_all": True, "append_images": [Image.fromarray(gradient())]},
            "ICO": {"sizes": [(100, 100)]},
        }
        data = encode(Image.fromarray(gradient(100, 100)), kind, **more.get(kind, {}))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with pytest.raises(ImageError, match=r"decompression bomb|10000|100 x 100"):
            decode(data, max_pixels=900)
        assert Image.MAX_IMAGE_PIXELS == 1000
        assert decode(data, max_pixels=20_000).size == inspect(data, max_pixels=20_000)[:2] == (100, 100)
        assert Image.MAX_IMAGE_PIXELS == 20_000

    def test_is_not_set_where_it_was_lifted(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert decode(PNG, max_pixels=LIMIT).size == (40, 30)
        assert Image.MAX_IMAGE_PIXELS is None


def in_a_process(script):
    """What a script prints, with nothing on its error output."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


MEASURE = """
import io, resource
import numpy as np
from PIL import Image
from elfs_ray.data.images import decode, to_uint8
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for size in ((1, 60_000), (60_000, 1), (2, 30_001), (1, 1)):
    file = io.BytesIO()
    Image.new("RGB", size, (200, 100, 50)).save(file, "PNG")
    image = decode(file.getvalue(), max_pixels=100_000)
    for interpolation in ("bilinear", "bicubic", "lanczos", "nearest"):
        pixels = to_uint8(image, 224, 0.875, interpolation)
        assert pixels.shape == (3, 224, 224) and (pixels == np.array([[[200]], [[100]], [[50]]])).all()
    image.thumbnail((96, 96))
    assert max(image.size) <= 96 and image.getpixel((0, 0)) == (200, 100, 50)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
NO_MEMORY = """
import io, resource
from PIL import Image
from elfs_ray.data.images import ImageError, decode, inspect
files = []
for mode in ("1", "I;16"):
    files.append(io.BytesIO())
    Image.new(mode, (8_000, 6_000)).save(files[-1], "PNG")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 40_000_000, resource.RLIM_INFINITY))
for file in files:
    for reader in (inspect, decode):
        try:
            reader(file.getvalue(), max_pixels=100_000_000)
        except ImageError as error:
            print(str(error).replace(" ", "_"))
"""


def test_long_and_narrow_pictures_take_no_memory():
    """It took ten gigabytes."""
    (megabytes,) = in_a_process(MEASURE)
    assert int(megabytes) < 200


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_an_image_that_needs_more_memory_than_there_is():
    assert in_a_process(NO_MEMORY) == ["the_image_needs_more_memory_than_there_is"] * 4


def resized_whole(image, size, crop_fraction, interpolation):
    """What `to_uint8` says that it does."""
    short = max(size, round(size / crop_fraction))
    width, height = (max(size, round(side * short / min(image.size))) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = np.asarray(image.resize((width, height), RESAMPLING[interpolation]))
    return resized[top : top + size, left : left + size].transpose(2, 0, 1)


sizes = st.integers(1, 64)
fractions = st.sampled_from([1.0, 0.95, 0.875, 0.7])


class TestResize:
    @given(sizes, sizes, sizes, fractions, st.sampled_from(sorted(RESAMPLING)), st.integers(0, 2**32 - 1))
    def test_ordinary_pictures_are_resized_whole(self, width, height, size, crop_fraction, interpolation, seed):
        width, height = min(width, LONGEST * height), min(height, LONGEST * width)
        noise = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
        expected = resized_whole(noise, size, crop_fraction, interpolation)
        found = to_uint8(noise, size, crop_fraction, interpolation)
        if max(width, height) < LONGEST * min(width, height):  # at the border between the two, rounding decides
            np.testing.assert_array_equal(found, expected)

    @given(st.integers(1, 40), st.integers(5, 30), st.booleans(), sizes, fractions, st.integers(0, 2**32 - 1))
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
    def test_long_pictures_have_the_same_pixels(self, interpolation, short, longer, upright, size, crop_fraction, seed):
        """Within 2 of 255, and 99 % of them within 1: rounding."""
        smooth = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8))
        sides = (short, short * longer + seed % 7)
        image = smooth.resize(sides if upright else sides[::-1], Image.Resampling.BICUBIC)
        expected = resized_whole(image, size, crop_fraction, interpolation).astype(int)
        apart = np.abs(to_uint8(image, size, crop_fraction, interpolation) - expected)
        assert apart.max() <= 2
        assert (apart > 1).mean() <= 0.01

    @given(st.integers(1, 40), st.integers(5, 30), sizes)
    def test_long_pictures_by_nearest_neighbour(self, short, longer, size):
        """Each pixel is one of the source, at most one from where it lay: which is next may be a matter of rounding."""
        column = np.arange(short * longer) % 256
        image = Image.fromarray(np.tile(column[:, None, None], (1, short, 3)).astype(np.uint8))
        expected = resized_whole(image, size, 1.0, "nearest").astype(int)
        apart = np.abs(to_uint8(image, size, interpolation="nearest") - expected)
        assert set(np.unique(apart)) <= {0, 1, 255}

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
