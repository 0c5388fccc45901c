"""What work needs before it is done: bytes and seconds from counts alone. Nothing here looks at a machine or a file.

Symbols: n rows, d width of the embeddings, float32 is 4 bytes and float16 is 2.
"""

import math
from dataclasses import dataclass, field

from elfs_ray.config import BetaSearchConfig, ClusterConfig, EvaluateConfig, NeighborsConfig, ProxyConfig

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

# Of `search=torch`: products that are held at once, on processors; as much again for the work on them.
PRODUCT_BYTES = 2**28
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
        held = rows * 4 * dim + (2 * PRODUCT_BYTES if options.search == "torch" else 0)
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


# Seconds that a stage takes whatever its size: processes that start, checkpoints, files. Measured on the digits.
STAGE_SECONDS = {
    "ingest": 2.0,
    "labels": 0.1,
    "embed": 7.0,
    "neighbors": 1.5,
    "cluster": 7.0,
    "anchor": 2.0,
    "proxy": 7.0,
    "beta-search": 6.0,
    "select": 0.1,
    "evaluate": 1.0,
    "duplicates": 0.5,
    "map": 1.5,
    "coverage": 0.3,
    "report": 2.0,
}
SESSION_SECONDS = 5.0
# Lists are read row by row, not in blocks that caches hold; measured beside exact search. Ranking, for each core.
LIST_SLOWDOWN, RANKING_FLOPS = 8.0, 2e9
KMEANS_POINTS, KMEANS_STEPS = 39, 10
TRIALS_ON_A_GPU = 4
# Of a point of the map, on one core; more than some do not help.
MAP_POINT_SECONDS, MAP_CORES = 3e-3, 8
# Bytes of a row in the run folder beside vectors: names, numbers, hashes.
ROW_BYTES = {"samples": 150, "pseudo_labels": 20, "dynamics": 60, "map": 40}


