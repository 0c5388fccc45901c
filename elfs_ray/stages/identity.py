"""What stages read, and what beside it decides their results: names of artifacts, and plain values of options.

Free of everything that takes seconds to import: `--help` and `status` read all stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from elfs_ray.artifacts.filesystems import without_options
from elfs_ray.artifacts.manifest import read_records
from elfs_ray.artifacts.record import SUPERVISED, Unit
from elfs_ray.errors import UsageError
from elfs_ray.planning.auto_options import ON_EMBEDDINGS, train_as_evaluated

# What needs torch is imported where it is used: every worker imports this package, and most do without.
if TYPE_CHECKING:
    from elfs_ray.config import RunConfig
    from elfs_ray.methods import SelectionMethod
    from elfs_ray.stages.descriptor import Case


def method_of(config: RunConfig) -> SelectionMethod:
    """The method that selects, with its options."""
    from elfs_ray.methods import get_method

    return get_method(config.select.method, **config.select.options)


def is_searched(config: RunConfig) -> bool:
    """Whether a search finds options of the method."""
    return method_of(config).searched and config.select.beta is None


def uses_pseudo_labels(config: RunConfig) -> bool:
    """Whether the method, its balance or its search goes by clusters; a supervised baseline does not."""
    from elfs_ray.methods import Needs, balances

    method = method_of(config)
    needed = method.requirements() & {Needs.PSEUDO_LABELS, Needs.DYNAMICS}
    return not config.select.supervised and (
        bool(needed) or balances(method, config.select.balance) or is_searched(config)
    )


def check_num_classes(config: RunConfig) -> None:
    """Refuse a method that works with pseudo-labels where nobody said how many classes there are.

    Raises:
        UsageError: that is so.
    """
    if config.num_classes is None and uses_pseudo_labels(config):
        balanced = " with --balance cluster" if config.select.balance == "cluster" else ""
        raise UsageError(
            f"method {config.select.method!r}{balanced} works with pseudo-labels, which need the number of classes you "
            "expect; pass --num-classes (num_classes in Python), or take a method that needs none, such as zcore"
        )


def labels_in_use(config: RunConfig) -> str:
    """Name of the labels that selection works with: pseudo-labels, unless the run is a supervised baseline."""
    if config.select.supervised:
        return "labels_true"
    return "pseudo_labels" if config.select.labeled is None else "pseudo_labels_anchored"


def true_labels(config: RunConfig, prefix: str) -> str:
    """Where the true labels of the candidates, or of the test images, are.

    Raises:
        UsageError: there are test images, and no labels.
    """
    spec = (config.evaluate.test_labels if prefix else None) or config.evaluate.labels
    if spec is None:
        raise UsageError("test images are given without labels; pass --labels, and --test-labels if they differ")
    return spec


def dynamics_in_use(config: RunConfig) -> str:
    """Name of the training dynamics on these labels."""
    return Unit("proxy", SUPERVISED if config.select.supervised else "").artifact("dynamics")


def of_method(config: RunConfig) -> tuple[str, ...]:
    """What the selection method reads."""
    from elfs_ray.methods import Needs, balances

    method = method_of(config)
    needs = method.requirements()
    names = {
        "embeddings": Needs.EMBEDDINGS in needs,
        "neighbors": Needs.NEIGHBORS in needs,
        labels_in_use(config): Needs.PSEUDO_LABELS in needs or balances(method, config.select.balance),
        dynamics_in_use(config): Needs.DYNAMICS in needs,
        "labels_known": config.select.labeled is not None,
    }
    return ("samples", *(name for name, needed in names.items() if needed))


def for_labeled(case: Case) -> tuple[str, ...]:
    """What the labels that are there already are of, and read from."""
    return ("samples", "quarantine", *_of_column(case.config.select.labeled, "listing"))


def _of_column(labels: str | None, listing: str) -> tuple[str, ...]:
    """The listing of an input, if labels are a column of it: what samples rest on leaves such columns out."""
    from elfs_ray.data.labels import COLUMN_PREFIX

    return (listing,) if labels is not None and labels.startswith(COLUMN_PREFIX) else ()


def for_labels(case: Case) -> tuple[str, ...]:
    """Test images have the classes of the candidates, and one file may hold the labels of both."""
    own = (case.unit.artifact("samples"), case.unit.artifact("quarantine"))
    listing = _of_column(true_labels(case.config, case.unit.prefix), case.unit.artifact("listing"))
    return (*own, *listing, "labels_true") if case.unit.prefix else (*own, *listing)


def for_embed(case: Case) -> tuple[str, ...]:
    """Test images go through the encoder of the candidates."""
    own = case.unit.artifact("samples")
    return (own, "embeddings") if case.unit.prefix else (own,)


def for_proxy(case: Case) -> tuple[str, ...]:
    """What the network sees is settled when the stage starts, with the device."""
    labels = "labels_true" if case.unit.prefix == SUPERVISED else labels_in_use(case.config)
    return "samples", "embeddings", labels


def for_search(case: Case) -> tuple[str, ...]:
    """Of the method, and of the model that trials train."""
    config = case.config
    seen = "embeddings" if config.beta_search.model in ON_EMBEDDINGS else "samples"
    return (*dict.fromkeys((*of_method(config), labels_in_use(config), seen)),)


def for_select(case: Case) -> tuple[str, ...]:
    """Of the method, and the options that a search found."""
    return (*of_method(case.config), *(["beta_search"] if is_searched(case.config) else []))


def for_evaluate(case: Case) -> tuple[str, ...]:
    """Candidates and test images, with labels, as the models see them."""
    config = case.config.evaluate
    kinds = ["samples", "labels_true"]
    if set(config.models) & set(ON_EMBEDDINGS) and config.embeddings_of is None:
        kinds.append("embeddings")
    prefixes = ("", "test/") if config.test_input else ("",)
    return ("coresets", *(prefix + kind for prefix in prefixes for kind in kinds))


def of_listing(case: Case) -> Any:
    """Where the input is, and what it is read as. How an object store is reached counts nowhere."""
    location = case.config.evaluate.test_input if case.unit.prefix else case.config.location
    ingest = case.config.ingest
    return [without_options(location or ""), ingest.input_kind, ingest.image_column, ingest.id_column]


def of_labels(case: Case) -> Any:
    """The true labels of the candidates or of the test images."""
    from elfs_ray.data.labels import labels_signature

    spec = true_labels(case.config, case.unit.prefix)
    return [without_options(spec), labels_signature(spec)]


def of_labeled(case: Case) -> Any:
    """The labels that are there already."""
    from elfs_ray.data.labels import labels_signature

    spec = case.config.select.labeled
    return spec and [without_options(spec), labels_signature(spec)]


def of_embed(case: Case) -> Any:
    """An encoder, or vectors that are there already."""
    from elfs_ray.data.vectors import vectors_signature
    from elfs_ray.encoders import weights_signature

    embed = case.config.embed
    options = embed.identity()
    vectors, test_vectors = options.pop("vectors"), options.pop("test_vectors")
    if vectors is not None:
        return vectors_signature(test_vectors or vectors if case.unit.prefix else vectors)
    return options if embed.weights is None else {**options, "weights_signature": weights_signature(embed.weights)}


def of_select(case: Case) -> list[Any]:
    """Method and budget."""
    select = case.config.select
    named = [case.unit.method, select.options, select.balance]
    return [*named, select.beta, case.config.seed, case.unit.budget]


def of_search(case: Case) -> Any:
    """Of the trials, and what they select."""
    config = case.config
    trained = train_as_evaluated(config.beta_search, config.evaluate).identity()
    return [trained, config.proxy.hidden_dim, *of_select(case)]


def of_evaluate(case: Case) -> Any:
    """What the labels and test images hold counts through the inputs; not how they are reached."""
    options = {
        name: without_options(value) if isinstance(value, str) else value
        for name, value in case.config.evaluate.identity().items()
    }
    if other := options.pop("embeddings_of"):
        embedded = read_records(other).current.get(Unit("embed"))
        options["embeddings_of"] = embedded and embedded.content
    return options
