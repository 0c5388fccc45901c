"""Large JPEGs are decoded at a reduced scale, and give nearly the pixels that the whole picture gives."""

import numpy as np
import pytest
from PIL import Image

from elfs_ray.data import images
from elfs_ray.data.images import DRAFT_MARGIN, ImageError, decode, load_image, to_square, to_uint8
from image_files import encode
from photographs import NAMES, jpeg

LIMIT = 20_000_000
# The first is reduced without remainder; the others end within a pixel of the reduced picture.
SIZES = ((2560, 1920), (2603, 1901), (1800, 3585), (3591, 2401))
TURNS = range(1, 9)


def whole(data, *how):
    return to_uint8(decode(data, max_pixels=LIMIT), *how).astype(int)


def apart(data, *how):
    """Mean difference from the pixels after decoding the whole picture, of 255."""
    return np.abs(to_square(data, *how, max_pixels=LIMIT) - whole(data, *how)).mean()


@pytest.fixture
def scales(monkeypatch):
    """Sizes at which pictures were decoded, in order."""
    seen, shown = [], images._shown

    def looking(*arguments):
        found = shown(*arguments)
        seen.append(found.image.size)
        return found

    monkeypatch.setattr(images, "_shown", looking)
    return seen


@pytest.mark.parametrize("how", [(224, 0.875, "bicubic"), (160, 1.0, "bilinear"), (64, 1.0, "bicubic")])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_the_pixels_are_nearly_the_same(scales, name, size, how):
    data = jpeg(name, *size)
    assert apart(data, *how) < 0.6
    reduced, full = scales
    assert full == size
    assert DRAFT_MARGIN * max(how[0], round(how[0] / how[1])) <= min(reduced) <= -(-min(size) // 2)


@pytest.mark.parametrize("turn", TURNS)
def test_turned_pictures_are_not_shifted(scales, turn):
    """The edge that ends within a pixel is another one for each orientation; a shift by a half gave 3 and more."""
    assert apart(jpeg("china.jpg", 2603, 1901, turn), 96, 1.0, "bicubic") < 0.6
    assert max(scales[0]) < 700


@pytest.mark.parametrize("form", [{"mode": "L"}, {"mode": "CMYK"}, {"progressive": True}, {"subsampling": 0}])
def test_every_form_of_jpeg(scales, form):
    form = dict(form)
    data = jpeg("flower.jpg", 2603, 1901, 1, form.pop("mode", "RGB"), **form)
    assert apart(data, 96, 0.875, "bicubic") < 0.6
    assert max(scales[0]) < 700


@pytest.mark.parametrize("size", [(9000, 700), (701, 9001)])
def test_narrow_pictures(scales, size):
    assert apart(jpeg("china.jpg", *size), 64, 1.0, "bicubic") < 1
    assert scales[0] != scales[1]


@pytest.mark.parametrize("size", [(640, 427), (30, 40), (800, 4 * 112 - 1)])
def test_small_ones_are_decoded_whole(scales, size):
    data = jpeg("china.jpg", *size)
    np.testing.assert_array_equal(to_square(data, 112, max_pixels=LIMIT), whole(data, 112))
    assert scales == [size, size]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_other_kinds_are_decoded_whole(scales, kind):
    data = encode(Image.new("RGB", (800, 600), "teal"), kind)
    np.testing.assert_array_equal(to_square(data, 32, max_pixels=LIMIT), whole(data, 32))
    assert scales == [(800, 600)] * 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (jpeg("china.jpg", 2560, 1920)[:-20_000], "truncated"),
        (jpeg("china.jpg", 2560, 1920)[:400], "truncated|damaged"),
        (jpeg("china.jpg", 6400, 4270), "6400 x 4270 pixels are more than ingest.max_pixels=20000000"),
    ],
)
def test_the_same_ones_are_refused(data, reason):
    for read in (decode, lambda data, max_pixels: to_square(data, 64, max_pixels=max_pixels)):
        with pytest.raises(ImageError, match=reason):
            read(data, max_pixels=LIMIT)


def test_thumbnails_are_read_so():
    assert load_image(jpeg("flower.jpg", 2603, 1901), "", LIMIT, 2 * 96).size == (326, 238)