@dataclass(frozen=True)
class Rates:
    """Seconds of one unit of work on one machine, and its exact search in products.

    Attributes:
        check: seconds of an image on one core, with reading it.
        decode: seconds of an image on one core, with reading it.
        encode: seconds of an image on one GPU, or on all cores.
        search_flops: operations per second of an exact search, on all cores or one GPU.
        cluster_step: seconds of a step of one training worker.
        proxy_step: seconds of a step of one training worker.
        search_step: seconds of a step of the model of the beta search, on one core or a GPU.
        evaluate_steps: seconds of a step of each model of the evaluation, on one core or a GPU.
    """

    check: float
    decode: float
    encode: float
    search_flops: float
    cluster_step: float
    proxy_step: float
    search_step: float
    evaluate_steps: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What a run would do: counts, and the options that it would choose.

    Attributes:
        stages: to run, in order; one for each budget where a stage runs for each.
        images: candidates.
        test_images: separate test images.
        dim: width of the embeddings.
        image_bytes: that the run folder keeps of each image; 0 where the input stays outside.
        search_trainings: of the beta search for one budget.
        trainings: of the evaluation of one budget, with each model.
        tested: samples that each training of the evaluation is tested on.
        map_points: images that the report's map places.
    """

    stages: tuple[str, ...]
    images: int
    test_images: int
    dim: int
    image_bytes: float
    search_trainings: int
    trainings: int
    tested: int
    map_points: int
    neighbors: NeighborsConfig
    cluster: ClusterConfig
    proxy: ProxyConfig
    beta_search: BetaSearchConfig
    evaluate: dict[str, EvaluateConfig]
    cpus: int
    gpus: int


@dataclass(frozen=True)
class StageEstimate:
    """What one stage is expected to take.

    Attributes:
        stage: its name.
        rows: that it works on or writes.
        seconds: wall-clock time.
        disk_bytes: that it leaves in the run folder.
        actors: processes that hold the data, beside the driver.
        actor_bytes: memory of each.
    """

    stage: str
    rows: int
    seconds: float
    disk_bytes: int
    actors: int
    actor_bytes: int


def estimate(work: Work, rates: Rates) -> list[StageEstimate]:
    """One line for each stage, in order; a stage that runs for each budget has one line for all."""
    found = []
    for stage in dict.fromkeys(work.stages):
        times = work.stages.count(stage) if stage in ("beta-search", "select", "evaluate", "coverage") else 1
        seconds = STAGE_SECONDS[stage] + _stage_seconds(stage, work, rates)
        rows, disk = _written(stage, work)
        actors, memory = _held(stage, work)
        found.append(StageEstimate(stage, rows * times, seconds * times, disk * times, actors, memory))
    return found


def search_seconds(
    options: NeighborsConfig, num_samples: int, dim: int, flops: float, cpus: int, gpus: int = 0
) -> float:
    """Seconds of the neighbour search when an exact one does `flops` operations per second."""
    if options.search == "torch" and gpus >= int(options.shards):
        return 2.0 * num_samples**2 * dim / flops  # measured with the ranking
    ranking = 2.0 * num_samples * (options.k + 17) * dim * float(options.oversample) / (cpus * RANKING_FLOPS)
    if not options.search.startswith("ivf"):
        return 2.0 * num_samples**2 * dim / flops + ranking
    lists = int(options.nlist)
    training = 2.0 * KMEANS_STEPS * lists * min(num_samples, KMEANS_POINTS * lists) * dim / flops
    looked_at = num_samples * int(options.nprobe) / lists * LIST_GROWTH
    # A block's cells are found on one core; the sorting of the rows into cells is once more the same.
    cells = 2 * 2.0 * num_samples * lists * dim / flops
    return training + cells + 2.0 * num_samples * looked_at * dim * LIST_SLOWDOWN / flops + ranking


def _stage_seconds(stage: str, work: Work, rates: Rates) -> float:
    """What grows with the work."""
    images = work.images + work.test_images
    if stage == "ingest":
        return images * rates.check / work.cpus
    if stage == "embed":
        decode, encode = images * rates.decode / work.cpus, images * rates.encode / max(1, work.gpus)
        return max(decode, encode) if work.gpus else decode + encode
    if stage == "neighbors":
        flops = rates.search_flops * max(1, work.gpus)
        return search_seconds(work.neighbors, work.images, work.dim, flops, work.cpus, work.gpus)
    if stage in ("cluster", "proxy"):
        return _network_seconds(stage, work, rates)
    if stage == "map":
        return work.map_points * MAP_POINT_SECONDS / min(work.cpus, MAP_CORES)
    return _classifier_seconds(stage, work, rates) if stage in ("beta-search", "evaluate") else 0.0


def _network_seconds(stage: str, work: Work, rates: Rates) -> float:
    """The long trainings, on all workers together."""
    if stage == "proxy":
        steps = math.ceil(work.images / work.proxy.batch_size)
        return steps * int(work.proxy.epochs) * work.proxy.folds * rates.proxy_step
    steps = max(1, work.images // int(work.cluster.batch_size))
    return (int(work.cluster.epochs) + 0.5) * steps * rates.cluster_step  # half an epoch to assign the labels


def _classifier_seconds(stage: str, work: Work, rates: Rates) -> float:
    """The short trainings, some at a time."""
    at_once = TRIALS_ON_A_GPU * work.gpus or work.cpus
    if stage == "beta-search":
        together = work.gpus if work.gpus and work.beta_search.image_size else at_once
        tested = work.beta_search.validation_fraction * work.images
        steps = int(work.beta_search.steps) + tested / (3 * 128)
        one_after_another = _trainings_of_a_trial(work)
        rounds = math.ceil(work.search_trainings / one_after_another / together)
        return rounds * one_after_another * rates.search_step * steps
    seconds = 0.0
    for model, options in work.evaluate.items():
        together = work.gpus if work.gpus and options.image_size else at_once
        # A step goes forward and back; testing goes forward alone, a third of it.
        steps = int(options.steps) + work.tested / (3 * int(options.batch_size))
        seconds += math.ceil(work.trainings / together) * rates.evaluate_steps[model] * steps
    return seconds


def _trainings_of_a_trial(work: Work) -> int:
    """How many trainings a trial of the beta search does one after another: with ASHA all of a candidate."""
    return work.beta_search.seeds if work.beta_search.scheduler == "asha" else 1


def _written(stage: str, work: Work) -> tuple[int, int]:
    """Rows and bytes that a stage leaves in the run folder."""
    images, of_pseudo_labels = work.images + work.test_images, work.images * ROW_BYTES["pseudo_labels"]
    written = {
        "ingest": (images, int(images * (ROW_BYTES["samples"] + work.image_bytes))),
        "embed": (images, 2 * images * work.dim),
        "neighbors": (work.images, 12 * work.images * work.neighbors.k),
        "cluster": (work.images, of_pseudo_labels),
        "anchor": (work.images, of_pseudo_labels),
        "proxy": (work.images, work.images * ROW_BYTES["dynamics"]),
        "beta-search": (work.search_trainings, 0),
        "evaluate": (work.trainings * len(work.evaluate), 0),
        "map": (work.map_points, work.map_points * ROW_BYTES["map"]),
    }
    return written.get(stage, (0, 0))


def _held(stage: str, work: Work) -> tuple[int, int]:
    """How many processes hold the data, and the bytes of each; 0 where they hold but a chunk."""
    images, dim = work.images, work.dim
    # Half precision as read, and single precision as used.
    vectors = 6 * images * dim
    if stage == "neighbors":
        count = int(work.neighbors.shards)
        on_gpu = work.gpus >= count and not work.neighbors.search.startswith("ivf")
        return count, shard_bytes(work.neighbors, math.ceil(images / count), dim, on_gpu=on_gpu)
    if stage == "cluster":
        reduced = 4 * images * int(work.cluster.pca_dim)
        return int(work.cluster.workers), WORKER_BYTES + vectors + reduced + 8 * images * work.neighbors.k
    if stage == "proxy":
        inputs = 3 * images * int(work.proxy.image_size) ** 2 if work.proxy.model != "mlp" else vectors
        return int(work.proxy.workers), WORKER_BYTES + inputs + 200 * images
    if stage == "beta-search":
        at_once = TRIALS_ON_A_GPU * work.gpus or work.cpus
        return min(work.search_trainings // _trainings_of_a_trial(work), at_once), WORKER_BYTES + 4 * images * dim
    if stage == "evaluate":
        # Those on images share theirs.
        on_embeddings = any(options.image_size == 0 for options in work.evaluate.values())
        return min(work.trainings, work.cpus), WORKER_BYTES + 4 * work.tested * dim * on_embeddings
    return 0, 0
