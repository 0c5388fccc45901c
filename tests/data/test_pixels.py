"""Pictures that are not 8 bit decode to what they show, whatever part of their numbers' range they use."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from PIL import Image, TiffImagePlugin

from elfs_ray.data import pixels
from elfs_ray.data.images import ImageError, decode, inspect
from elfs_ray.data.pixels import Meaning, to_8_bit
from image_files import chunk, encode, png, tiff

LIMIT = 1_000_000
PLAIN = Meaning(None, None, white_is_zero=False, premultiplied=False, transparent=None)


def picture(number, channels=1):
    """uint8 [48, 64] or [48, 64, c], smooth, from 0 to 255."""
    small = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    values = np.asarray(Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC), np.float64)
    values = values[..., 0] if channels == 1 else values
    return np.rint((values - values.min()) / (values.max() - values.min()) * 255).astype(np.uint8)


NUMBERS = range(20)
GREYS = [picture(number) for number in NUMBERS]
COLOURS = [picture(number, 3) for number in NUMBERS]
HOLES = np.random.default_rng(0).random((48, 64)) < 0.1


def scaled(grey, highest, dtype):
    return np.rint(grey / 255 * highest).astype(dtype)


def with_value(grey, value):
    """float32 from 0 to 1, with one pixel of this value."""
    numbers = (grey / 255).astype(np.float32)
    numbers[11, 13] = value
    return numbers


def with_nodata(grey, value):
    """Metres from 20 to 320, with a value that stands for nothing in a tenth of the pixels."""
    numbers = (20 + grey / 255 * 300).astype(np.float32)
    numbers[HOLES] = value
    return numbers


def named_nodata(numbers, text):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[42113], info.tagtype[42113] = text, 2
    return encode(Image.fromarray(numbers), "TIFF", tiffinfo=info)


def plain_ppm(numbers):
    words = "\n".join(" ".join(map(str, row)) for row in numbers.reshape(len(numbers), -1).tolist())
    return f"P3 # colours\n{numbers.shape[1]} {numbers.shape[0]}\n65535\n# from the top\n{words}\n".encode()


ONE_OTHER = np.zeros((48, 64), bool)
ONE_OTHER[11, 13] = True
# Kind: what writes a grey picture in it, and the pixels that have to be black.
GREY_KINDS = {
    **{
        f"{bits} bits in 16, {kind}": (lambda grey, kind=kind, highest=2**bits - 1: encode(
            Image.fromarray(scaled(grey, highest, np.uint16)), kind), None)
        for bits in (10, 12, 16)
        for kind in ("PNG", "TIFF", "PPM", "JPEG2000")
    },
    "16 bits, the other byte order": (lambda grey: tiff(scaled(grey, 4095, np.uint16), order=">"), None),
    "16 bits, deflated": (lambda grey: tiff(scaled(grey, 4095, np.uint16), order=">", compressed=True), None),
    "16 bits, white is zero": (lambda grey: tiff(scaled(255 - grey, 4095, np.uint16), photometric=0), None),
    "16 bits, signed": (lambda grey: tiff(scaled(grey, 4095, np.int16) - np.int16(2000)), None),
    "8 bits, signed": (lambda grey: tiff((grey.astype(np.int16) - 128).astype(np.int8)), None),
    "int32": (lambda grey: encode(Image.fromarray(scaled(grey, 1e9, np.int32) - 500_000_000), "TIFF"), None),
    "uint32": (lambda grey: tiff(scaled(grey, 2**32 - 1, np.uint32)), None),
    "float, 0 to 1": (lambda grey: encode(Image.fromarray((grey / 255).astype(np.float32)), "TIFF"), None),
    "float, PFM": (lambda grey: encode(Image.fromarray((grey / 255).astype(np.float32)), "PPM"), None),
    "float, tiny": (lambda grey: encode(Image.fromarray((grey * 1e-42).astype(np.float32)), "TIFF"), None),
    "one NaN": (lambda grey: encode(Image.fromarray(with_value(grey, np.nan)), "TIFF"), ONE_OTHER),
    "one -inf": (lambda grey: encode(Image.fromarray(with_value(grey, -np.inf)), "TIFF"), ONE_OTHER),
    "nodata, low": (lambda grey: encode(Image.fromarray(with_nodata(grey, -9999)), "TIFF"), HOLES),
    "nodata, high": (lambda grey: encode(Image.fromarray(with_nodata(grey, 1e20)), "TIFF"), HOLES),
    "nodata, the lowest float": (
        lambda grey: encode(Image.fromarray(with_nodata(grey, np.finfo(np.float32).min)), "TIFF"), HOLES),
    "nodata, named": (lambda grey: named_nodata(with_nodata(grey, 100.5), "100.5"), HOLES),
    "nodata, named in other digits": (
        lambda grey: named_nodata(with_nodata(grey, np.finfo(np.float32).min), "-3.4028235e+38"), HOLES),
    "nodata in 16 bits": (
        lambda grey: encode(Image.fromarray(np.where(HOLES, np.uint16(65535), scaled(grey, 4095, np.uint16)))), HOLES),
}  # fmt: skip


@pytest.mark.parametrize("kind", GREY_KINDS)
def test_grey_pictures_are_what_they_are_in_8_bits(kind):
    """On average within half a level of 255; JPEG 2000 is lossless here."""
    write, black = GREY_KINDS[kind]
    black = np.zeros((48, 64), bool) if black is None else black
    seen = set()
    for grey in GREYS:
        data = write(grey)
        found = np.asarray(decode(data, max_pixels=LIMIT)).astype(int)
        assert (found == found[..., :1]).all()
        assert np.abs(found[~black, 0] - grey[~black]).mean() < 0.5
        assert np.abs(found[~black, 0] - grey[~black]).max() <= 3
        assert (found[black] == 0).all()
        assert inspect(data, max_pixels=LIMIT)[:2] == (64, 48)
        seen.add(found.tobytes())
    assert len(seen) == len(GREYS)


def test_a_nan_that_signals():
    numbers = with_value(GREYS[0], 0.5)
    numbers.view(np.uint32)[11, 13] = 0x7F800001
    found = decode(encode(Image.fromarray(numbers), "TIFF"), max_pixels=LIMIT)
    assert found.getpixel((13, 11)) == (0, 0, 0)


def test_infinity_is_the_end_of_the_range():
    found = decode(encode(Image.fromarray(with_value(GREYS[0], np.inf)), "TIFF"), max_pixels=LIMIT)
    assert found.getpixel((13, 11)) == (255, 255, 255)


COLOUR_KINDS = {
    "PNG": png,
    "PNG, interlaced": lambda numbers: png(numbers, interlaced=True),
    "PNG, opaque": lambda numbers: png(np.dstack([numbers, np.full(numbers.shape[:2], 65535)])),
    "TIFF": tiff,
    "TIFF, the other byte order": lambda numbers: tiff(numbers, order=">"),
    "TIFF, deflated": lambda numbers: tiff(numbers, compressed=True),
    "TIFF, deflated, the other byte order": lambda numbers: tiff(numbers, compressed=True, order=">"),
    "TIFF, in planes": lambda numbers: tiff(numbers, planes=True),
    "TIFF, in planes, the other byte order": lambda numbers: tiff(numbers, planes=True, order=">"),
    "TIFF, opaque": lambda numbers: tiff(np.dstack([numbers, np.full(numbers.shape[:2], 65535, np.uint16)])),
    "PPM": lambda numbers: b"P6 64 48 65535\n" + numbers.astype(">u2").tobytes(),
    "PPM, in words": plain_ppm,
}


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("kind", COLOUR_KINDS)
def test_colours_with_16_bits_are_what_they_are_in_8_bits(kind, bits):
    seen = set()
    for colours in COLOURS[:8]:
        data = COLOUR_KINDS[kind](scaled(colours, 2**bits - 1, np.uint16))
        found = np.asarray(decode(data, max_pixels=LIMIT)).astype(int)
        assert np.abs(found - colours).max() <= 1
        assert inspect(data, max_pixels=LIMIT)[:2] == (64, 48)
        seen.add(found.tobytes())
    assert len(seen) == 8


def test_planes_that_are_compressed_keep_their_upper_bytes():
    """Pillow decodes them in one way only."""
    found = decode(tiff(scaled(COLOURS[0], 4095, np.uint16), planes=True, compressed=True), max_pixels=LIMIT)
    assert np.abs(np.asarray(found).astype(int) - COLOURS[0]).max() <= 16


class TestTransparency:
    COLOUR = np.array([[[4000, 0, 0], [0, 4000, 0], [65535, 65535, 65535]]], np.uint16)
    ALPHA = np.array([[[65535], [32768], [0]]], np.uint16)
    SHOWN = ((255, 0, 0), (127, 255, 127), (255, 255, 255))

    @pytest.mark.parametrize("write", [png, tiff])
    def test_pixels_stand_on_white_and_hidden_ones_do_not_count(self, write):
        found = decode(write(np.dstack([self.COLOUR, self.ALPHA])), max_pixels=LIMIT)
        assert [found.getpixel((x, 0)) for x in range(3)] == list(self.SHOWN)

    def test_colours_that_are_multiplied_by_alpha(self):
        """As TIFF has them where its tag 338 says 1."""
        multiplied = np.rint(self.COLOUR * (self.ALPHA / 65535)).astype(np.uint16)
        data = tiff(np.dstack([multiplied, self.ALPHA]))
        assert data.count(b"\x52\x01\x03\0\x01\0\0\0\x02\0") == 1
        found = decode(
            data.replace(b"\x52\x01\x03\0\x01\0\0\0\x02\0", b"\x52\x01\x03\0\x01\0\0\0\x01\0"), max_pixels=LIMIT
        )
        assert [found.getpixel((x, 0)) for x in range(3)] == list(self.SHOWN)

    def test_grey_with_alpha(self):
        grey = np.array([[[0, 65535], [1000, 65535], [2000, 32768], [60000, 0]]], np.uint16)
        found = decode(png(grey), max_pixels=LIMIT)
        assert [found.getpixel((x, 0))[0] for x in range(4)] == [0, 128, 255, 255]

    def test_a_value_that_stands_for_transparent(self):
        grey = np.array([[0, 1000, 2000, 60000]], np.uint16)
        found = decode(png(grey, chunk(b"tRNS", (60000).to_bytes(2))), max_pixels=LIMIT)
        assert [found.getpixel((x, 0))[0] for x in range(4)] == [0, 128, 255, 255]

    def test_a_colour_that_stands_for_transparent(self):
        key = b"".join(value.to_bytes(2) for value in (65535, 65535, 65535))
        found = decode(png(self.COLOUR, chunk(b"tRNS", key)), max_pixels=LIMIT)
        assert [found.getpixel((x, 0)) for x in range(3)] == [(255, 0, 0), (0, 255, 0), (255, 255, 255)]


def nothing(dtype, value):
    return np.full((3, 4), value, dtype)


@pytest.mark.parametrize("reader", [decode, inspect])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode(Image.fromarray(nothing(np.float32, np.nan)), "TIFF"), "none of its pixels has a finite value"),
        (encode(Image.fromarray(nothing(np.float32, np.inf)), "TIFF"), "none of its pixels has a finite value"),
        (encode(Image.fromarray(nothing(np.float32, 0.25)), "TIFF"), "all its pixels have the value 0.25"),
        (encode(Image.fromarray(nothing(np.uint16, 65535))), "all its pixels have the value 65535"),
        (encode(Image.fromarray(nothing(np.int32, -7)), "TIFF"), "all its pixels have the value -7"),
        (png(np.full((3, 4, 3), 300)), "all its pixels have the value 300"),
        (png(np.dstack([COLOURS[0], np.zeros((48, 64))])), "none of its pixels has a finite value"),
        (named_nodata(nothing(np.float32, -9999), "-9999"), "all its pixels have the value -9999"),
        (b"P6 64 48 65535\n" + b"\0\1" * 100, "the image is truncated"),
        (b"P3 2 1 65535\n0 1 2 3 4\n", "the image is truncated"),
        (b"P3 2 1 65535\n0 1 2 3 4 x\n", "the image is damaged"),
        (png(scaled(COLOURS[0], 65535, np.uint16))[:-400], "truncated|damaged"),
    ],
)  # fmt: skip
def test_what_shows_nothing_is_refused(reader, data, reason):
    with pytest.raises(ImageError, match=reason):
        reader(data, max_pixels=LIMIT)


def shown(values, what=PLAIN):
    """Grey levels."""
    return np.asarray(to_8_bit(np.atleast_2d(values), what))[..., 0].ravel().tolist()


class TestRange:
    def test_by_hand(self):
        assert shown([10.0, 20.0, 15.0, np.nan, np.inf, -np.inf]) == [0, 255, 128, 0, 255, 0]

    @pytest.mark.parametrize("mask", [[0, 1], [0, 65535], [-9999.0, 1.0], [0.0, 1e-9, 1.0], [0, 1, 2, 3, 4, 255]])
    def test_a_mask_keeps_its_values(self, mask):
        low, high = min(mask), max(mask)
        assert shown(mask) == [round((value - low) / (high - low) * 255) for value in mask]

    LEVELS = range(0, 60, 6)  # 0 to 54

    @pytest.mark.parametrize(
        ("far", "ends"),
        [
            ([-9999], (0, 54)), ([9999], (0, 54)), ([-9999, 9999], (0, 54)), ([-1e30, 1e38], (0, 54)),
            ([-54], (-54, 54)), ([-55], (0, 54)), ([108], (0, 108)), ([109], (0, 54)),
        ],
    )  # fmt: skip
    def test_a_value_further_off_than_the_others_span_is_left_out(self, far, ends):
        low, high = ends
        values = np.array([*self.LEVELS, *far], np.float64)
        expected = [round((value - low) / (high - low) * 255) if low <= value <= high else 0 for value in values]
        assert shown(values) == expected

    def test_a_named_nodata_is_kept_where_only_one_other_value_is_there(self):
        assert shown([0, 0, 7], PLAIN._replace(nodata=0)) == [0, 0, 255]

    def test_a_named_nodata_within_the_range(self):
        assert shown([0, 5, 7, 10], PLAIN._replace(nodata=5)) == [0, 0, 178, 255]

    def test_nodata_of_colours_is_a_pixel_of_which_all_have_it(self):
        colours = np.array([[[5, 5, 5], [5, 0, 10]]], np.uint16)
        found = np.asarray(to_8_bit(colours, PLAIN._replace(nodata=5)))
        assert found.tolist() == [[[0, 0, 0], [128, 0, 255]]]

    def test_white_is_zero_leaves_what_is_left_out_black(self):
        values = np.array([0, 10, np.nan])
        assert shown(values, PLAIN._replace(white_is_zero=True)) == [255, 0, 0]


def by_the_rule(values):
    """`to_8_bit` of grey numbers with everything sorted, None where there is no range."""
    numbers = values.astype(np.float64)
    levels = np.unique(numbers[np.isfinite(numbers)])
    if len(levels) < 2:
        return None
    low, high = levels[0], levels[-1]
    if len(levels) >= 2 + pixels.FEWEST_LEVELS:
        second, last = levels[1], levels[-2]
        if second - low > last - second and high - last > last - second:
            low, high = second, last
        elif second - low > high - second:
            low = second
        elif high - last > last - low:
            high = last
    numbers[np.isfinite(numbers) & ((numbers < low) | (numbers > high))] = np.nan
    return np.rint(np.nan_to_num(np.clip((numbers - low) / (high - low), 0, 1) * 255, nan=0)).astype(np.uint8)


few = st.sampled_from(
    [0.0, 1.0, 2.0, 3.0, 4.5, 5.0, 6.0, 7.0, 8.0, 30.0, -40.0, -9999.0, 1e30, np.nan, np.inf, -np.inf]
)
shapes = some.array_shapes(min_dims=2, max_dims=2, max_side=9)


@given(
    some.arrays(np.float32, shapes, elements=few | st.floats(width=32))
    | some.arrays(np.int32, shapes)
    | some.arrays(np.uint16, shapes, elements=st.integers(0, 40) | st.integers(0, 65535)),
    st.sampled_from([1, 5, 2**20]),
)
def test_any_numbers(values, block_values):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "BLOCK_VALUES", block_values)
        expected = by_the_rule(values)
        if expected is None:
            with pytest.raises(ImageError, match="the image shows nothing"):
                to_8_bit(values, PLAIN)
        else:
            found = np.asarray(to_8_bit(values, PLAIN))
            np.testing.assert_array_equal(found, np.stack([expected] * 3, axis=2))


def test_turned_pictures_with_16_bits():
    numbers = scaled(COLOURS[0], 4095, np.uint16)
    expected = np.rot90(COLOURS[0], -1).astype(int)
    for data in (tiff(numbers, (0x0112, 3, 1, 6)), tiff(numbers, (0x0112, 3, 1, 6), compressed=True)):
        assert inspect(data, max_pixels=LIMIT)[:2] == (48, 64)
        assert np.abs(np.asarray(decode(data, max_pixels=LIMIT)) - expected).max() <= 1
    grey = tiff(scaled(GREYS[0], 4095, np.uint16), (0x0112, 3, 1, 8), order=">")
    assert np.abs(np.asarray(decode(grey, max_pixels=LIMIT))[..., 0] - np.rot90(GREYS[0], 1).astype(int)).max() <= 1


def test_the_upper_limit_counts_pixels_not_bytes():
    data = png(scaled(COLOURS[0], 65535, np.uint16))
    assert decode(data, max_pixels=64 * 48).size == (64, 48)
    with pytest.raises(ImageError, match=r"64 x 48 pixels are more than ingest\.max_pixels=3071"):
        decode(data, max_pixels=64 * 48 - 1)
