"""Embed: images to vectors with a pretrained encoder, in a stream: read, decode, encode, save.

Reads: `samples`. Writes: `embeddings` (one row for each sample, half precision).
Decoding runs in tasks on CPUs, encoding in workers that hold the encoder (one for each GPU), more as machines come.
With `embed.decode=gpu` the tasks only look at the headers of JPEGs, and the encoders decode them. On a GPU two batches
are under way in each encoder: while one is encoded, the other is decoded, copied or put away. Finished rows are saved
in files of `checkpoint_rows`; a second run encodes only the rows that no file holds. On retry a task encodes its rows
again, and the last step keeps one of equal rows.
What the driver holds does not grow without end: see `RANGES_AT_ONCE`.
"""

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import torch

from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.samples import median_side
from elfs_ray.artifacts.table import KEY
from elfs_ray.config import EmbedConfig
from elfs_ray.core.features import UnitRows, unit_half
from elfs_ray.data.card_decoding import INTERPOLATIONS, CardDecoder, built_for_cards, can_decode
from elfs_ray.data.pixels import ImageError
from elfs_ray.data.unusable import Unusable, UnusableImagesError
from elfs_ray.data.vectors import undirected
from elfs_ray.encoders import load_encoder
from elfs_ray.encoders.base import Encoder
from elfs_ray.encoders.forward import AdaptiveForward, Clock, Lane
from elfs_ray.errors import RunError
from elfs_ray.planning.auto_options import choose_embed
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.parts.embed_rows import (
    FAILED,
    PARTS,
    PIXELS_ALREADY,
    SAVED,
    TIMED,
    Pixels,
    count_failed,
    decode_batch,
    note_failed,
    pending_ranges,
    put_in_order,
    read_failed,
    read_pending,
    save_batch,
    saved_rows,
)
from elfs_ray.workers.base import Source, Step, Threads
from elfs_ray.workers.machine import keep_freed_memory
from elfs_ray.workers.progress import Counter
from elfs_ray.workers.threads import use_torch_threads

# What a worker with torch loaded takes, and how much more than its pixels a batch needs, in bytes and times.
PROCESS_BYTES, DECODE_COPIES, ENCODE_COPIES = 512 * 2**20, 4, 24
# Under way at once in an encoder with a GPU.
BATCHES_AT_ONCE = 2


def run(context: StageContext) -> StageResult:
    """Encode every sample that has no saved row yet, then put the rows in order."""
    started = time.monotonic()
    options, encoder = _choose(context)
    dim, source = encoder.dim, encoder.source
    samples = context.table("samples").rows
    done = saved_rows(context.store, context.work, samples)
    encoded, on_card, spent, devices = 0, 0, dict.fromkeys(TIMED, 0.0), set[str]()
    bearable = context.config.ingest.max_bad_fraction * (samples + context.table("quarantine").rows)
    context.store.delete(context.work, FAILED)  # they may be back
    if not done.all():
        _check_arithmetic(context, options)
        with context.counting("embedding", len(done), "images", int(done.sum())) as counter:
            for batch in _stream(context, options, encoder, done, counter):
                encoded += int(batch["rows"].sum())
                on_card += int(batch["on_card"].sum())
                spent = {name: seconds + float(batch[name].sum()) for name, seconds in spent.items()}
                _check_device(context, set(batch["device"].tolist()) - devices)
                devices.update(batch["device"].tolist())
                # A disk that is gone fails them all: no need to try each.
                if count_failed(context.store, context.work) > bearable:
                    break
    failed = read_failed(context.store, context.work)
    if failed:
        raise UnusableImagesError(failed, context.unit.prefix)
    put_in_order(context, dim)
    seconds = time.monotonic() - started
    return StageResult(
        chosen=options.model_dump(mode="json"),
        metrics={
            "encoder": options.encoder,
            "weights": source,
            "dim": dim,
            "devices": sorted(devices),
            "images_per_second": round(encoded / seconds, 1),
            **_rates(encoded, on_card, spent),
        },
    )


def _choose(context: StageContext) -> tuple[EmbedConfig, Encoder]:
    """The options with each `auto` resolved, and the encoder that they name."""
    if context.of_test_images:
        # Test images must go through exactly what the candidates went through.
        options = EmbedConfig.model_validate(context.records[Unit("embed")].chosen)
    else:
        section, hardware, store = context.config.embed, context.hardware, context.store
        native = load_encoder(section.encoder, weights=section.weights).preprocessing.size
        sizes = context.table("samples").rows, native, median_side(store)
        arithmetic, card = hardware.image_dtype, hardware.gpus > 0 and built_for_cards()
        options = choose_embed(section, hardware.cpus, hardware.gpus, *sizes, image_dtype=arithmetic, card_decodes=card)
        options = context.as_begun(options)
        context.begin(options)
    encoder = load_encoder(options.encoder, weights=options.weights, image_size=int(options.image_size))
    return options, encoder


