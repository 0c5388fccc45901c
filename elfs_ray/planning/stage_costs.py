"""What each stage costs: one function for each, from the work of a run and the rates of a machine.

Seconds begin with those of a stage without work: on Ray processes start, measured on the digits; in the process of the
run libraries are imported, by the first stage that needs them, as runs over 300 images showed, rounded.
"""

import math

from elfs_ray.planning.auto_options import GPU_SHARES, trained_together
from elfs_ray.planning.cost import WORKER_BYTES, Cost, Rates, Work, search_seconds, shard_bytes

# Seconds of a stage without work: on Ray, in the process of the run.
STARTS = {
    "session": (5.0, 0.9),
    "listing": (0.5, 0.1),
    "ingest": (2.0, 0.1),
    "embed": (7.0, 3.0),
    "neighbors": (1.5, 0.5),
    "pseudo_labels": (7.0, 0.5),
    "proxy": (7.0, 0.3),
    "beta_search": (6.0, 1.0),
    "evaluate": (1.0, 0.5),
}
# Of a point of the map, on one core; more than some do not help.
MAP_POINT_SECONDS, MAP_CORES = 3e-3, 8
# Of a file of a local folder: its place and size are looked up, and written in the run folder.
LISTING_SECONDS, LISTING_BYTES = 2e-5, 40
# Of the report without pictures; the map has pictures of so many images at most.
REPORT_SECONDS, MOST_PICTURES = 0.4, 1000
# Bytes of a row in the run folder beside vectors: names, numbers, hashes.
SAMPLE_BYTES, PSEUDO_LABEL_BYTES, DYNAMICS_BYTES, MAP_POINT_BYTES = 150, 20, 60, 40


def start_seconds(name: str, work: Work) -> float:
    """Of a stage, or of the session, without work."""
    on_ray, in_process = STARTS[name]
    return on_ray if work.on_ray else in_process


def listing(work: Work, _rates: Rates) -> Cost:
    """Find the files; what reads them is not asked."""
    images = _all_images(work)
    return Cost(start_seconds("listing", work) + images * LISTING_SECONDS, images, images * LISTING_BYTES)


def ingest(work: Work, rates: Rates) -> Cost:
    """Read and check all images, each core some of them."""
    images = _all_images(work)
    seconds = images * rates.check / work.cpus
    return Cost(start_seconds("ingest", work) + seconds, images, int(images * (SAMPLE_BYTES + work.image_bytes)))


def labels(_work: Work, _rates: Rates) -> Cost:
    """Join a table of labels."""
    return Cost(0.1)


def embed(work: Work, rates: Rates) -> Cost:
    """Decode on the cores; encode there too, or beside it on the GPUs."""
    images = _all_images(work)
    decode, encode = images * rates.decode / work.cpus, images * rates.encode / max(1, work.gpus)
    seconds = max(decode, encode) if work.gpus else decode + encode
    return Cost(start_seconds("embed", work) + seconds, images, 2 * images * work.dim)


def neighbors(work: Work, rates: Rates) -> Cost:
    """Search with all shards at once."""
    options, images = work.neighbors, work.images
    seconds = search_seconds(options, images, work.dim, rates.search_flops * max(1, work.gpus), work.cpus)
    shards = int(options.shards)
    on_gpu = work.gpus >= shards and not options.search.startswith("ivf")
    held = shard_bytes(options, math.ceil(images / shards), work.dim, on_gpu=on_gpu)
    started = start_seconds("neighbors", work)
    return Cost(started + seconds, images, 12 * images * int(options.k), shards, held)


