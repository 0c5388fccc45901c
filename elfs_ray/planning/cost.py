"""What work needs before it is done: bytes and seconds from counts alone. Nothing here looks at a machine or a file.

Each stage has a function in `stage_costs` that gives its `Cost`.
Symbols: n rows, d width of the embeddings, float32 is 4 bytes and float16 is 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elfs_ray.config import BetaSearchConfig, EvaluateConfig, NeighborsConfig, ProxyConfig, PseudoLabelsConfig

GIB = 2**30

# What a Ray worker takes beside its data; measured: 480 MiB with torch and faiss imported, the rest Arrow's buffers.
WORKER_BYTES = 700 * 2**20
# Inverted lists grow by doubling; measured, 1.3 times what they hold, and an id and a place for each row.
LIST_GROWTH, LIST_ROW_BYTES = 1.35, 16
# Rows that are normalised or added at a time, and candidates whose vectors are looked at together.
CHUNK_ROWS = 16_384

# Products per second of an exact search, deliberately low: for each core 50 GFLOP/s, for each GPU 20 TFLOP/s, a third
# of what the slowest in use promise.
CORE_FLOPS, GPU_FLOPS = 50e9, 20e12

# Of `search=torch` on processors: products of a block, also in bfloat16; rows of the block, which are rounded beside.
PRODUCT_BYTES, BLOCK_ROWS = 2**28, 32_768
# Beside the rows in a GPU: blocks of products and of candidates' rows at their smallest, or what faiss sets aside.
GPU_WORK_BYTES = 3 * 2**29
# Main memory of a process that uses a GPU, for CUDA and its libraries; assumed, not measured.
CUDA_BYTES = 2**30


def exact_search_seconds(num_samples: int, dim: int, cpus: int, gpus: int) -> float:
    """Seconds of a search that compares every row with every other: 2 n^2 d operations."""
    return 2.0 * num_samples**2 * dim / (gpus * GPU_FLOPS or cpus * CORE_FLOPS)


def shard_bytes(options: NeighborsConfig, rows: int, dim: int, *, on_gpu: bool = False) -> int:
    """Bytes of main memory that an index shard takes, at most.

    Args:
        options: of the search, without `auto`.
        rows: that the shard holds.
        dim: width of the embeddings.
        on_gpu: an exact index is in the GPU's memory; with faiss the shard keeps float16 rows to rank by.
    """
    lists = 0
    if options.search == "ivf_flat":
        held = rows * (LIST_GROWTH * 4 * dim + LIST_ROW_BYTES)
    elif options.search == "ivf_pq":
        code = int(options.pq_m) * int(options.pq_nbits) / 8
        held = rows * (2 * dim + LIST_GROWTH * code + LIST_ROW_BYTES)
    elif on_gpu:
        held = CUDA_BYTES + (rows * 2 * dim if options.search == "faiss" else 0)
    else:
        held = rows * 4 * dim
        if options.search == "torch":
            held += PRODUCT_BYTES + 6 * dim * min(rows, BLOCK_ROWS)
    if options.search.startswith("ivf"):
        lists = 4 * dim * int(options.nlist)
        if options.search == "ivf_pq":
            lists += 4 * dim * 2 ** int(options.pq_nbits)
    # The trained lists come as bytes and are read; a chunk is read in half precision, then normalised.
    work = 3 * 4 * dim * CHUNK_ROWS + 4 * dim * options.query_rows
    return int(WORKER_BYTES + held + 2 * lists + work)


def gpu_row_bytes(search: str, dim: int) -> int:
    """Bytes of GPU memory that an exact index takes for each row: float32, or float16 and a length."""
    return 4 * dim if search == "faiss" else 2 * dim + 8


# Lists are read row by row, not in blocks that caches hold; measured beside exact search. Ranking, for each core.
LIST_SLOWDOWN, RANKING_FLOPS = 8.0, 2e9
KMEANS_POINTS, KMEANS_STEPS = 39, 10


@dataclass(frozen=True)
class Rates:
    """Seconds of one unit of work on one machine, and its exact search in products.

    Attributes:
        check: seconds of an image on one core, with reading it.
        decode: seconds of an image on one core, with reading it.
        encode: seconds of an image on one GPU, or on all cores.
        search_flops: operations per second of an exact search, on all cores or one GPU.
        pseudo_labels_step: seconds of a step of one training worker.
        proxy_step: seconds of a step of one training worker.
        search_step: seconds of a step of a trial of the beta search, with all its seeds, on one core or a GPU.
        evaluate_steps: seconds of a step of each model of the evaluation, with all seeds that are trained together, on
            one core or a GPU.
        components: seconds of the principal components of all candidates.
    """

    check: float
    decode: float
    encode: float
    search_flops: float
    pseudo_labels_step: float
    proxy_step: float
    search_step: float
    evaluate_steps: dict[str, float] = field(default_factory=dict)
    components: float = 0.0


@dataclass(frozen=True)
class Work:
    """What a run would do: counts, and the options that it would choose.

    Attributes:
        images: candidates.
        test_images: separate test images.
        dim: width of the embeddings.
        image_bytes: that the run folder keeps of each image; 0 where the input stays outside.
        search_trainings: of the beta search for one budget.
        trainings: of the evaluation of one budget, with each model.
        tested: samples that each training of the evaluation is tested on.
        map_points: images that the report's map places.
        pixels: images that networks see, by pixels a side.
        on_ray: whether the run works on Ray, or in its own process.
    """

    images: int
    test_images: int
    dim: int
    image_bytes: float
    search_trainings: int
    trainings: int
    tested: int
    map_points: int
    neighbors: NeighborsConfig
    pseudo_labels: PseudoLabelsConfig
    proxy: ProxyConfig
    beta_search: BetaSearchConfig
    evaluate: dict[str, EvaluateConfig]
    cpus: int
    gpus: int
    pixels: dict[int, int] = field(default_factory=dict)
    on_ray: bool = True


@dataclass(frozen=True)
class Cost:
    """What a stage is expected to take.

    Attributes:
        seconds: wall-clock time, with what it takes whatever its size: processes that start, checkpoints, files.
        rows: that it works on or writes.
        disk_bytes: that it leaves in the run folder.
        actors: processes that hold the data, beside the driver; 0 where they hold but a chunk.
        actor_bytes: memory of each.
    """

    seconds: float
    rows: int = 0
    disk_bytes: int = 0
    actors: int = 0
    actor_bytes: int = 0

    def repeated(self, times: int) -> Cost:
        """Of the same work done one after another."""
        return replace(self, seconds=self.seconds * times, rows=self.rows * times, disk_bytes=self.disk_bytes * times)


@dataclass(frozen=True, kw_only=True)
class StageEstimate(Cost):
    """The cost of a stage, by its name."""

    stage: str


def estimate(
    stages: Iterable[tuple[str, Callable[[Work, Rates], Cost], int]], work: Work, rates: Rates
) -> list[StageEstimate]:
    """One line for each stage, in order.

    Args:
        stages: the name of each, its function, and how many times it runs: once for each budget, or once.
        work: of the run.
        rates: of the machine.
    """
    costs = ((name, function(work, rates).repeated(times)) for name, function, times in stages)
    return [StageEstimate(stage=name, **vars(cost)) for name, cost in costs]


def search_seconds(options: NeighborsConfig, num_samples: int, dim: int, flops: float, cpus: int) -> float:
    """Seconds of the neighbour search when an exact one does `flops` operations per second."""
    if options.search == "torch":
        return 2.0 * num_samples**2 * dim / flops  # measured with the ranking
    ranking = 2.0 * num_samples * (int(options.k) + 17) * dim * float(options.oversample) / (cpus * RANKING_FLOPS)
    if not options.search.startswith("ivf"):
        return 2.0 * num_samples**2 * dim / flops + ranking
    lists = int(options.nlist)
    training = 2.0 * KMEANS_STEPS * lists * min(num_samples, KMEANS_POINTS * lists) * dim / flops
    looked_at = num_samples * int(options.nprobe) / lists * LIST_GROWTH
    # A block's cells are found on one core; the sorting of the rows into cells is once more the same.
    cells = 2 * 2.0 * num_samples * lists * dim / flops
    return training + cells + 2.0 * num_samples * looked_at * dim * LIST_SLOWDOWN / flops + ranking
