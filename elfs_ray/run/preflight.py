"""Wrong uses that can be known before any work, or before the long stages."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING

from elfs_ray.artifacts.filesystems import check_bucket, without_options
from elfs_ray.artifacts.manifest import MANIFEST
from elfs_ray.artifacts.record import TEST
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config import RunConfig
from elfs_ray.core.pruning import budget_count
from elfs_ray.data.labels import check_labels, labels_signature
from elfs_ray.errors import UsageError
from elfs_ray.methods import Needs, SelectionMethod, balances
from elfs_ray.planning.auto_options import MIN_TEST_SAMPLES, ON_EMBEDDINGS, neighbors_of_each
from elfs_ray.stages import STAGES, stage_named
from elfs_ray.stages.identity import check_num_classes, method_of, true_labels
from elfs_ray.stages.parts.listed import prefixes_of

if TYPE_CHECKING:
    from elfs_ray.data.sources import Source


CLUSTERED = ("pseudo-labels", "anchor", "proxy")
"""Commands of stages that form clusters, or go by them, whatever the method needs."""


def check_before_start(
    configs: Sequence[RunConfig],
    store: RunFolder,
    until: str,
    list_inputs: "Callable[[], Mapping[str, Source]]",
) -> "Mapping[str, Source]":
    """Refuse what can be known to be wrong before any work: names, files, budgets, a run folder of another run.

    Args:
        configs: one for each method.
        store: the run folder.
        until: the last command.
        list_inputs: lists inputs, once all else is right.

    Returns:
        The listed inputs by prefix. If some are missing, `check_inputs` is to be called when they are listed.
    """
    known = [*(stage.command for stage in STAGES), "report"]
    if until not in known:
        raise UsageError(f"unknown stage {until!r}; the stages are {', '.join(known)}")
    if until == "evaluate" and not configs[0].evaluate.labels:
        raise UsageError("the evaluation needs true labels; pass --labels")
    for config in configs:
        method = method_of(config)
        check_num_classes(config)
        if until in CLUSTERED and not config.select.supervised and config.num_classes is None:
            raise UsageError(f"{until} needs the number of classes that you expect; pass --num-classes")
        _check_scores(config, method)
        _check_supervision(config, method)
        check_embeddings(config)
        check_pictures(config)
        for spec, _ in _labels_of(config):
            labels_signature(spec)
        for budget in config.budgets:
            if budget <= 0 or isinstance(budget, float):
                budget_count(budget, 10**12)
    _check_run_folder(store, configs[0])
    listed = list_inputs()
    if set(listed) == set(prefixes_of(configs[0])):
        for config in configs:
            check_inputs(config, listed)
    return listed


def _check_run_folder(store: RunFolder, config: RunConfig) -> None:
    check_bucket(store.uri)
    if store.is_file:
        raise UsageError(f"{store.uri} is a file, not a folder; choose another --out")
    manifest = store.manifest()
    if manifest and without_options(manifest["input"]) != without_options(config.location):
        raise UsageError(
            f"{store.uri} holds a run over {manifest['input']}, not over {config.location}; choose another --out"
        )
    if not manifest and [name for name in store.names() if not name.startswith(".")]:
        raise UsageError(f"{store.uri} is not empty and holds no run ({MANIFEST} is missing); choose another --out")


def check_inputs(config: RunConfig, listed: "Mapping[str, Source]") -> None:
    """Refuse labels, budgets and vectors that do not fit the listed inputs, which are given by prefix."""
    for spec, prefix in _labels_of(config):
        check_labels(spec, listed[prefix], config.ingest.id_column)
    for budget in config.budgets:
        budget_count(budget, listed[""].count)
    vectors = {"": config.embed.vectors, TEST: config.embed.test_vectors or config.embed.vectors}
    for prefix, source in listed.items():
        check_rows(vectors[prefix], config, source)


def _labels_of(config: RunConfig) -> list[tuple[str, str]]:
    """All labels that a run reads, each with the prefix of the input that they are of."""
    found = [] if config.select.labeled is None else [(config.select.labeled, "")]
    if stage_named("labels").wanted(config, frozenset()):
        found += [(true_labels(config, prefix), prefix) for prefix in prefixes_of(config)]
    return found


def check_embeddings(config: RunConfig) -> None:
    """Refuse an encoder that cannot be, or vectors that are not there."""
    from elfs_ray.data.vectors import open_vectors
    from elfs_ray.encoders import check_encoder

    embed = config.embed
    if embed.vectors is None:
        if embed.test_vectors is not None:
            raise UsageError("embed.test_vectors needs embed.vectors, those of the candidates; pass --embeddings")
        check_encoder(embed.encoder, embed.weights)
        return
    vectors = open_vectors(embed.vectors, config.ingest.id_column)
    if embed.test_vectors is not None:
        open_vectors(embed.test_vectors, config.ingest.id_column)
    elif config.evaluate.test_input and not vectors.has_ids:
        raise UsageError(
            f"{vectors.location} has no ids, so that its rows are those of the candidates; "
            "pass those of the test images with --set embed.test_vectors=FILE"
        )


def check_pictures(config: RunConfig) -> None:
    """Refuse what needs images in a run over embeddings alone."""
    if config.input is not None:
        return
    asked: dict[str, list[str]] = {"proxy.model": [config.proxy.model], "beta_search.model": [config.beta_search.model]}
    if config.evaluate.labels:
        asked["evaluate.models"] = list(config.evaluate.models)
    for option, models in asked.items():
        for model in models:
            if model not in ("auto", *ON_EMBEDDINGS):
                raise UsageError(
                    f"{option}={model} trains on images, and there are only embeddings; use mlp, or pass --input"
                )
    if config.evaluate.test_input:
        raise UsageError(
            f"evaluate.test_input={config.evaluate.test_input} holds images, and the candidates have none; leave it "
            "out, or pass --input"
        )


def check_rows(location: str | None, config: RunConfig, source: "Source") -> None:
    """Refuse vectors, if any, that have no ids and are not as many as the images."""
    from elfs_ray.data.vectors import open_vectors

    if location is None:
        return
    vectors = open_vectors(location, config.ingest.id_column)
    if not vectors.has_ids and vectors.rows != source.count:
        raise UsageError(
            f"{vectors.location} has {vectors.rows:,} rows and no ids, and {source.location} {source.count:,} images; "
            "give a row for each in their order, or the id of each row on a line of a file NAME.ids.txt beside it"
        )


def _check_scores(config: RunConfig, method: SelectionMethod) -> None:
    """Refuse a method that goes by a score which the proxy will not record."""
    if getattr(method, "score", None) == "tdds" and not config.proxy.tdds:
        raise UsageError(
            f"method {method.name!r} goes by the score 'tdds', which the proxy records only on demand; "
            "pass --set proxy.tdds=true"
        )


def _check_supervision(config: RunConfig, method: SelectionMethod) -> None:
    """Refuse a supervised baseline that has no labels, or that labels would not change."""
    select = config.select
    if not select.supervised:
        return
    if config.evaluate.labels is None:
        raise UsageError("select.supervised needs true labels of all images; pass --labels")
    if select.labeled is not None:
        raise UsageError("select.supervised uses the labels of all images, select.labeled those of some; drop one")
    if not method.requirements() & {Needs.PSEUDO_LABELS, Needs.DYNAMICS} and not balances(method, select.balance):
        raise UsageError(f"method {select.method!r} uses no labels, so that select.supervised changes nothing; drop it")


def check_sizes(config: RunConfig, num_samples: int, made: Set[str]) -> None:
    """Refuse sizes that do not fit the number of usable images, before the long stages.

    Args:
        config: of the run.
        num_samples: usable images.
        made: names of the artifacts that the run makes: a size that decides none of them fits.
    """
    k = neighbors_of_each(config.neighbors, num_samples)
    if "neighbors" in made:
        _check_neighbors(config, num_samples, k)
    method_of(config).check_sizes(num_samples, k)
    if "pseudo_labels" in made and config.num_classes is not None and config.num_classes > num_samples:
        raise UsageError(
            f"num_classes is {config.num_classes}, but only {num_samples} images are usable; "
            "pass a smaller --num-classes"
        )
    for budget in config.budgets:
        count = budget_count(budget, num_samples)
        beta = config.select.beta
        if beta is not None and count + round(beta * num_samples) > num_samples:
            raise UsageError(
                f"select.beta={beta:g} drops {round(beta * num_samples)} of {num_samples} images, which leaves fewer "
                f"than the budget of {count}; use a beta up to {1 - count / num_samples:.3f}"
            )


def check_test_set(config: RunConfig, num_samples: int, labelled: int) -> None:
    """Refuse an evaluation on candidates whose training sets would leave too few to test on, before the long stages.

    Args:
        config: of the run.
        num_samples: usable images.
        labelled: those of them that have a true label.
    """
    options = config.evaluate
    if options.test_input is not None:
        return
    subsets = options.seeds + (config.select.method != "random")
    for budget in config.budgets:
        count = budget_count(budget, num_samples)
        left = labelled * max(0.0, 1 - count / max(1, labelled)) ** subsets  # as if the coreset were drawn, too
        if left < MIN_TEST_SAMPLES:
            raise UsageError(
                f"with a budget of {count} the evaluation would leave about {left:.0f} of the {labelled} labelled "
                f"images to test on, and it takes {MIN_TEST_SAMPLES}; pass separate test images with --test-input, "
                "a smaller budget, or fewer --seeds"
            )


def _check_neighbors(config: RunConfig, num_samples: int, k: int) -> None:
    """Refuse to look for more neighbours of each image than there are, or to pair it with more than are found."""
    pairs = config.pseudo_labels.num_neighbors
    if num_samples == 1:
        raise UsageError(
            f"a single usable image has no neighbours, which {config.select.method!r} needs; use --method random"
        )
    if k >= num_samples:
        raise UsageError(
            f"neighbors.k is {k}, but each of the {num_samples} usable images has only {num_samples - 1} others; "
            "leave it out, and it will fit"
        )
    if pairs != "auto" and pairs > k:
        raise UsageError(
            f"pseudo_labels.num_neighbors is {pairs}, but only {k} neighbours of each image are found; "
            "lower it, or raise neighbors.k"
        )