def pseudo_labels(work: Work, rates: Rates) -> Cost:
    """Train all heads, and assign the labels in the time of half an epoch."""
    options, images = work.pseudo_labels, work.images
    steps = max(1, images // int(options.batch_size))
    seconds = (int(options.epochs) + 0.5) * steps * rates.pseudo_labels_step
    seconds += rates.components if int(options.pca_dim) else 0
    reduced = 4 * images * int(options.pca_dim)
    held = WORKER_BYTES + _vector_bytes(work) + reduced + 8 * images * int(work.neighbors.k)
    started = start_seconds("pseudo_labels", work)
    return Cost(started + seconds, images, images * PSEUDO_LABEL_BYTES, int(options.workers), held)


def anchor(work: Work, _rates: Rates) -> Cost:
    """Train probes on the labels that are there already."""
    return Cost(2.0, work.images, work.images * PSEUDO_LABEL_BYTES)


def proxy(work: Work, rates: Rates) -> Cost:
    """Train on all workers together, once for each fold."""
    options, images = work.proxy, work.images
    seconds = math.ceil(images / options.batch_size) * int(options.epochs) * options.folds * rates.proxy_step
    if options.model == "mlp":
        seconds += rates.components if int(options.pca_dim) else 0
        inputs = 4 * images * int(options.pca_dim) or _vector_bytes(work)
    else:
        inputs = 3 * images * int(options.image_size) ** 2
    held = WORKER_BYTES + inputs + 200 * images
    started = start_seconds("proxy", work)
    return Cost(started + seconds, images, images * DYNAMICS_BYTES, int(options.workers), held)


def beta_search(work: Work, rates: Rates) -> Cost:
    """Train on the coresets of all candidates, some at a time, each with all its seeds."""
    options = work.beta_search
    trials = work.search_trainings // options.seeds
    rounds = math.ceil(trials / _at_once(work, int(options.image_size)))
    # A step goes forward and back; testing goes forward alone, a third of it.
    steps = int(options.steps) + options.validation_fraction * work.images / (3 * int(options.batch_size))
    return Cost(
        start_seconds("beta_search", work) + rounds * rates.search_step * steps,
        work.search_trainings,
        actors=min(trials, _at_once(work)),
        actor_bytes=WORKER_BYTES + 4 * work.images * work.dim,
    )


def select(_work: Work, _rates: Rates) -> Cost:
    """Rank by scores that are there; methods that compare images take longer."""
    return Cost(0.1)


def evaluate(work: Work, rates: Rates) -> Cost:
    """Train each model on each subset with each seed, some at a time, and on embeddings all seeds at once."""
    seconds, most = 0.0, 0
    for model, options in work.evaluate.items():
        steps = int(options.steps) + work.tested / (3 * int(options.batch_size))
        tasks = work.trainings // (options.seeds if trained_together(options) else 1)
        most = max(most, tasks)
        rounds = math.ceil(tasks / _at_once(work, int(options.image_size)))
        seconds += rounds * rates.evaluate_steps[model] * steps
    # Those on images share theirs.
    on_embeddings = any(options.image_size == 0 for options in work.evaluate.values())
    return Cost(
        start_seconds("evaluate", work) + seconds,
        work.trainings * len(work.evaluate),
        actors=min(most, work.cpus),
        actor_bytes=WORKER_BYTES + 4 * work.tested * work.dim * on_embeddings,
    )


def duplicates(_work: Work, _rates: Rates) -> Cost:
    """Look at the neighbours that are there."""
    return Cost(0.5)


def map(work: Work, _rates: Rates) -> Cost:  # noqa: A001 - the stage's name
    """Place some images in the plane."""
    points = work.map_points
    return Cost(1.5 + points * MAP_POINT_SECONDS / min(work.cpus, MAP_CORES), points, points * MAP_POINT_BYTES)


def coverage(_work: Work, _rates: Rates) -> Cost:
    """Compare a coreset with random subsets."""
    return Cost(0.3)


def report(work: Work, rates: Rates) -> Cost:
    """Draw the charts, the map and the galleries."""
    return Cost(REPORT_SECONDS + min(work.images, MOST_PICTURES) * rates.decode)


def pixels(work: Work, rates: Rates) -> Cost:
    """Decode the images that networks train on, once for each side, whichever stages these are of."""
    images = sum(work.pixels.values())
    seconds = images * (rates.decode or rates.check) / work.cpus
    return Cost(seconds, images, sum(3 * count * side**2 for side, count in work.pixels.items()))


def _all_images(work: Work) -> int:
    """Candidates and separate test images."""
    return work.images + work.test_images


def _vector_bytes(work: Work) -> int:
    """Of the embeddings in a worker: half precision as read, and single precision as used."""
    return 6 * work.images * work.dim


def _at_once(work: Work, image_size: int = 0) -> int:
    """How many short trainings run side by side: on all GPUs, each with its share of one, or on all cores."""
    return int(work.gpus / GPU_SHARES[image_size > 0]) or work.cpus
