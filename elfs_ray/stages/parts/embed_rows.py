"""What embed does with rows before and after the encoder: read, decode, save, put in order.

Images that can no longer be read are noted in the work folder, and the others go on.

Without torch: the processes that only do this start in one second, not in four.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import KEY, Part, Table, fixed_size_matrix, matrix_column
from elfs_ray.artifacts.writing import ranges_of_parts, write_index, write_part
from elfs_ray.data.files import map_files
from elfs_ray.data.images import load_with, to_square
from elfs_ray.data.jpeg import for_card
from elfs_ray.data.sources.base import CHUNK_BYTES
from elfs_ray.data.unusable import Unusable
from elfs_ray.stages.context import StageContext
from elfs_ray.workers.base import Handle

SAVED, FAILED = "rows", "failed"
# Samples that a task reads and decodes.
READ_ROWS = 1024
# Ranges of so many that one stream takes: the driver keeps some 100 KB for each until it ends.
RANGES_AT_ONCE = 16_384
# What the work on images is made of, in the order in which it is done; reported apart.
PARTS = ("decode", "card_decode", "transfer", "encode")
# Seconds of all workers together.
TIMED = tuple(f"{part}_seconds" for part in PARTS)
# In place of an orientation: the row has pixels, not a file.
PIXELS_ALREADY = 0


class Pixels(NamedTuple):
    """How images become pixels for the encoder.

    Attributes:
        size: pixels a side.
        crop_fraction: the short side is resized to size / crop_fraction before the centre is cut out.
        interpolation: nearest, bilinear, bicubic or lanczos.
        max_pixels: larger images are refused.
        location: of the images.
        on_card: JPEGs that a card can decode are left to it.
    """

    size: int
    crop_fraction: float
    interpolation: str
    max_pixels: int
    location: str
    on_card: bool = False

    def of_file(self, data: bytes) -> np.ndarray:
        """Pixels uint8 [3, s, s] of an encoded image; raises `ImageError`."""
        return to_square(data, self.size, self.crop_fraction, self.interpolation, max_pixels=self.max_pixels)


class ForCard(NamedTuple):
    """A row on its way to a card.

    Attributes:
        data: a JPEG, or pixels uint8 [3, s, s] as bytes.
        turn: orientation of the JPEG, or `PIXELS_ALREADY`.
        area: pixels of the JPEG.
    """

    data: bytes
    turn: int
    area: int


def read_pending(
    samples: Table, columns: list[str], done: Handle[np.ndarray], rows: tuple[int, int]
) -> Iterator[pa.Table]:
    """Of the samples start..stop-1, those that are still to encode, with their bytes or where to read them."""
    yield samples.read(*rows, columns).filter(pa.array(~done.result()[slice(*rows)]))


def pending_ranges(samples: Table, done: np.ndarray) -> list[list[tuple[int, int]]]:
    """Ranges of samples of which some are still to encode, `RANGES_AT_ONCE` in a group."""
    ranges = [rows for rows in samples.ranges(READ_ROWS, CHUNK_BYTES) if not done[slice(*rows)].all()]
    return [ranges[start : start + RANGES_AT_ONCE] for start in range(0, len(ranges), RANGES_AT_ONCE)]


def decode_batch(table: pa.Table, how: Pixels, store: RunFolder, work: str) -> dict[str, Any] | pa.Table:
    """Pixels of those samples of a batch that can be read; the others are noted as failed.

    Returns:
        Rows with `pixels` uint8 [b, 3, s, s]; or, where a card decodes, with the fields of `ForCard`.
    """
    started = time.perf_counter()
    has_bytes = "image" in table.column_names
    read = partial(load_with, location=how.location, use=partial(_for_card, how) if how.on_card else how.of_file)
    names, index = table["sample_id"].to_pylist(), table["index"].to_numpy()
    sources = table["image" if has_bytes else "uri"].to_pylist()
    pixels = np.empty((0 if how.on_card else table.num_rows, 3, how.size, how.size), dtype=np.uint8)
    good, failed, for_card = np.ones(table.num_rows, dtype=bool), list[Unusable](), list[ForCard]()
    for row, loaded in enumerate(map_files(read, "" if has_bytes else how.location, sources)):
        if isinstance(loaded, str):
            good[row] = False
            failed.append(Unusable(int(index[row]), names[row], loaded))
        elif isinstance(loaded, ForCard):
            for_card.append(loaded)
        else:
            pixels[row] = loaded
    note_failed(failed, store, work)
    count = int(good.sum())
    rows = {
        "sample_id": np.array(names, dtype=object)[good],
        "index": index[good],
        "decode_seconds": np.full(count, (time.perf_counter() - started) / max(1, count)),
    }
    if how.on_card:
        data, turn, area = zip(*for_card, strict=True) if for_card else ((), (), ())
        files = {"data": pa.array(data, pa.large_binary()), "turn": pa.array(turn, pa.int8())}
        keys = {"sample_id": pa.array(rows["sample_id"], pa.string()), "index": pa.array(rows["index"], pa.int64())}
        return pa.table({**keys, **files, "area": pa.array(area, pa.int64()), "decode_seconds": rows["decode_seconds"]})
    return {**rows, "pixels": pixels if good.all() else pixels[good]}


def _for_card(how: Pixels, data: bytes) -> ForCard:
    """A JPEG as it is, if a card can decode it, else its pixels; raises `ImageError`."""
    left = for_card(data, how.size, how.crop_fraction, how.max_pixels)
    return ForCard(how.of_file(data).tobytes(), PIXELS_ALREADY, 0) if left is None else ForCard(data, *left)


def note_failed(failed: Sequence[Unusable], store: RunFolder, work: str) -> None:
    """Note images of a batch that cannot be decoded."""
    if failed:
        # Named by the first and their number: a retry writes the same file.
        name = f"{failed[0].index:012d}-{len(failed)}.json"
        store.write_json([asdict(one) for one in failed], work, FAILED, name)


def count_failed(store: RunFolder, work: str) -> int:
    """How many images were noted as failed so far, from the names of the files."""
    return sum(int(name.partition("-")[2].removesuffix(".json")) for name in store.names(work, FAILED))


def read_failed(store: RunFolder, work: str) -> list[Unusable]:
    """The images that were noted as failed; each once, though a retry may have cut its batches otherwise."""
    noted = [one for name in store.names(work, FAILED) for one in store.read_json(work, FAILED, name)]
    return list({one["index"]: Unusable(**one) for one in noted}.values())


def save_batch(batch: dict[str, np.ndarray], store: RunFolder, folder: str) -> dict[str, np.ndarray]:
    """Save finished rows in a file named by its first row, last row and size: a retry writes the same file."""
    index = batch["index"]
    columns = {name: batch[name] for name in ("sample_id", "index", "norm")}
    table = pa.table({**columns, "vector": matrix_column(batch["vector"])})
    store.write_table(table, schema.embeddings(batch["vector"].shape[1]), folder, saved_name(index))
    spent = {name: np.array([batch[name].sum()]) for name in TIMED}
    counts = {"rows": np.array([len(index)]), "on_card": np.array([batch["on_card"].sum()])}
    return {**counts, "device": batch["device"][:1], **spent}


def saved_name(index: np.ndarray) -> str:
    """Name of a file of finished rows, by which `put_in_order` finds those of a range."""
    return f"{index.min():012d}-{index.max():012d}-{len(index)}.parquet"


def saved_rows(store: RunFolder, work: str, count: int) -> np.ndarray:
    """Which of so many samples have a saved row, bool [count]."""
    done = np.zeros(count, dtype=bool)
    for table in store.read_tables(work, SAVED, columns=["index"]):
        done[table["index"].to_numpy()] = True
    return done


def put_in_order(context: StageContext, dim: int) -> None:
    """Write the saved rows in order of index."""
    store, work, workers, layout = context.store, context.work, context.workers, schema.embeddings(dim)
    samples, names = context.table("samples"), store.names(work, SAVED)
    first, last = (np.array([int(name.split("-")[place]) for name in names]) for place in (0, 1))
    given = samples, work, layout, workers.share((first, last, names))
    ranges = ((number, *rows) for number, rows in enumerate(ranges_of_parts(samples.rows, layout)))
    # One core each: who writes a part holds it.
    write_index(store, f"{work}/embeddings", workers.map(_write_part, ranges, *given, cpus=1), layout)


def _write_part(
    samples: Table,
    work: str,
    layout: pa.Schema,
    saved: tuple[np.ndarray, np.ndarray, list[str]],
    number: int,
    start: int,
    stop: int,
) -> Part:
    """Write the rows of the samples start..stop-1, from the saved files that hold some of them."""
    (first, last, names), store = saved, samples.store
    vectors = np.empty((stop - start, layout.field("vector").type.list_size), np.float16)
    norms, found = np.empty(len(vectors)), np.zeros(len(vectors), dtype=bool)
    for file in np.flatnonzero((first < stop) & (last >= start)):
        rows = store.read_table(work, SAVED, names[file], columns=["index", "vector", "norm"])
        places = rows["index"].to_numpy() - start
        inside = (places >= 0) & (places < len(vectors))
        places = places[inside]
        vectors[places], norms[places] = fixed_size_matrix(rows["vector"])[inside], rows["norm"].to_numpy()[inside]
        found[places] = True
    if not found.all():
        raise AssertionError(f"rows {start}..{stop - 1} of the embeddings are incomplete")
    table = (
        samples.read(start, stop, KEY).append_column("vector", matrix_column(vectors)).append_column("norm", [norms])
    )
    return write_part(store, f"{work}/embeddings", number, start, table, layout)
