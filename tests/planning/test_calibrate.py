"""What a plan measures on images: those that cannot be used do not end it."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from elfs_ray.encoders.base import Encoder, Preprocessing
from elfs_ray.planning import calibrate
from elfs_ray.planning.calibrate import _check, _decode, _encode_seconds
from elfs_ray.workers.hardware import Hardware
from image_files import PIXELS, encode, exif, tiff, with_exif

ENCODER = Encoder("mean", nn.AdaptiveAvgPool2d(1), Preprocessing(8, (0, 0, 0), (1, 1, 1), "nearest"), 3, "none")
BAD = b"no image"
MISTYPED = with_exif("JPEG", exif((0x010E, 4, 1, 7), (0x0112, 3, 1, 6)))
TURNED = tiff(PIXELS, (0x0112, 3, 1, 6), (700, 3, 1, 7))
RED = encode(Image.new("RGB", (1, 5000), "red"))


def test_images_that_cannot_be_used_are_passed_over():
    good, seconds, sides = _check([BAD, MISTYPED, TURNED, RED, b""], max_pixels=10_000)
    assert good == [MISTYPED, TURNED, RED]
    assert sides == [24, 24, 1]
    assert seconds > 0


def test_one_that_fails_later_all_the_same_is_passed_over():
    pixels, _ = _decode([BAD, RED], ENCODER, max_pixels=10_000)
    assert pixels.shape == (1, 3, 8, 8)
    assert (pixels[0] == np.array([255, 0, 0])[:, None, None]).all()


def test_where_all_fail_something_is_measured():
    pixels, _ = _decode([BAD], ENCODER, max_pixels=10_000)
    assert pixels.shape == (1, 3, 8, 8)


def test_few_images_of_a_slow_encoder_speak_for_all_threads(monkeypatch):
    """They are one pass, on one thread: of three, each has passes to do in a whole batch."""
    before = torch.get_num_threads()
    monkeypatch.setattr(calibrate, "_seconds", lambda step, most: 60.0)
    torch.set_num_threads(3)
    try:
        each = _encode_seconds(ENCODER, np.zeros((1, 3, 8, 8), np.uint8), "float32", 64, Hardware("cpu", 3, 0))
    finally:
        torch.set_num_threads(before)
    assert each == 60 / 4 / 3
