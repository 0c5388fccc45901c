"""How fast this machine is: a few seconds of each kind of work, on real images, in one process.

Each measurement warms up, then repeats for about `SECONDS_EACH` or `MOST_REPEATS`, and takes the median; of steps that
share the process, the mean.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from elfs_ray.config import BetaSearchConfig, EvaluateConfig, ProxyConfig, PseudoLabelsConfig, RunConfig
from elfs_ray.core.augmentation import Draws, prepare_images
from elfs_ray.core.classifier import sgd, train_step
from elfs_ray.core.classifier_training import ClassifierTraining, TrainingOptions, TrainingSet
from elfs_ray.core.components import SAMPLE_ROWS, PrincipalComponents
from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.networks import build_network
from elfs_ray.core.product_index import ProductIndex
from elfs_ray.core.pruning import budget_count
from elfs_ray.core.small_index import exact_index
from elfs_ray.core.temi_training import TemiOptions, TemiTraining
from elfs_ray.data.images import ImageError, inspect, to_square
from elfs_ray.data.sources import Source
from elfs_ray.data.vectors import open_vectors
from elfs_ray.encoders import load_encoder
from elfs_ray.encoders.base import Encoder, threads_busy
from elfs_ray.errors import UsageError
from elfs_ray.planning.auto_options import (
    choose_beta_search,
    choose_embed,
    choose_evaluations,
    choose_proxy,
    choose_pseudo_labels,
    neighbors_of_each,
    trained_together,
)
from elfs_ray.planning.cost import Rates
from elfs_ray.planning.plan import Calibration
from elfs_ray.stages.parts.training_options import training_options
from elfs_ray.workers.hardware import Hardware
from elfs_ray.workers.threads import use_torch_threads

SAMPLE_IMAGES, SAMPLE_CHUNKS = 96, 3
SECONDS_EACH, MOST_REPEATS, MOST_STEPS = 0.3, 15, 60
SEARCH_ROWS, SEARCH_QUERIES, COMPONENT_ROWS = 20_000, 1024, 2048
# Of a coreset that short trainings are measured on.
MOST_ROWS = 4096


def calibrate(
    config: RunConfig, source: Source, hardware: Hardware, planned: Collection[str], *, side_by_side: int = 1
) -> Calibration:
    """Measure on some images of the source, with the encoder and the options that a run would choose.

    Args:
        config: as for a run.
        source: the candidates.
        hardware: of the run.
        planned: names of the stages that the run has; what no other needs is not measured, and 0.
        side_by_side: short trainings that share this process.

    Raises:
        UsageError: none of the images that were looked at can be used.
    """
    threads = torch.get_num_threads()
    here = min(hardware.cpus, os.cpu_count() or 1)  # of the cluster's
    torch.set_num_threads(here)
    try:
        return _calibrate(config, source, hardware, planned, side_by_side)
    finally:
        torch.set_num_threads(threads)


def _calibrate(
    config: RunConfig, source: Source, hardware: Hardware, planned: Collection[str], side_by_side: int
) -> Calibration:
    images, read_seconds = _read_some(source)
    good, check, sides = _check(images, config.ingest.max_pixels)
    if source.has_images and not good:
        raise UsageError(
            f"none of {len(images)} images of {source.location} that were looked at can be used; check the input"
        )
    side = float(np.median(sides)) if sides else 0.0
    vectors = config.embed.vectors
    embedding = _Embedding()
    if "embed" in planned:
        embedding = _ready_vectors(config) if vectors else _encoding(config, source.count, good, side, hardware)
    chosen = _choose(config, source.count, embedding.dim, side, hardware)
    steps = _step_seconds(
        config, source.count, chosen, embedding.dim, torch.device(hardware.device), planned, side_by_side
    )
    rates = Rates(
        check=check + read_seconds,
        decode=embedding.decode + (0 if vectors or not embedding.dim else read_seconds),
        encode=embedding.encode,
        search_flops=_search_flops(embedding.dim, source.count, hardware) if "neighbors" in planned else 0.0,
        components=_components_seconds(embedding.dim, source.count) if _reduced(chosen, planned) else 0.0,
        **steps,
    )
    image_bytes = float(np.mean([len(data) for data in good])) if good else 0.0
    return Calibration(rates, *chosen, embedding.dim, image_bytes, embedding.weight_bytes, len(good))


class _Chosen(NamedTuple):
    """The options that stages which train would choose."""

    pseudo_labels: PseudoLabelsConfig
    proxy: ProxyConfig
    beta_search: BetaSearchConfig
    evaluate: dict[str, EvaluateConfig]


def _choose(config: RunConfig, images: int, dim: int, side: float, hardware: Hardware) -> _Chosen:
    dtypes, device, units = hardware.dtypes, hardware.device, hardware.units
    return _Chosen(
        choose_pseudo_labels(
            config.pseudo_labels,
            device,
            units,
            images,
            dim,
            num_classes=config.num_classes or 2,
            neighbors=neighbors_of_each(config.neighbors, images),
        ),
        choose_proxy(config.proxy, device, units, images, dim, side, **dtypes),
        choose_beta_search(config.beta_search, config.evaluate, side, _largest_budget(config, images), **dtypes),
        choose_evaluations(config.evaluate, side, **dtypes),
    )


def _largest_budget(config: RunConfig, images: int) -> int:
    """For smaller ones an upper bound."""
    return max(budget_count(budget, images) for budget in config.budgets)


def _step_seconds(
    config: RunConfig,
    images: int,
    chosen: _Chosen,
    dim: int,
    device: torch.device,
    planned: Collection[str],
    side_by_side: int,
) -> dict[str, Any]:
    """Seconds of a step of each training, by the name that `Rates` has for it; 0 where none is planned."""
    classes = config.num_classes or 2  # without pseudo-labels, nothing of them counts
    short = dim, _largest_budget(config, images)
    proxy, search = chosen.proxy, chosen.beta_search
    found: dict[str, Any] = {"pseudo_labels_step": 0.0, "proxy_step": 0.0, "search_step": 0.0, "evaluate_steps": {}}
    if "pseudo_labels" in planned:
        found["pseudo_labels_step"] = _pseudo_labels_step(chosen.pseudo_labels, dim, classes, device)
    if "proxy" in planned:
        found["proxy_step"] = _proxy_step(proxy, int(proxy.pca_dim) or dim, classes, device)
    if "beta_search" in planned:
        options = training_options(search, search.model, classes, config.proxy.hidden_dim)
        found["search_step"] = _model_step(options, int(search.image_size), *short, search.seeds, device, side_by_side)
    for model, section in chosen.evaluate.items() if "evaluate" in planned else ():
        options = training_options(section, model, classes, section.hidden_dim)
        trainings = section.seeds if trained_together(section) else 1
        seconds = _model_step(options, int(section.image_size), *short, trainings, device, side_by_side)
        found["evaluate_steps"][model] = seconds
    return found


class _Embedding(NamedTuple):
    """Seconds of an image on one core and on the device, bytes of the weights, and the width; 0 without embeddings."""

    dim: int = 0
    decode: float = 0.0
    encode: float = 0.0
    weight_bytes: int = 0


def _ready_vectors(config: RunConfig) -> _Embedding:
    """They are read, written, read again and written in order."""
    table = open_vectors(str(config.embed.vectors), config.ingest.id_column)
    started = time.perf_counter()
    rows = len(table.read(0)[0])
    return _Embedding(table.dim, 4 * (time.perf_counter() - started) / max(1, rows), 0.0, 0)


def _encoding(config: RunConfig, images: int, good: list[bytes], side: float, hardware: Hardware) -> _Embedding:
    """With the encoder and the options that a run would choose."""
    native = load_encoder(config.embed.encoder, weights=config.embed.weights).preprocessing.size
    embed = choose_embed(
        config.embed, hardware.cpus, hardware.gpus, images, native, side, image_dtype=hardware.image_dtype
    )
    encoder = load_encoder(embed.encoder, weights=embed.weights, image_size=int(embed.image_size))
    pixels, decode_seconds = _decode(good, encoder, config.ingest.max_pixels)
    encode = _encode_seconds(encoder, pixels, embed.dtype, int(embed.batch_size), hardware)
    weights = sum(4 * parameter.numel() for parameter in encoder.module.parameters())
    return _Embedding(encoder.dim, decode_seconds, encode, weights)


def _seconds(step: Callable[[], object], most: int = MOST_REPEATS) -> float:
    """Median seconds of a call, after one that does not count; a slow one is not repeated."""

    def once() -> float:
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - started

    first = once()
    if first > SECONDS_EACH:
        return first
    taken: list[float] = []
    while len(taken) < most and sum(taken) < SECONDS_EACH:
        taken.append(once())
    return statistics.median(taken)


def _unit_rows(count: int, dim: int) -> torch.Tensor:
    """Random rows of unit length, float32 [count, dim]."""
    return torch.from_numpy(normalize_rows(np.random.default_rng(0).random((count, dim), np.float32) - np.float32(0.5)))


def _pixels(count: int, size: int) -> torch.Tensor:
    """Random images, uint8 [count, 3, size, size]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def _read_some(source: Source) -> tuple[list[bytes], float]:
    """Encoded images from the beginning, the middle and the end, and the seconds of reading one."""
    chosen = sorted({0, len(source.chunks) // 2, len(source.chunks) - 1})[:SAMPLE_CHUNKS]
    images: list[bytes] = []
    rows, started = 0, time.perf_counter()
    for number in chosen:
        chunk, few = source.chunks[number], SAMPLE_IMAGES // SAMPLE_CHUNKS
        if not source.carries_bytes:
            # A table of bytes is read by whole row groups, as a run reads it; files one by one.
            chunk = chunk._replace(rows=min(few, chunk.rows))
        table = source.read(chunk)
        rows += table.num_rows
        images += [image for image in table["image"].to_pylist()[:few] if image]
    return images, (time.perf_counter() - started) / max(1, rows)


def _check(images: list[bytes], max_pixels: int) -> tuple[list[bytes], float, list[int]]:
    """The images that can be used, seconds to check one, and their short sides in pixels."""
    good, sides, started = [], [], time.perf_counter()
    for data in images:
        try:
            info = inspect(data, max_pixels=max_pixels)
        except ImageError:
            continue
        good.append(data)
        sides.append(min(info.width, info.height))
    return good, (time.perf_counter() - started) / max(1, len(images)), sides


def _decode(images: list[bytes], encoder: Encoder, max_pixels: int) -> tuple[np.ndarray, float]:
    """Pixels uint8 [n, 3, s, s], and the seconds of one image on one core."""
    how, started = encoder.preprocessing, time.perf_counter()
    pixels = []
    for data in images:
        with contextlib.suppress(ImageError):  # an image may need more memory than there is
            pixels.append(to_square(data, how.size, how.crop_fraction, how.interpolation, max_pixels=max_pixels))
    seconds = (time.perf_counter() - started) / len(images)
    return np.stack(pixels or [np.zeros((3, how.size, how.size), np.uint8)]), seconds


def _encode_seconds(encoder: Encoder, pixels: np.ndarray, dtype: str, batch: int, hardware: Hardware) -> float:
    """Seconds of an image in a full batch; in a small one, where the encoder is slow."""
    device = torch.device(hardware.device)
    encoder.module.to(device).to(memory_format=torch.channels_last)

    def seconds(size: int, most: int) -> float:
        images = torch.from_numpy(np.resize(pixels, (size, *pixels.shape[1:]))).to(device)
        return _seconds(lambda: encoder.encode(images, getattr(torch, dtype)).cpu(), most) / size

    few = seconds(min(4, batch), 1)
    if device.type == "cpu":
        few /= threads_busy(batch)  # so few are one pass, of one thread
    return few if few * batch > 4 * SECONDS_EACH else seconds(batch, MOST_REPEATS)


def _reduced(chosen: _Chosen, planned: Collection[str]) -> bool:
    """Whether a stage of the run trains on principal components."""
    proxy = chosen.proxy.model == "mlp" and int(chosen.proxy.pca_dim) and "proxy" in planned
    return bool(proxy or ("pseudo_labels" in planned and int(chosen.pseudo_labels.pca_dim)))


def _components_seconds(dim: int, images: int) -> float:
    """Seconds of the principal components of all images: of few rows, and what each further row adds."""
    rows = _unit_rows(COMPONENT_ROWS, dim)
    few = rows[: min(images, COMPONENT_ROWS // 4)].numpy()
    PrincipalComponents(few[:, :8], 1)  # brings a library
    started = time.perf_counter()
    components = PrincipalComponents(few, 1)
    first = time.perf_counter() - started
    wide = rows.double()
    row = _seconds(lambda: wide.T @ wide) / len(wide)
    projected = _seconds(lambda: components.project(few)) / len(few)
    return first + max(0, min(images, SAMPLE_ROWS) - len(few)) * row + images * projected


def _search_flops(dim: int, images: int, hardware: Hardware) -> float:
    """Operations per second of an exact neighbour search among so many, on all cores or on one GPU."""
    vectors = _unit_rows(min(images, SEARCH_ROWS), dim).numpy()
    queries = vectors[:SEARCH_QUERIES]
    operations = 2.0 * len(queries) * len(vectors) * dim
    if hardware.device == "cuda":
        products = ProductIndex(len(vectors), dim, torch.device("cuda"))
        products.add(vectors)
        return operations / _seconds(lambda: products.search(queries, min(50, images)))
    index = exact_index(vectors, bfloat16=hardware.bfloat16, threads=torch.get_num_threads())
    index.search(queries[:1], 1)  # the first search on a machine waits for a compiler
    return operations / _seconds(lambda: index.search(queries, min(50, images)))


def _pseudo_labels_step(options: PseudoLabelsConfig, dim: int, num_classes: int, device: torch.device) -> float:
    """Seconds of a TEMI step of one worker."""
    width, heads = int(options.pca_dim) or dim, int(options.heads)
    sizes = heads, num_classes, int(options.hidden_dim), int(options.bottleneck_dim)
    temi = TemiOptions(*sizes, dtype=getattr(torch, options.dtype))
    training = TemiTraining(temi, width, 0, device)  # compiled, the first steps would take longer than all others
    rows = 2 * max(1, int(options.batch_size) // int(options.workers))
    views = _unit_rows(rows, width).to(device)

    return _seconds(lambda: training.step(views, 1e-4))


def _proxy_step(options: ProxyConfig, dim: int, num_classes: int, device: torch.device) -> float:
    """Seconds of a step of one worker, with the dynamics of its share of the batch."""
    generator = torch.Generator().manual_seed(0)
    rows = max(1, options.batch_size // int(options.workers))
    on_images = options.model != "mlp"
    examples = _pixels(rows, int(options.image_size)) if on_images else _unit_rows(rows, dim)
    network = build_network(options.model, examples, num_classes, options.hidden_dim, generator=generator).to(device)
    optimizer = sgd(network, float(options.learning_rate), options.momentum, options.weight_decay)
    labels = torch.randint(0, num_classes, (rows,), generator=generator).to(device)
    dynamics, positions = DynamicsAccumulator(rows, device=device), torch.arange(rows, device=device)
    examples, dtype, epoch = examples.to(device), getattr(torch, options.dtype), iter(range(10**6))

    def step() -> None:
        number = next(epoch)
        inputs = prepare_images(examples, Draws(0, number, positions)) if on_images else examples
        logits = train_step(network, optimizer, inputs, labels, 1e-4, dtype=dtype)
        dynamics.update(positions, logits, labels, number)

    return _seconds(step)


def _model_step(
    options: TrainingOptions,
    side: int,
    dim: int,
    coreset: int,
    trainings: int,
    device: torch.device,
    side_by_side: int,
) -> float:
    """Seconds of a step of so many trainings that the evaluation or the search of beta does in one task.

    On one core or a GPU, beside as many other tasks as share the process; those on images one after another.
    """
    # Few samples on embeddings train faster; beyond this nothing changes.
    rows = options.batch_size if side else min(coreset, MOST_ROWS)
    samples = (_pixels(rows, side) if side else _unit_rows(rows, dim)).numpy()
    labels = np.arange(rows) % options.num_classes
    sets = [TrainingSet(np.arange(rows), seed) for seed in range(1 if side else trainings)]
    torch.set_num_threads(1)
    longest = replace(options, steps=MOST_STEPS + 1)
    running = [ClassifierTraining(longest, samples, labels, sets, device=device).steps() for _ in range(side_by_side)]
    for steps in running:
        next(steps)
    with ThreadPoolExecutor(side_by_side) as pool:
        seconds = statistics.mean(pool.map(_seconds_on_one_core, running))
    return seconds * trainings if side else seconds


def _seconds_on_one_core(steps: Iterator[object]) -> float:
    """Mean seconds of a step: who waits for another thread does so now and then, which a median would not see."""
    use_torch_threads(1)
    started, done = time.perf_counter(), 0
    while done < MOST_STEPS and time.perf_counter() - started < SECONDS_EACH:
        next(steps)
        done += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / done
