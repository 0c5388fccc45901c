"""The handwritten digits that ship inside scikit-learn, as image files: real input for the demo and the tests."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from elfs_ray.data.files import new_folder

INK_LEVELS = 16
DIGIT_SIDE, MARGIN = 48, 8


def write_digits(folder: str | Path) -> tuple[Path, Path]:
    """Write 1,797 digits as PNG files (dark ink on white, 64 x 64) and their labels in a file apart.

    Nothing is written when both are there; the labels are written last.

    Returns:
        The folder of images, and the CSV file with the columns sample_id and label.
    """
    from sklearn.datasets import load_digits

    folder = Path(folder)
    images, labels = folder / "images", folder / "labels.csv"
    if images.is_dir() and labels.is_file():
        return images, labels
    digits = load_digits()
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["sample_id", "label"])
    shutil.rmtree(images, ignore_errors=True)
    with new_folder(images) as aside:
        for number, (ink, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            name = f"digit-{number:04d}.png"
            _draw(ink).save(aside / name)
            writer.writerow([name, label])
    labels.write_text(table.getvalue(), encoding="utf-8")
    return images, labels


def _draw(ink: np.ndarray) -> Image.Image:
    """One digit, 8 x 8 levels of ink from 0 to 16, on a white page."""
    grey = Image.fromarray((255 - ink * 255 / INK_LEVELS).astype(np.uint8))
    page = Image.new("L", (DIGIT_SIDE + 2 * MARGIN,) * 2, 255)
    page.paste(grey.resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC), (MARGIN, MARGIN))
    return page
