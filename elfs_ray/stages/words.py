"""What a run says of its stages: what it is doing, and what came out, in a sentence each.

Runs, `status` and dry runs say the same. Free of everything that takes seconds to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from elfs_ray.artifacts.record import SUPERVISED, TEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from elfs_ray.artifacts.record import Record, Unit
    from elfs_ray.stages.descriptor import Case


def counted(count: int, thing: str, prefix: str = "") -> str:
    """`1 image`, `1,797 images`, `500 test images`."""
    kind = f"test {thing}" if prefix == TEST else thing
    return f"{count:,} {kind}{'' if count == 1 else 's'}"


def images_of(case: Case, count: int) -> str:
    """Those that a unit works on; without a number where they are not counted yet."""
    if count:
        return counted(count, "image", case.unit.prefix)
    return "the test images" if case.unit.prefix == TEST else "the images"


def on_images(doing: str) -> Callable[[Case, int], str]:
    """A sentence with the images in place of `{}`."""
    return lambda case, count: doing.format(images_of(case, count))


def embedding(case: Case, count: int) -> str:
    """With what."""
    embed = case.config.embed
    images = images_of(case, count)
    if embed.vectors is None:
        return f"Embedding {images} with {embed.encoder}"
    return f"Reading the embeddings of {images}"


def training_proxy(case: Case, count: int) -> str:
    """On which labels."""
    labels = "true labels" if case.unit.prefix == SUPERVISED else "pseudo-labels"
    return f"Training the proxy on the {labels} of {images_of(case, count)}"


def selecting(case: Case, _count: int) -> str:
    """How many, by what."""
    return f"Selecting {_coreset(case.unit)}"


def searching(case: Case, _count: int) -> str:
    """For how many."""
    what = "methods and cut-offs" if case.config.select.method == "auto" else "cut-offs"
    return f"Trying {what} for {_coreset(case.unit)}"


def evaluating(case: Case, _count: int) -> str:
    """What is trained, on what."""
    models = ", ".join(dict.fromkeys(case.config.evaluate.models))
    return f"Evaluating {_coreset(case.unit)}: training {models} on them and on random ones"


def covering(case: Case, _count: int) -> str:
    """Of what."""
    return f"Measuring the coverage of {_coreset(case.unit)}"


def listed(record: Record) -> str:
    """How many."""
    return f"Listed {counted(record.metrics['inputs'], 'input', record.unit.prefix)}"


def checked(record: Record) -> str:
    """How many, and how many are bad."""
    inputs, bad = record.metrics["inputs"], record.metrics["quarantined"]
    found = f"{bad:,} of them unusable" if bad else "all usable"
    return f"Checked {counted(inputs, 'image', record.unit.prefix)}, {found}"


def labels_read(record: Record) -> str:
    """How many, of how many classes."""
    images, classes = record.metrics["labelled"], len(record.metrics["classes"])
    named = f"{classes:,} class{'' if classes == 1 else 'es'}"
    return f"Read the labels of {counted(images, 'image', record.unit.prefix)}, of {named}"


def labeled_read(record: Record) -> str:
    """How many."""
    return f"Read the labels that {counted(record.metrics['labelled'], 'image')} have already"


def embedded(record: Record) -> str:
    """With what."""
    images = counted(_rows(record), "image", record.unit.prefix)
    metrics = record.metrics
    if "vectors_used" in metrics:
        return f"Read the embeddings of {images}"
    return f"Embedded {images} with {metrics['encoder']}"


def neighbors_found(record: Record) -> str:
    """How many, and how many of the true ones, where that is not all."""
    metrics = record.metrics
    recall = f", {_percent(metrics['recall'])} of them the true ones" if "recall" in metrics else ""
    neighbors = "nearest neighbour" if metrics["k"] == 1 else f"{metrics['k']:,} nearest neighbours"
    return f"Found the {neighbors} of each of {counted(_rows(record), 'image')}{recall}"


def clustered(record: Record) -> str:
    """How many, and how sure the heads are."""
    metrics, images = record.metrics, counted(_rows(record), "image")
    agree = _percent(metrics["mean_agreement"])
    return f"Clustered {images} into {len(metrics['cluster_sizes']):,} pseudo-classes; the heads agree on {agree}"


def anchored(record: Record) -> str:
    """Whether the known labels helped."""
    known = counted(record.metrics["labeled"], "known label")
    if record.metrics["used"] == "probes":
        return f"Improved the pseudo-labels with {known}"
    return f"Kept the pseudo-labels as they are: {known} would not improve them"


def proxy_trained(record: Record) -> str:
    """What it learned."""
    labels = "true labels" if record.unit.prefix == SUPERVISED else "pseudo-labels"
    metrics = record.metrics
    if "held_out_accuracy" in metrics:
        return f"Trained the proxy ({metrics['model']}): right on {_percent(metrics['held_out_accuracy'])} held out"
    return f"Trained the proxy ({metrics['model']}): it learned {_percent(metrics['train_accuracy'])} of the {labels}"


def searched(record: Record) -> str:
    """What was tried, and what did best."""
    seeds, trainings = record.chosen["seeds"], record.metrics["trainings"]
    found, budget = record.metrics["found"], counted(record.unit.budget, "image")
    choice, beta = found.get("choice"), found.get("beta")
    best = [choice] if choice else []
    if beta is not None:
        best.append(f"drop the hardest {_percent(beta)}" if beta else "drop none of the hardest")
    tried = counted(trainings // seeds, "candidate" if choice else "cut-off")
    return f"Tried {tried} x {counted(seeds, 'seed')} for {budget}: {', '.join(best) or 'nothing to choose'}"


def selected(record: Record) -> str:
    """How many, by what, and how many had labels before."""
    labeled = record.metrics.get("labeled")
    return f"Selected {_coreset(record.unit)}" + (f", {labeled:,} of them labelled before" if labeled else "")


def evaluated(record: Record) -> str:
    """How the coreset did, and random ones."""
    method, told = record.unit.method, []
    for model, compared in record.metrics["models"].items():
        shares = {name: f"{100 * each['mean']:.1f} %" for name, each in compared["subsets"].items()}
        beside = f", with random images on {shares['random']}" if method != "random" else ""
        told.append(f"{model} is right on {shares[method]}{beside}")
    tested = counted(record.metrics["test_samples"], "test image")
    return f"Evaluated {_coreset(record.unit)} on {tested}: {'; '.join(told)}"


def duplicates_found(record: Record) -> str:
    """How many."""
    alike = record.metrics["alike"]
    found = f"{counted(alike, 'image')} {'has' if alike == 1 else 'have'} one" if alike else "no image has one"
    return f"Looked for near-duplicates: {found}"


def mapped(record: Record) -> str:
    """How many."""
    return f"Placed {counted(_rows(record), 'image')} on the map"


def coverage_measured(record: Record) -> str:
    """Beside that of random ones."""
    measured: dict[str, Any] = record.metrics["coverage"]
    values = f"{measured['coreset']:.3f}, of random ones {measured['random']['mean']:.3f}"
    return f"Measured the coverage of {_coreset(record.unit)}: {values}"


def _coreset(unit: Unit) -> str:
    """`180 images by elfs`."""
    return f"{counted(unit.budget, 'image')} by {unit.method}"


def _rows(record: Record) -> int:
    """Of the unit's only artifact."""
    return next(iter(record.rows.values()))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
