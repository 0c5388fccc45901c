"""What `auto` means: the options chosen from the device and the size of the data when a stage starts.

On a GPU the papers' settings; on a CPU settings that end in minutes for tens of thousands of images and were measured
not to lose to the papers' at equal time (docs/design.md).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from elfs_ray.errors import UsageError
from elfs_ray.planning.cost import GIB, exact_search_seconds, gpu_row_bytes, shard_bytes

# The help of the command line needs the names below; pydantic and the whole configuration would be a third of its time.
if TYPE_CHECKING:
    from elfs_ray.config import (
        BetaSearchConfig,
        EmbedConfig,
        EvaluateConfig,
        NeighborsConfig,
        ProxyConfig,
        PseudoLabelsConfig,
        Section,
    )

SectionT = TypeVar("SectionT", bound="Section")

# Threads of one encoder wait for each other when decoding takes a core: two encoders of one thread were a tenth faster
# than one of two (docs/performance.md). But each takes seconds to start.
IMAGES_PER_CPU_ENCODER = 4096

# Above this many rows an index shard is split; below, another process costs more than its threads win.
ROWS_PER_SHARD, MIN_ROWS_PER_SHARD = 2_000_000, 25_000
# A shard on a GPU is split by its memory: so many bytes of rows leave room in one with 16 GB.
GPU_ROWS_BYTES = 10 * GIB

# Neighbours of each sample: TEMI's, of which the published methods that read neighbours use fewer.
NEIGHBORS = 50

# An exact search that takes longer than this gives way to inverted lists. On two cores that is beyond 260,000 rows of
# 1280 or 590,000 of 256; the lists are then about three times as fast and find some 95 % of the neighbours.
EXACT_SECONDS = 1800
# Inverted lists: rows that a list is trained from, at most so many lists, and how many of them a query looks into.
POINTS_PER_LIST, MAX_LISTS, PROBES = 39, 16_384, 64

# SGD with momentum 0.9. An MLP on embeddings diverges from about 0.3 on. As a proxy it learns more slowly: the margins
# then separate wrong pseudo-labels better than those of a network that fits everything in its first epochs.
MLP_LEARNING_RATE = 0.02
MLP_PROXY_LEARNING_RATE = 0.005
RESNET_PROXY_LEARNING_RATE = 0.1
# Principal components that an MLP proxy sees of wider embeddings (docs/results.md).
MLP_PCA_DIM = 256

# Networks that an evaluation trains: optimizer steps, rows of a batch, learning rate. Those of the large ones are the
# papers' (ELFS, section 5.1: 40,000 steps of 256; 300,000 on ImageNet).
EVALUATION_TRAININGS = {
    "linear": (1000, 128, 0.1),
    "mlp": (1000, 128, MLP_LEARNING_RATE),
    "resnet-small": (2000, 128, 0.1),
    "resnet18": (40_000, 256, 0.1),
    "resnet34": (40_000, 256, 0.1),
    "resnet50": (300_000, 256, 0.1),
}
ON_EMBEDDINGS = ("linear", "mlp")
# That an evaluation tests on; of fewer, an accuracy says too little.
MIN_TEST_SAMPLES = 20
# Options of an evaluation that decide the result of a training, beside its data.
TRAINING_OPTIONS = {
    *("hidden_dim", "image_size", "steps", "batch_size", "learning_rate", "weight_decay", "dtype", "hide")
}
# Of a training in the beta search. After four passes over 15,000 images a search with a small ResNet took the easiest,
# after eight harder ones, and these made the better coreset (docs/results.md).
MIN_SEARCH_STEPS, SEARCH_PASSES = 500, 10
# On embeddings a small coreset needs fewer: a hundred passes, but these steps at least (docs/results.md).
FEWEST_SEARCH_STEPS, SMALL_CORESET_PASSES = 200, 100
# Of a GPU for one short training: on embeddings, on images.
GPU_SHARES = {False: 0.25, True: 1.0}
# Pixels a side for images with a median short side up to so many.
IMAGE_SIZES = ((48, 32), (80, 64), (128, 96), (math.inf, 224))


def choose_embed(
    section: EmbedConfig,
    cpus: int,
    gpus: int,
    num_samples: int,
    native_size: int,
    median_side: float,
    *,
    image_dtype: str,
    card_decodes: bool = False,
) -> EmbedConfig:
    """Encoder options.

    Args:
        section: the options asked for.
        cpus: processors of the machine or cluster.
        gpus: GPUs of the machine or cluster.
        num_samples: images to embed.
        native_size: pixels a side that the encoder was trained with.
        median_side: median short side of the images, pixels.
        image_dtype: arithmetic of networks on images.
        card_decodes: whether the libraries decode JPEG on a GPU as the encoder needs it.

    Raises:
        UsageError: a GPU is to decode, and there is none.
    """
    if section.decode == "gpu" and not gpus:
        raise UsageError("embed.decode=gpu needs a GPU, and Ray offers none; use --set embed.decode=auto")
    decode = "gpu" if gpus and card_decodes else "cpu"
    if gpus:
        size, batch, actors = native_size, 256, gpus
    else:
        # A CPU affords small inputs only, and enlarging tiny images further adds cost but no detail.
        size = min(native_size, 128 if median_side <= 64 else 160)
        actors = min(cpus, math.ceil(num_samples / IMAGES_PER_CPU_ENCODER))
        # So that each thread of an encoder has a pass to do (`encoders.base.ROWS_AT_ONCE`), even on many processors.
        batch = min(256, max(64, 8 * (cpus // actors)))
    return _fill(section, image_size=size, dtype=image_dtype, decode=decode, batch_size=batch, actors=actors)


def neighbors_of_each(section: NeighborsConfig, num_samples: int) -> int:
    """How many neighbours a search finds of each sample; whom `auto` leaves out of few samples is near nobody."""
    return min(NEIGHBORS, max(1, (num_samples - 1) // 2)) if section.k == "auto" else int(section.k)


def choose_neighbors(
    section: NeighborsConfig, cpus: int, gpus: int, num_samples: int, embedding_dim: int, memory: float = math.inf
) -> NeighborsConfig:
    """Search, its parameters and index shards.

    Args:
        section: the options asked for.
        cpus: processors of the machine or cluster.
        gpus: GPUs of the machine or cluster.
        num_samples: rows to index, each of them a query.
        embedding_dim: width of the rows.
        memory: bytes that all shards together may take; inverted lists that need more hold codes.
    """
    lists = max(1, min(round(4 * math.sqrt(num_samples)), num_samples // POINTS_PER_LIST, MAX_LISTS))
    lists = lists if section.nlist == "auto" else int(section.nlist)
    bits = 8 if num_samples >= 256 * POINTS_PER_LIST else max(2, min(8, int(math.log2(max(4, num_samples // 16)))))
    chosen = _fill(
        section,
        k=neighbors_of_each(section, num_samples),
        nlist=lists,
        nprobe=min(lists, PROBES),
        pq_m=max(m for m in range(1, max(2, embedding_dim // 8 + 1)) if embedding_dim % m == 0),
        pq_nbits=bits,
    )
    there = gpus
    if num_samples * gpu_row_bytes(section.search, embedding_dim) > gpus * GPU_ROWS_BYTES:
        gpus = 0
    search = chosen.search
    if search == "auto":
        search = "torch"
        if exact_search_seconds(num_samples, embedding_dim, cpus, gpus) > EXACT_SECONDS:
            search = "ivf_flat"
            if shard_bytes(chosen.model_copy(update={"search": search}), num_samples, embedding_dim) > memory:
                search = "ivf_pq"
    if gpus and search in ("faiss", "torch"):
        shards = gpus
    else:
        usual = min(8, cpus // 2, math.ceil(num_samples / MIN_ROWS_PER_SHARD))
        shards = max(math.ceil(num_samples / ROWS_PER_SHARD), usual, 1)
        if there and search in ("faiss", "torch"):
            shards = max(shards, there + 1)  # no more of them than GPUs would mean GPUs
    chosen = chosen.model_copy(update={"search": search})
    oversample = {"ivf_pq": 4.0, "torch": 2.0}.get(search, 1.0)
    return _fill(chosen, shards=min(shards, num_samples), oversample=oversample)


def choose_pseudo_labels(
    section: PseudoLabelsConfig,
    device: str,
    units: int,
    num_samples: int,
    embedding_dim: int,
    *,
    num_classes: int,
    neighbors: int,
) -> PseudoLabelsConfig:
    """TEMI options: the paper's on a GPU; on a CPU fewer, narrower heads on PCA-reduced embeddings.

    Args:
        section: the options asked for.
        device: `cuda` or `cpu`.
        units: GPUs, or processors.
        num_samples: rows to cluster.
        embedding_dim: width of the rows.
        num_classes: clusters.
        neighbors: of each row that were found. Beyond the size of a class they are of other classes.
    """
    section = _fill(section, num_neighbors=max(1, min(neighbors, num_samples // (2 * num_classes))))
    if device == "cuda":
        chosen = _fill(
            section,
            pca_dim=0,
            heads=50,
            hidden_dim=512,
            bottleneck_dim=256,
            batch_size=512,
            epochs=200,
            learning_rate=1e-4,
            teacher_momentum=0.996,
            dtype="bfloat16",
            workers=units,
        )
    else:
        batch = max(16, min(1024, num_samples // 16))
        steps_per_epoch = max(1, num_samples // batch)
        chosen = _fill(
            section,
            pca_dim=min(128, embedding_dim, max(1, num_samples - 1)),
            heads=16,
            hidden_dim=256,
            bottleneck_dim=128,
            batch_size=batch,
            epochs=min(200, max(40, math.ceil(1000 / steps_per_epoch))),
            learning_rate=1e-3,
            teacher_momentum=0.98,
            dtype="float32",
            workers=1,
        )
    batch_size = min(int(chosen.batch_size), num_samples)
    return chosen.model_copy(update={"batch_size": batch_size, "pca_dim": min(int(chosen.pca_dim), embedding_dim)})


def choose_proxy(
    section: ProxyConfig,
    device: str,
    units: int,
    num_samples: int,
    embedding_dim: int,
    median_side: float,
    *,
    image_dtype: str,
    vector_dtype: str = "float32",
) -> ProxyConfig:
    """Proxy options: ResNet-18 on images with a GPU, an MLP on embeddings without, or without images (side 0)."""
    model = section.model if section.model != "auto" else ("resnet18" if device == "cuda" and median_side else "mlp")
    if model != "mlp":
        size, epochs, learning_rate = (32 if median_side <= 48 else 64), 200, RESNET_PROXY_LEARNING_RATE
    else:
        steps_per_epoch = math.ceil(num_samples / section.batch_size)
        size, epochs = 0, min(200, max(30, math.ceil(2000 / steps_per_epoch)))
        learning_rate = MLP_PROXY_LEARNING_RATE
    workers = units if device == "cuda" else 1
    pca_dim = _components(section, num_samples, embedding_dim) if model == "mlp" else 0
    return _fill(
        section.model_copy(update={"model": model, "pca_dim": pca_dim}),
        image_size=size,
        epochs=epochs,
        learning_rate=learning_rate,
        workers=workers,
        dtype=vector_dtype if model == "mlp" else image_dtype,
    )


def _components(section: ProxyConfig, num_samples: int, embedding_dim: int) -> int:
    """Principal components that an MLP proxy sees; 0: all dimensions."""
    wanted = MLP_PCA_DIM if section.pca_dim == "auto" else int(section.pca_dim)
    return min(wanted, num_samples) if wanted < embedding_dim else 0


def choose_evaluations(section: EvaluateConfig, median_side: float, **dtypes: str) -> dict[str, EvaluateConfig]:
    """How the evaluation trains each of its models."""
    return {model: choose_evaluation(section, model, median_side, **dtypes) for model in section.models}


def choose_evaluation(
    section: EvaluateConfig, model: str, median_side: float, *, image_dtype: str, vector_dtype: str = "float32"
) -> EvaluateConfig:
    """How the evaluation trains one model."""
    steps, batch_size, learning_rate = EVALUATION_TRAININGS[model]
    section = _choose_inputs(section, model, median_side, image_dtype, vector_dtype)
    return _fill(section, steps=steps, batch_size=batch_size, learning_rate=learning_rate)


def trained_together(section: EvaluateConfig) -> bool:
    """Whether the evaluation trains all seeds of a model on a subset at once; the section is without `auto`."""
    return section.image_size == 0 and not section.hide


def train_as_evaluated(section: BetaSearchConfig, evaluate: EvaluateConfig) -> BetaSearchConfig:
    """The search trains as the evaluation trains the same model, or would by default where it trains others.

    What the evaluation says for other models is not for this one: a rate that suits a ResNet ruins an MLP.
    """
    options = evaluate if section.model in evaluate.models else type(evaluate)()
    _, batch_size, learning_rate = EVALUATION_TRAININGS[section.model]
    options = _fill(options, batch_size=batch_size, learning_rate=learning_rate)
    same = {name: getattr(options, name) for name in ("batch_size", "learning_rate", "weight_decay")}
    return _fill(section, **same)


def choose_beta_search(
    section: BetaSearchConfig,
    evaluate: EvaluateConfig,
    median_side: float,
    budget: int,
    *,
    image_dtype: str,
    vector_dtype: str = "float32",
) -> BetaSearchConfig:
    """How the search of beta for a budget trains its model."""
    section = train_as_evaluated(section, evaluate)
    batches = budget / int(section.batch_size)
    least = MIN_SEARCH_STEPS
    if section.model in ON_EMBEDDINGS:
        least = min(least, max(FEWEST_SEARCH_STEPS, math.ceil(SMALL_CORESET_PASSES * batches)))
    steps = max(least, math.ceil(SEARCH_PASSES * batches))
    return _fill(_choose_inputs(section, section.model, median_side, image_dtype, vector_dtype), steps=steps)


def _choose_inputs(section: SectionT, model: str, median_side: float, image_dtype: str, vector_dtype: str) -> SectionT:
    """Pixels a side, always 0 on embeddings, and arithmetic of a model."""
    size = _pixels_a_side(model, median_side)
    if model in ON_EMBEDDINGS:
        section = section.model_copy(update={"image_size": 0})
    return _fill(section, image_size=size, dtype=image_dtype if size else vector_dtype)


def _pixels_a_side(model: str, median_side: float) -> int:
    """What a network sees; `resnet-small` at most 64, being made for a CPU; 0 on embeddings."""
    if model in ON_EMBEDDINGS:
        return 0
    size = next(size for bound, size in IMAGE_SIZES if median_side <= bound)
    return min(size, 64) if model == "resnet-small" else size


def _fill(section: SectionT, **choices: object) -> SectionT:
    """The section with each option that still says `auto` replaced."""
    return section.model_copy(
        update={name: value for name, value in choices.items() if getattr(section, name) == "auto"}
    )
