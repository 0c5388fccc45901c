"""Pictures for the tests on a GPU: shapes with textures, which an encoder and a small network can tell apart."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, NOISE = 64, 30
SHAPES = {
    "disc": lambda x, y: np.hypot(x, y) < 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.9,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1),
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.75) < 0.25,
}
TEXTURES = {
    "stripes": lambda x, y: np.sin(9 * x) > 0,
    "checks": lambda x, y: np.sin(7 * x) * np.sin(7 * y) > 0,
}
# An encoder that never saw them must tell them apart: so no two have the same shape.
CLASSES = ("stripes-square", "checks-disc", "checks-cross", "stripes-ring")


def write_shapes(folder: Path, count: int) -> tuple[Path, Path]:
    """Write `count` JPEG files and their labels in a file apart.

    Each has a colour, place, size, turn and noise of its own; the noise makes some harder to recognise than others.

    Returns:
        The folder of images, and the CSV file with the columns sample_id and label.
    """
    images, labels = folder / "images", folder / "labels.csv"
    images.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        label = CLASSES[number % len(CLASSES)]
        name = f"{number:04d}.jpg"
        Image.fromarray(draw(label, rng)).save(images / name, quality=90)
        rows.append([name, label])
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows([["sample_id", "label"], *rows])
    return images, labels


def draw(label: str, rng: np.random.Generator) -> np.ndarray:
    """One picture, uint8 [side, side, 3]."""
    texture, _, shape = label.partition("-")
    y, x = np.mgrid[-1 : 1 : 1j * SIDE, -1 : 1 : 1j * SIDE]
    place, size, turn = rng.uniform(-0.2, 0.2, 2), rng.uniform(0.6, 0.8), rng.uniform(-0.2, 0.2)
    x, y = (x - place[0]) / size, (y - place[1]) / size
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    dark, light, background = rng.uniform(0, 90, 3), rng.uniform(150, 255, 3), rng.uniform(90, 150, 3)
    filled = np.where(TEXTURES[texture](x, y)[..., None], light, dark)
    picture = np.where(SHAPES[shape](x, y)[..., None], filled, background)
    noisy = picture + rng.normal(0, rng.uniform(0, NOISE), picture.shape)
    return noisy.clip(0, 255).astype(np.uint8)
