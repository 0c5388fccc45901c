"""What a graphics card does with JPEGs, done by a processor here, beside Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from elfs_ray.data import card_decoding
from elfs_ray.data.card_decoding import CardDecoder, built_for_cards, can_decode, squares, upright
from elfs_ray.data.images import ImageError, decode, to_uint8
from elfs_ray.data.jpeg import CARD_PIXELS, for_card
from elfs_ray.data.orientation import TURNS
from image_files import encode
from photographs import NAMES, jpeg

LIMIT = 50_000_000
CPU = torch.device("cpu")
HOW = (112, 0.875, "bicubic")


def on_card(files, *how):
    """Squares, of files that all are for a card."""
    found = [for_card(data, how[0], how[1], LIMIT) for data in files]
    return CardDecoder(CPU, *how)(files, [one.turn for one in found], [one.pixels for one in found])


def with_pillow(data, *how):
    return to_uint8(decode(data, max_pixels=LIMIT), *how).astype(int)


def apart(square, data, *how):
    """Mean difference, of 255."""
    return np.abs(square.numpy() - with_pillow(data, *how)).mean()


class TestLikePillow:
    @pytest.mark.parametrize("how", [HOW, (224, 1.0, "bilinear"), (64, 0.7, "bicubic"), (160, 0.95, "bilinear")])
    def test_sizes_and_crops(self, how):
        """Larger and smaller than asked for, with odd remainders, some of the same shape."""
        sizes = ((640, 427), (427, 640), (641, 333), (100, 75), (333, 333), (1200, 901), (640, 427))
        files = [jpeg(name, *size) for size in sizes for name in NAMES]
        for data, square in zip(files, on_card(files, *how), strict=True):
            assert square.shape == (3, how[0], how[0])
            assert square.dtype == torch.uint8
            assert apart(square, data, *how) < 0.5

    @pytest.mark.parametrize("turn", range(1, 9))
    def test_orientation(self, turn):
        """Of a picture whose crop is not in the middle to the pixel."""
        data = jpeg("china.jpg", 641, 427, turn)
        [square] = on_card([data], 111, 0.9, "bicubic")
        assert apart(square, data, 111, 0.9, "bicubic") < 0.5

    @pytest.mark.parametrize("turn", TURNS)
    def test_turns_are_those_of_pillow(self, turn):
        pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
        expected = np.asarray(Image.fromarray(pixels).transpose(TURNS[turn])).transpose(2, 0, 1)
        found = upright(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), turn)
        np.testing.assert_array_equal(found.numpy(), expected)

    @pytest.mark.parametrize(
        "form", [{"mode": "L"}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}]
    )
    def test_forms(self, form):
        form = dict(form)
        data = jpeg("flower.jpg", 500, 375, 1, form.pop("mode", "RGB"), **form)
        [square] = on_card([data], *HOW)
        assert apart(square, data, *HOW) < 0.5

    def test_overshoot_is_cut_off(self):
        edge = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
        edge[..., 20:] = 255
        found = squares(edge, 64, 1.0, "bicubic")
        assert (found[..., :24] == 0).all()
        assert (found[..., -24:] == 255).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestOnACard:
    CARD = torch.device("cuda")

    @pytest.mark.parametrize("how", [HOW, (224, 1.0, "bilinear")])
    def test_as_with_pillow(self, how):
        """Each form and orientation; on average within 2 of 255, as the module says."""
        assert can_decode(self.CARD)
        forms = [{"mode": "L"}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}]
        files = [jpeg(name, 500, 375, **form) for form in forms for name in NAMES]
        files += [jpeg("china.jpg", 641, 427, turn) for turn in range(1, 9)] + [jpeg("china.jpg", 4000, 3000)]
        found = [for_card(data, how[0], how[1], LIMIT) for data in files]
        made = CardDecoder(self.CARD, *how)(files, [one.turn for one in found], [one.pixels for one in found])
        assert {square.device.type for square in made} == {"cuda"}
        assert max(apart(square.cpu(), data, *how) for square, data in zip(made, files, strict=True)) < 2

    def test_one_that_fails(self):
        files = [jpeg("china.jpg", 320, 200), b"\xff\xd8\xff nothing", jpeg("flower.jpg", 320, 200)]
        made = CardDecoder(self.CARD, *HOW)(files, [1] * 3, [64_000] * 3)
        assert made[1] is None
        assert all(apart(made[row].cpu(), files[row], *HOW) < 2 for row in (0, 2))


class TestWhatFails:
    GOOD, OTHER = jpeg("china.jpg", 320, 200), jpeg("flower.jpg", 320, 200)

    def test_the_others_are_decoded(self):
        found = CardDecoder(CPU, *HOW)([self.GOOD, b"\xff\xd8\xff nothing", self.OTHER], [1, 1, 1], [64_000] * 3)
        assert found[1] is None
        assert apart(found[0], self.GOOD, *HOW) < 0.5
        assert apart(found[2], self.OTHER, *HOW) < 0.5

    def test_no_memory_for_those_of_one_shape(self, monkeypatch):
        def without_memory(pictures, *how):
            if pictures.shape[-1] == 320:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return squares(pictures, *how)

        monkeypatch.setattr(card_decoding, "squares", without_memory)
        found = on_card([self.GOOD, jpeg("china.jpg", 200, 320), self.OTHER], *HOW)
        assert [one is None for one in found] == [True, False, True]

    def test_few_at_once_where_they_are_large(self, monkeypatch):
        calls, decoded = [], card_decoding._decoded
        monkeypatch.setattr(
            card_decoding, "_decoded", lambda jpegs, device: calls.append(len(jpegs)) or decoded(jpegs, device)
        )
        monkeypatch.setattr(card_decoding, "CARD_BYTES", 3 * 64_000 * 2)
        files = [self.GOOD, self.OTHER, self.GOOD, jpeg("china.jpg", 640, 427), self.OTHER]
        found = on_card(files, *HOW)
        assert calls == [2, 1, 1, 1]
        assert all(apart(square, data, *HOW) < 0.5 for square, data in zip(found, files, strict=True))

    def test_what_is_there(self):
        assert can_decode(CPU)
        assert isinstance(built_for_cards(), bool)
        if not torch.cuda.is_available():
            assert not can_decode(torch.device("cuda"))


class TestForCard:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (jpeg("china.jpg", 320, 200), (1, 64_000)),
            (jpeg("china.jpg", 320, 200, 6), (6, 64_000)),
            (jpeg("china.jpg", 320, 200, 8, "L"), (8, 64_000)),
            (jpeg("china.jpg", 320, 200, progressive=True), (1, 64_000)),
        ],
    )
    def test_usual_ones(self, data, expected):
        assert for_card(data, 112, 1.0, LIMIT) == expected

    @pytest.mark.parametrize(
        "data",
        [
            jpeg("china.jpg", 320, 200, 1, "CMYK"),
            jpeg("china.jpg", 1000, 200),  # narrow
            jpeg("china.jpg", 320, 200)[:-2],  # cut off
            jpeg("china.jpg", 320, 200) + b"\0",  # something behind it
            jpeg("china.jpg", 320, 200, keep_rgb=True),
            encode(Image.new("RGB", (320, 200)), "MPO", save_all=True, append_images=[Image.new("RGB", (320, 200))]),
            encode(Image.new("RGB", (320, 200)), "PNG"),
            jpeg("china.jpg", 320, 200).replace(b"\xff\xc0\x00\x11", b"\xff\xc9\x00\x11"),  # arithmetic codes
            b"",
            b"no image",
        ],
    )
    def test_the_rest_is_pillows(self, data):
        assert for_card(data, 112, 1.0, LIMIT) is None

    def test_too_large(self):
        side = int(CARD_PIXELS**0.5) + 1
        large = encode(Image.new("L", (side, side)), "JPEG")
        assert for_card(large, 112, 1.0, LIMIT) is None
        with pytest.raises(ImageError, match=r"320 x 200 pixels are more than ingest\.max_pixels=1000"):
            for_card(jpeg("china.jpg", 320, 200), 112, 1.0, 1000)

    @pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\..*")  # of damaged metadata, which the program filters
    def test_damaged_headers_are_pillows_to_judge(self):
        good = jpeg("china.jpg", 320, 200)
        for place in range(2, 700, 3):
            data = good[:place] + b"\x13\x37" + good[place + 2 :]
            try:
                found = for_card(data, 112, 1.0, LIMIT)
            except ImageError:
                continue
            assert found is None or found.turn in range(1, 9)
