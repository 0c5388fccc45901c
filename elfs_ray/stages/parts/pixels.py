"""Pixels for networks that train on images: each image is decoded once for each side, whichever stages need it.

Tasks decode what nobody has asked for before, each a part of its own; the index is written when all parts are there, so
that a reader sees all of them or none. A second run after a kill takes over the parts that it finds.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.pixels import PIXELS, Pixels, remove_stale_pixels
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import INDEX_FILE
from elfs_ray.artifacts.table import KEY, Part, Table, bytes_column
from elfs_ray.artifacts.writing import PART_BYTES, part_name, write_index, write_part
from elfs_ray.data.files import map_files
from elfs_ray.data.images import load_with, to_square
from elfs_ray.data.unusable import Unusable, UnusableImagesError
from elfs_ray.stages.context import StageContext
from elfs_ray.workers.base import Handle
from elfs_ray.workers.progress import Counter

# Images of a part: few enough to keep all processors at work and to lose little by a kill, and not too many parts. The
# numbers must not depend on the machine: another one may go on.
LEAST_ROWS, PARTS = 1024, 256


class _Decoding(NamedTuple):
    """What all tasks share.

    Attributes:
        samples: the images.
        folder: of their pixels, below the run folder.
        side: pixels a side.
        max_pixels: larger images are refused.
        location: where the images came from, which says how to reach them.
        counter: of the images that are done.
    """

    samples: Table
    folder: str
    side: int
    max_pixels: int
    location: str
    counter: Counter


def pixels_for(context: StageContext, side: int, prefix: str = "", wanted: Handle[np.ndarray] | None = None) -> Pixels:
    """The pixels of the images, with those of the wanted ones among them.

    Args:
        context: of the stage that needs them.
        side: pixels a side.
        prefix: `test` for the separate test images.
        wanted: positions, int64 [n] in any order; None: all.

    Raises:
        UnusableImagesError: some cannot be read any more; all of them are named.
    """
    store, unit = context.store, Unit("ingest", prefix)
    pixels, samples = Pixels.of(store, store.records()[unit], side), Table(store, unit.artifact("samples"))
    # No core of its own: it would wait for one behind the trainings of the evaluation before.
    count, missing = context.workers.begin_several(_missing, pixels, samples, wanted, results=2, cpus=0)
    if count.result():
        remove_stale_pixels(store)
        _decode(context, pixels, samples, side, prefix, count.result(), missing)
    return Pixels(store, pixels.name)


def _missing(pixels: Pixels, samples: Table, wanted: np.ndarray | None) -> tuple[int, np.ndarray]:
    """The images that are wanted and not there: how many, and their positions in ascending order."""
    missing = np.setdiff1d(np.arange(samples.rows) if wanted is None else wanted, pixels.held)
    return len(missing), missing


def _decode(
    context: StageContext,
    pixels: Pixels,
    samples: Table,
    side: int,
    prefix: str,
    count: int,
    missing: Handle[np.ndarray],
) -> None:
    """Decode so many images that are not there yet, and put them behind those that are."""
    store, config, layout = context.store, context.config, schema.pixels(side)
    location = config.evaluate.test_input if prefix else config.location
    before = list(pixels.parts()) if store.exists(pixels.name, INDEX_FILE) else []
    rows = sum(part.rows for part in before)
    step = max(1, min(PART_BYTES // (3 * side**2), max(LEAST_ROWS, math.ceil(count / PARTS))))
    ranges = (
        (len(before) + number, rows + start, start, min(start + step, count))
        for number, start in enumerate(range(0, count, step))
    )
    with context.counting("decoding images", count, "images") as counter:
        decoding = _Decoding(samples, pixels.name, side, config.ingest.max_pixels, str(location), counter)
        found = list(context.workers.map(_write_part, ranges, decoding, missing, cpus=1))
    failed = [one for each in found if isinstance(each, list) for one in each]
    if failed:
        raise UnusableImagesError(failed, prefix)
    parts = [*before, *(each for each in found if isinstance(each, Part))]
    for name in set(store.names(pixels.name)) - {INDEX_FILE, *(part.name for part in parts)}:
        store.delete(pixels.name, name)  # a killed run wanted others, too
    write_index(store, pixels.name, parts, layout)


def _write_part(
    decoding: _Decoding, missing: np.ndarray, number: int, first: int, start: int, stop: int
) -> Part | list[Unusable]:
    """Write the part of some of the missing images, or say which of them cannot be read."""
    positions = missing[start:stop]
    rows = _written(decoding, part_name(number), positions) or _decoded(decoding, positions)
    if isinstance(rows, list):
        return rows
    return write_part(decoding.samples.store, decoding.folder, number, first, rows, schema.pixels(decoding.side))


def _written(decoding: _Decoding, name: str, positions: np.ndarray) -> pa.Table | None:
    """What a run that was killed has written of these images in a part of this name."""
    store = decoding.samples.store
    if not store.exists(decoding.folder, name):
        return None
    rows = store.read_table(decoding.folder, name)
    if not np.array_equal(rows["index"].to_numpy(), positions):
        return None
    decoding.counter.advance(len(rows))
    return rows


def _decoded(decoding: _Decoding, positions: np.ndarray) -> pa.Table | list[Unusable]:
    samples, side, location = decoding.samples, decoding.side, decoding.location
    column = "image" if "image" in samples.schema.names else "uri"
    to_pixels = partial(to_square, size=side, max_pixels=decoding.max_pixels)
    read = partial(load_with, location=location, use=to_pixels)
    squares = np.empty((len(positions), 3, side, side), np.uint8)
    names, failed = list[str](), list[Unusable]()
    for batch in samples.batches([*KEY, column], positions):
        keys = zip(batch["index"].to_pylist(), batch["sample_id"].to_pylist(), strict=True)
        found = map_files(read, location if column == "uri" else "", batch[column].to_pylist())
        for row, (key, square) in enumerate(zip(keys, found, strict=True), len(names)):
            if isinstance(square, str):
                failed.append(Unusable(*key, square))
            else:
                squares[row] = square
        names += batch["sample_id"].to_pylist()
        decoding.counter.advance(len(batch))
    if failed:
        return failed
    return pa.table({"sample_id": names, "index": positions, PIXELS: bytes_column(squares)})
