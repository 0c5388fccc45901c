"""The two photographs that come with scikit-learn, 640 x 427 pixels, at any size and in any form of JPEG."""

import functools
import io

from PIL import Image
from sklearn.datasets import load_sample_image

NAMES = ("china.jpg", "flower.jpg")
ORIENTATION = 0x0112


@functools.cache
def photograph(name, width, height):
    return Image.fromarray(load_sample_image(name)).resize((width, height), Image.Resampling.LANCZOS)


@functools.cache
def jpeg(name, width, height, turn=1, mode="RGB", **options):
    """A file of a photograph whose EXIF names an orientation."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = turn
    photograph(name, width, height).convert(mode).save(file, "JPEG", exif=exif, **{"quality": 88, **options})
    return file.getvalue()