def _rates(encoded: int, on_card: int, spent: dict[str, float]) -> dict[str, float]:
    """Of each part of the work: seconds of all workers together, and images/s of one worker while it is at it."""
    images = {part: on_card if part == "card_decode" else encoded for part in PARTS}
    numbers: dict[str, float] = {"decoded_on_card": on_card}
    for part, seconds in zip(PARTS, spent.values(), strict=True):
        if images[part] or part != "card_decode":
            numbers[f"{part}_seconds"] = round(seconds, 1)
            numbers[f"{part}_images_per_second"] = round(images[part] / seconds, 1) if seconds else 0.0
    return numbers


def _check_arithmetic(context: StageContext, options: EmbedConfig) -> None:
    """Say that half precision will be slow on processors without instructions for it."""
    hardware = context.hardware
    if hardware.device == "cpu" and options.dtype != "float32" and not hardware.bfloat16:
        context.reporter.line(
            f"  warning: these processors have no instructions for {options.dtype}; "
            "--set embed.dtype=float32 is ten times as fast"
        )


def _check_device(context: StageContext, new: set[str]) -> None:
    """Say once that work was planned for GPUs and runs on processors."""
    if context.hardware.device == "cuda" and "cpu" in new:
        context.reporter.line(
            "  warning: Ray gives GPUs that torch cannot use on their nodes, so that processors do their work; "
            "install a torch for them there, or plan for processors with --set ray.num_gpus=0"
        )


def _stream(
    context: StageContext, options: EmbedConfig, encoder: Encoder, done: np.ndarray, counter: Counter
) -> Iterator[dict[str, np.ndarray]]:
    """Encode what is not done, one stream after the other; yields counts and seconds of saved files."""
    samples = context.table("samples")
    columns = [*KEY, "image" if "image" in samples.schema.names else "uri"]
    read = partial(read_pending, samples, columns, context.workers.share(done))
    for ranges in pending_ranges(samples, done):
        yield from _encode(context, options, encoder, counter, read, ranges)


def _encode(
    context: StageContext,
    options: EmbedConfig,
    encoder: Encoder,
    counter: Counter,
    read: Callable[[tuple[int, int]], Iterator[pa.Table]],
    ranges: Sequence[tuple[int, int]],
) -> Iterator[dict[str, np.ndarray]]:
    """Run read -> decode -> encode -> save; yields counts and seconds as files are saved."""
    hardware, config, batch_size = context.hardware, context.config, int(options.batch_size)
    how, location = encoder.preprocessing, config.evaluate.test_input if context.of_test_images else config.location
    limit, on_card = config.ingest.max_pixels, options.decode == "gpu" and how.interpolation in INTERPOLATIONS
    pixels = Pixels(how.size, how.crop_fraction, how.interpolation, limit, str(location), on_card)
    on_gpu = hardware.device == "cuda"
    actors = int(options.actors)
    # The encoders leave a processor to decoding.
    encoder_cpus = 0.0 if on_gpu else min(1.0, (hardware.cpus - 1) / actors)
    pixel_bytes = batch_size * 3 * pixels.size**2
    weight_bytes = sum(value.numel() * value.element_size() for value in encoder.module.state_dict().values())
    folder, note = f"{context.work}/{SAVED}", partial(note_failed, store=context.store, work=context.work)
    decode_cpus, decode_bytes = 0.5, PROCESS_BYTES + DECODE_COPIES * pixel_bytes
    return context.workers.stream(
        # What reads and what decodes become one task, because they ask for the same.
        Source(read, ranges, decode_cpus, decode_bytes),
        Step(
            decode_batch,
            batch_size,
            {"how": pixels, "store": context.store, "work": context.work},
            decode_cpus,
            as_table=True,
            memory=decode_bytes,
        ),
        Step(
            _EncodeBatch,
            batch_size,
            {
                "options": options,
                "pixels": pixels,
                "threads": context.workers.threads(actors),
                "counter": counter,
                "note": note,
            },
            encoder_cpus,
            gpus=1 if on_gpu else 0,
            memory=PROCESS_BYTES + 2 * weight_bytes + ENCODE_COPIES * pixel_bytes,
            holders=actors,
            at_once=BATCHES_AT_ONCE if on_gpu else 1,
        ),
        Step(save_batch, options.checkpoint_rows, {"store": context.store, "folder": folder}, 0.25),
        block_bytes=pixel_bytes,
    )


