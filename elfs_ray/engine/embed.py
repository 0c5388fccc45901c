"""Embed: images to vectors with a pretrained encoder, streamed through Ray Data.

Reads: `samples`. Writes: `embeddings` (one row for each sample, half precision).
Decoding runs in tasks on CPUs, encoding in a pool of actors (one for each GPU) that grows as machines come. Finished
rows are saved in files of `checkpoint_rows`; a second run encodes only the rows that no file holds. On retry a task
encodes its rows again, and the last step keeps one of equal rows.
What the driver holds does not grow without end: see `PendingSamples` and `PARTS_AT_ONCE`.
"""

import time
from collections.abc import Iterator

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy

from elfs_ray.config import EmbedConfig
from elfs_ray.core.features import UnitRows, unit_half
from elfs_ray.data.unusable import UnusableImagesError
from elfs_ray.data.vectors import undirected
from elfs_ray.defaults import choose_embed
from elfs_ray.encoders import Encoder, load_encoder
from elfs_ray.engine.artifacts import KEY, median_side, read_column
from elfs_ray.engine.embed_rows import (
    FAILED,
    SAVED,
    TIMED,
    PendingSamples,
    Pixels,
    count_failed,
    decode_batch,
    grouped,
    index_of,
    put_in_order,
    read_failed,
    save_batch,
)
from elfs_ray.engine.progress import Counter
from elfs_ray.engine.stage import StageContext, StageResult
from elfs_ray.errors import RunError

# What a process of Ray with torch loaded takes, and how much more than its pixels a batch needs, in bytes and times.
PROCESS_BYTES, DECODE_COPIES, ENCODE_COPIES = 512 * 2**20, 4, 24


def run(context: StageContext) -> StageResult:
    """Encode every sample that has no saved row yet, then put the rows in order."""
    started = time.monotonic()
    options, encoder = _choose(context)
    dim, source = encoder.dim, encoder.source
    done = _saved_rows(context)
    encoded, spent, devices = 0, dict.fromkeys(TIMED, 0.0), set[str]()
    inputs = context.store.count_rows(context.artifact("samples")) + context.store.count_rows(
        context.artifact("quarantine")
    )
    bearable = context.config.ingest.max_bad_fraction * inputs
    context.store.delete(context.work, FAILED)  # they may be back
    if not done.all():
        _check_arithmetic(context, options)
        with context.counting("embedding", len(done), "images", int(done.sum())) as counter:
            for batch in _stream(context, options, encoder, done, counter):
                encoded += int(batch["rows"].sum())
                spent = {name: seconds + float(batch[name].sum()) for name, seconds in spent.items()}
                _check_device(context, set(batch["device"].tolist()) - devices)
                devices.update(batch["device"].tolist())
                # A disk that is gone fails them all: no need to try each.
                if count_failed(context.store, context.work) > bearable:
                    break
    failed = read_failed(context.store, context.work)
    if failed:
        raise UnusableImagesError(failed, context.prefix)
    put_in_order(context, dim)
    seconds = time.monotonic() - started
    return StageResult(
        artifacts={context.artifact("embeddings"): "embeddings"},
        chosen=options.model_dump(mode="json"),
        metrics={
            "encoder": options.encoder,
            "weights": source,
            "dim": dim,
            "devices": sorted(devices),
            "images_per_second": round(encoded / seconds, 1),
            **{name: round(seconds, 1) for name, seconds in spent.items()},
        },
    )


def _choose(context: StageContext) -> tuple[EmbedConfig, Encoder]:
    """The options with each `auto` resolved, and the encoder that they name."""
    if context.prefix:
        # Test images must go through exactly what the candidates went through.
        options = EmbedConfig.model_validate(context.chosen("embed"))
    else:
        section, hardware, store = context.config.embed, context.hardware, context.store
        native = load_encoder(section.encoder, weights=section.weights).preprocessing.size
        sizes = store.count_rows("samples"), native, median_side(store)
        options = choose_embed(section, hardware.cpus, hardware.gpus, *sizes, image_dtype=hardware.image_dtype)
        options = context.as_begun(options)
        context.begin(options)
    encoder = load_encoder(options.encoder, weights=options.weights, image_size=int(options.image_size))
    return options, encoder


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


def _saved_rows(context: StageContext) -> np.ndarray:
    """Which samples have a saved row, bool [N]."""
    done = np.zeros(context.store.count_rows(context.artifact("samples")), dtype=bool)
    if context.store.part_paths(context.work, SAVED):
        done[read_column(context.store, f"{context.work}/{SAVED}", "index")] = True
    return done


def _stream(
    context: StageContext, options: EmbedConfig, encoder: Encoder, done: np.ndarray, counter: Counter
) -> Iterator[dict[str, np.ndarray]]:
    """Encode what is not done, one execution of Ray Data after the other; yields counts and seconds of saved files."""
    store, samples = context.store, context.artifact("samples")
    has_bytes = "image" in store.dataset(samples).schema.names
    columns, done_ref = [*KEY, "image" if has_bytes else "uri"], ray.put(done)
    groups = grouped(store.part_paths(samples))
    first = [index_of(store, group[0])[0].as_py() for group in groups] + [len(done)]
    for number, paths in enumerate(groups):
        if not done[first[number] : first[number + 1]].all():
            pending = PendingSamples(store, paths, columns, done_ref)
            yield from _encode(context, options, encoder, counter, pending)


