"""Lists of images, as paths or as Pillow has them, embedded in this process."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from elfs_ray.config import RunConfig
from elfs_ray.console import Reporter
from elfs_ray.core.features import UnitRows, unit_half
from elfs_ray.data.images import ImageError, as_shown, load_with, opened, to_square, to_uint8
from elfs_ray.data.vectors import undirected
from elfs_ray.encoders import load_encoder
from elfs_ray.encoders.base import Encoder
from elfs_ray.encoders.forward import AdaptiveForward
from elfs_ray.errors import UsageError
from elfs_ray.planning.auto_options import choose_embed
from elfs_ray.workers.compute import device_of_task
from elfs_ray.workers.hardware import Hardware

T = TypeVar("T")


def as_images(X: Any) -> list[Any] | None:
    """Paths or pictures of Pillow in a list; None where the first of them is something else."""
    try:
        first = next(iter(X), None)
    except TypeError:
        return None
    if isinstance(first, pa.Scalar) and isinstance(first.as_py(), str):
        return list(X.to_pylist())
    return list(X) if isinstance(first, (str, Path)) or _is_picture(first) else None


def _is_picture(value: Any) -> bool:
    return any(kind.__module__.startswith("PIL.") and kind.__name__ == "Image" for kind in type(value).__mro__)


def embed_images(images: Sequence[Any], config: RunConfig, hardware: Hardware, reporter: Reporter) -> UnitRows:
    """Embeddings of images, as a run with these options makes them.

    Raises:
        UsageError: an image cannot be read; it is named.
    """
    section, limit = config.embed, config.ingest.max_pixels
    with ThreadPoolExecutor(hardware.cpus) as pool:
        sides = _all_good(images, list(pool.map(partial(_short_side, limit=limit), images)))
        native = load_encoder(section.encoder, weights=section.weights).preprocessing.size
        sizes = len(images), native, float(np.median(sides))
        options = choose_embed(section, hardware.cpus, hardware.gpus, *sizes, image_dtype=hardware.image_dtype)
        encoder = load_encoder(options.encoder, weights=options.weights, image_size=int(options.image_size))
        forward = _forward(encoder, options.dtype, int(options.batch_size))
        square, rows, vectors = _squares(encoder, limit), int(options.batch_size), list[np.ndarray]()
        with reporter.meter("embedding", len(images), "images") as meter:
            for start in range(0, len(images), rows):
                batch = images[start : start + rows]
                vectors.append(forward(np.stack(_all_good(batch, list(pool.map(square, batch)), start))))
                meter.update(start + len(batch))
    matrix = np.concatenate(vectors)
    told = undirected(matrix, np.array([_name(image, number) for number, image in enumerate(images)]), constant=False)
    if told:
        raise UsageError(f"the encoder gave vectors that cosine cannot compare: {told}; leave these images out")
    return unit_half(matrix)


def _forward(encoder: Encoder, dtype: str, rows: int) -> Callable[[np.ndarray], np.ndarray]:
    """What makes vectors float32 [b, dim] of pixels uint8 [b, 3, s, s]."""
    import torch

    device = device_of_task()
    encoder.module.to(device).to(memory_format=torch.channels_last)
    forward = AdaptiveForward(encoder, device, getattr(torch, dtype), rows)
    return lambda pixels: forward(torch.from_numpy(pixels).to(device)).cpu().numpy()


def _squares(encoder: Encoder, limit: int) -> Callable[[Any], np.ndarray | str]:
    """What makes an image's pixels for the encoder, or says why it cannot be used."""
    how = encoder.preprocessing

    def square(image: Any) -> np.ndarray | str:
        if not _is_picture(image):
            asked = how.size, how.crop_fraction, how.interpolation
            return load_with(str(image), "", lambda data: to_square(data, *asked, max_pixels=limit))
        try:
            return to_uint8(as_shown(image), how.size, how.crop_fraction, how.interpolation)
        except ImageError as error:
            return str(error)

    return square


def _short_side(image: Any, limit: int) -> int | str:
    """Pixels, or why the image cannot be used."""
    if _is_picture(image):
        return min(image.size) or f"the image has no pixels ({image.width} x {image.height})"
    if not isinstance(image, (str, Path)):
        return f"it is a {type(image).__name__}"
    return load_with(str(image), "", lambda data: min(opened(data, limit).size))


def _all_good(images: Sequence[Any], made: Sequence[T | str], first: int = 0) -> list[T]:
    """What was made of the images; refuses those of which nothing could be made."""
    faults = [(row, one) for row, one in enumerate(made) if isinstance(one, str)]
    if faults:
        row, reason = faults[0]
        others = f" (and {len(faults) - 1:,} others)" if len(faults) > 1 else ""
        raise UsageError(f"{_name(images[row], first + row)}{others} cannot be used: {reason}; leave it out of X")
    return [one for one in made if not isinstance(one, str)]


def _name(image: Any, number: int) -> str:
    """How an image of the list is called."""
    return f"image {number}" if _is_picture(image) else str(image)