class _EncodeBatch:
    """Holds the encoder on one device. On a card it is called by several threads at once.

    Args:
        options: with each `auto` resolved.
        pixels: how images become pixels.
        threads: says how many this worker may use.
        counter: of the images that are done.
        note: takes the images of a batch that cannot be decoded.
    """

    def __init__(
        self,
        options: EmbedConfig,
        pixels: Pixels,
        threads: Threads,
        counter: Counter,
        note: Callable[[list[Unusable]], None],
    ) -> None:
        use_torch_threads(threads())
        keep_freed_memory()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encoder = load_encoder(options.encoder, weights=options.weights, image_size=int(options.image_size))
        encoder.module.to(self._device).to(memory_format=torch.channels_last)
        if options.compile:
            encoder.module.compile()
        self._dtype = options.dtype
        self._forward = AdaptiveForward(encoder, self._device, getattr(torch, options.dtype), int(options.batch_size))
        self._batch_size = int(options.batch_size)
        self._pixels, self._counter, self._note = pixels, counter, note
        self._decoder: CardDecoder | None = None
        if pixels.on_card and can_decode(self._device):
            self._decoder = CardDecoder(self._device, pixels.size, pixels.crop_fraction, pixels.interpolation)
        # Each call takes one: threads of Ray's need not be the same from call to call.
        self._lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for _ in range(BATCHES_AT_ONCE):
            self._lanes.put(Lane(self._device))
        if self._device.type == "cuda":
            torch.cuda.synchronize()  # the weights were copied on a stream that no lane waits for

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        lane = self._lanes.get()
        try:
            with self._forward.turn(), lane.used() as clock:
                return self._encode(batch, lane, clock)
        finally:
            self._lanes.put(lane)

    def _encode(self, batch: dict[str, np.ndarray], lane: Lane, clock: Clock) -> dict[str, np.ndarray]:
        squares: list[torch.Tensor | np.ndarray] = []
        if self._pixels.on_card:
            batch, squares = self._decode(batch)
        rows = len(batch["index"])
        clock.mark()
        # Every batch has the same shape: which rows a second run finds together must not change their last bits.
        if self._pixels.on_card:
            pixels = self._together(squares, lane)
        else:
            pixels = lane.onto_device(batch["pixels"], self._batch_size)
        clock.mark()
        vectors = self._forward(pixels)[:rows]
        clock.mark()
        units = _unit_length(lane.off_device(vectors), batch["sample_id"], self._dtype)
        self._counter.advance(rows)
        spent = zip(TIMED[1:], clock.seconds(), strict=True)
        return {
            "sample_id": batch["sample_id"],
            "index": batch["index"],
            "vector": units.vectors,
            "norm": units.norms,
            "device": np.full(rows, self._device.type),
            "on_card": np.array([isinstance(square, torch.Tensor) for square in squares] or [False] * rows, dtype=bool),
            "decode_seconds": batch["decode_seconds"],
            **{name: np.full(rows, seconds / max(1, rows)) for name, seconds in spent},
        }

    def _decode(self, batch: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[torch.Tensor | np.ndarray]]:
        """The rows that can be decoded, and the pixels of each, on the device or not; the others are noted."""
        files, turns = batch["data"], batch["turn"]
        jpegs = np.flatnonzero(turns != PIXELS_ALREADY)
        squares: dict[int, torch.Tensor | np.ndarray | None] = dict.fromkeys(range(len(files)))
        if self._decoder is not None and len(jpegs):
            made = self._decoder(files[jpegs].tolist(), turns[jpegs].tolist(), batch["area"][jpegs].tolist())
            squares.update(zip(jpegs.tolist(), made, strict=True))
        side, failed = self._pixels.size, list[Unusable]()
        for row in [row for row, square in squares.items() if square is None]:
            try:
                squares[row] = (
                    np.frombuffer(files[row], np.uint8).reshape(3, side, side)
                    if turns[row] == PIXELS_ALREADY
                    else self._pixels.of_file(files[row])
                )
            except ImageError as error:
                failed.append(Unusable(int(batch["index"][row]), batch["sample_id"][row], str(error)))
        self._note(failed)
        good = np.array([square is not None for square in squares.values()], dtype=bool)
        return {name: column[good] for name, column in batch.items()}, [
            one for one in squares.values() if one is not None
        ]

    def _together(self, squares: Sequence[torch.Tensor | np.ndarray], lane: Lane) -> torch.Tensor:
        """Squares in order, uint8 [batch size, 3, s, s] on the device, filled up with zeros."""
        held = [square for square in squares if isinstance(square, np.ndarray)]
        side = self._pixels.size
        copied = iter(lane.onto_device(np.array(held, np.uint8).reshape(-1, 3, side, side), len(held)))
        pixels = torch.zeros(self._batch_size, 3, side, side, dtype=torch.uint8, device=self._device)
        for row, square in enumerate(squares):
            pixels[row] = square if isinstance(square, torch.Tensor) else next(copied)
        return pixels


def _unit_length(vectors: np.ndarray, names: np.ndarray, dtype: str) -> UnitRows:
    """The output of the encoder, scaled to unit length.

    Raises:
        RunError: an image has no direction there; it is named.
    """
    told = undirected(vectors, names, constant=False)
    if told:
        exact = "" if dtype == "float32" else " or --set embed.dtype=float32"
        raise RunError(
            f"the encoder gave a batch of images vectors that cosine cannot compare: {told}; "
            f"leave these images out, or use another encoder{exact}"
        )
    return unit_half(vectors)