def _encode(
    context: StageContext, options: EmbedConfig, encoder: Encoder, counter: Counter, pending: PendingSamples
) -> Iterator[dict[str, np.ndarray]]:
    """Run read -> decode -> encode -> save; yields counts and seconds as files are saved."""
    hardware, config, batch_size = context.hardware, context.config, int(options.batch_size)
    how, location = encoder.preprocessing, config.evaluate.test_input if context.prefix else config.location
    pixels = Pixels(how.size, how.crop_fraction, how.interpolation, config.ingest.max_pixels, str(location))
    on_gpu = hardware.device == "cuda"
    actors = int(options.actors)
    # The encoders leave a processor to decoding.
    encoder_cpus = 0.0 if on_gpu else min(1.0, (hardware.cpus - 1) / actors)
    pixel_bytes = batch_size * 3 * pixels.size**2
    weight_bytes = sum(value.numel() * value.element_size() for value in encoder.module.state_dict().values())
    # What reads and what decodes become one task, because they ask for the same.
    decoding = {"num_cpus": 0.5, "memory": PROCESS_BYTES + DECODE_COPIES * pixel_bytes}
    dataset = ray.data.read_datasource(pending, override_num_blocks=len(pending.paths), **decoding)
    # Blocks of one batch of pixels flow on at once: at the default of 128 MiB the encoder would wait for hundreds.
    dataset.context.target_max_block_size = pixel_bytes
    return iter(
        dataset.map_batches(
            decode_batch,
            batch_size=batch_size,
            batch_format="pyarrow",
            **decoding,
            fn_kwargs={"how": pixels, "store": context.store, "work": context.work},
        )
        .map_batches(
            _EncodeBatch,
            batch_size=batch_size,
            batch_format="numpy",
            # Without GPUs there are as many as the images are worth, from the beginning.
            compute=ActorPoolStrategy(min_size=1, max_size=actors, initial_size=1 if on_gpu else actors),
            num_cpus=encoder_cpus,
            num_gpus=1 if on_gpu else 0,
            memory=PROCESS_BYTES + 2 * weight_bytes + ENCODE_COPIES * pixel_bytes,
            fn_constructor_kwargs={
                "options": options,
                "threads": max(1, hardware.cpus // actors),
                "counter": counter,
            },
        )
        .map_batches(
            save_batch,
            batch_size=options.checkpoint_rows,
            batch_format="numpy",
            num_cpus=0.25,
            fn_kwargs={"store": context.store, "folder": f"{context.work}/{SAVED}"},
        )
        .iter_batches(batch_size=None, batch_format="numpy")
    )


class _EncodeBatch:
    """Holds the encoder on one device."""

    def __init__(self, options: EmbedConfig, threads: int, counter: Counter) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encoder = load_encoder(options.encoder, weights=options.weights, image_size=int(options.image_size))
        encoder.module.to(self._device).to(memory_format=torch.channels_last)
        if options.compile:
            encoder.module.compile()
        self._dtype = options.dtype
        self._forward = AdaptiveForward(encoder, self._device, getattr(torch, options.dtype), int(options.batch_size))
        self._batch_size = int(options.batch_size)
        self._counter = counter

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        started = time.perf_counter()
        rows = len(batch["index"])
        # Every batch has the same shape: which rows a second run finds together must not change their last bits.
        pixels = torch.zeros(self._batch_size, *batch["pixels"].shape[1:], dtype=torch.uint8)
        pixels[:rows] = torch.from_numpy(batch["pixels"])
        if self._device.type == "cuda":
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
            torch.cuda.synchronize()
        transferred = time.perf_counter()
        vectors = self._forward(pixels)[:rows].cpu().numpy()
        units = _unit_length(vectors, batch["sample_id"], self._dtype)
        ended = time.perf_counter()
        self._counter.advance(rows)
        return {
            "sample_id": batch["sample_id"],
            "index": batch["index"],
            "vector": units.vectors,
            "norm": units.norms,
            "device": np.full(rows, self._device.type),
            "decode_seconds": batch["decode_seconds"],
            "transfer_seconds": np.full(rows, (transferred - started) / max(1, rows)),
            "encode_seconds": np.full(rows, (ended - transferred) / max(1, rows)),
        }


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


class AdaptiveForward:
    """Encodes a batch in one go, or in smaller parts from the first time that memory runs out."""

    def __init__(self, encoder: Encoder, device: torch.device, dtype: torch.dtype, rows: int) -> None:
        self._encoder, self._device, self._dtype = encoder, device, dtype
        self.rows = rows

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Vectors float32 [b, dim] of pixels uint8 [b, 3, s, s].

        Raises:
            RunError: memory runs out with a single image.
        """
        while True:
            try:
                return torch.cat([self._encoder.encode(part, self._dtype) for part in pixels.split(self.rows)])
            except torch.OutOfMemoryError as error:
                if self.rows == 1:
                    raise RunError(
                        f"{self._device} has no memory for one image of {pixels.shape[-1]} pixels a side; "
                        "use --set embed.image_size with fewer, or another encoder"
                    ) from error
                self.rows = -(-self.rows // 2)
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
