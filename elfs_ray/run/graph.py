"""The order of the stages and what each depends on.

The only file that knows the order. Each piece of work (a `Step`) has a fingerprint over its own options and those of
all it depends on. Where a stage says what it gave (`StageResult.content`), later steps depend on that instead: inputs
that were only copied anew cost no more than reading them again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from elfs_ray.artifacts.filesystems import without_options
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config import RunConfig, fingerprint
from elfs_ray.core.pruning import budget_count
from elfs_ray.errors import UsageError
from elfs_ray.methods import Needs, balances, get_method
from elfs_ray.planning.auto_options import train_as_evaluated
from elfs_ray.run.preflight import check_rows, labeled_signature

if TYPE_CHECKING:
    from elfs_ray.data.sources import Source

STAGES = (
    *("ingest", "labels", "embed", "neighbors", "cluster", "anchor", "proxy"),
    *("beta-search", "select", "evaluate", "duplicates", "map", "coverage", "report"),
)
"""Stages in the order in which they run, by their names on the command line."""

# Raised when a stage gives other results than before for the same options.
# embed 3: large JPEGs are decoded at a reduced scale, there and in all later stages that read images.
VERSIONS = {
    "ingest": 2,
    "labels": 2,
    "embed": 3,
    "neighbors": 2,
    "cluster": 1,
    "anchor": 2,
    "proxy": 2,
    "beta-search": 5,
    "select": 2,
    "evaluate": 3,
    "duplicates": 1,
    "map": 1,
    "coverage": 1,
}
_TEST_PREFIX = "test/"


@dataclass(frozen=True)
class Step:
    """One piece of work: a stage, for some images and some budget.

    Attributes:
        stage: its name on the command line.
        unit: its name in the manifest.
        fingerprint: of its options and of all it depends on.
        upstream: units that it rests on.
        prefix: `test/` when it prepares the separate test images.
        budget: images to select, where the stage runs once for each budget.
        content: of what it gave, if it has run and its stage says so.
    """

    stage: str
    unit: str
    fingerprint: str
    upstream: tuple[str, ...]
    prefix: str = ""
    budget: int | None = None
    content: str | None = None


def first_steps(config: RunConfig, source: "Source") -> list[Step]:
    """The steps that are known before the images are counted; `source` is the listed input."""
    from elfs_ray.data.sources import open_input

    def ingest(prefix: str, images: "Source") -> Step:
        options = [without_options(images.location), images.signature(), config.ingest.identity()]
        # The same table may hold images and embeddings.
        options += [] if images.has_images else [images.kind]
        return _step("ingest", options, [], prefix=prefix)

    steps = [ingest("", source)]
    if config.evaluate.labels:
        steps.append(_labels_step(config, source, steps, ""))
    if config.evaluate.test_input:
        test_source = open_input(config, config.evaluate.test_input)
        check_rows(config.embed.test_vectors or config.embed.vectors, config, test_source)
        test = ingest(_TEST_PREFIX, test_source)
        # Of the candidates' labels, too: one file may hold both, and the classes must be the same.
        steps += [test, _labels_step(config, test_source, [test, *steps[1:]], _TEST_PREFIX)]
    return steps


def with_content(steps: Sequence[Step], store: RunFolder, *, presumed: bool = False) -> list[Step]:
    """The same steps; those that were published know the content of what they gave.

    Args:
        steps: those known before the images are counted.
        store: the run folder.
        presumed: as if inputs that look new held what they held when they were last read.
    """
    records = store.manifest().get("stages", {})

    def content(step: Step) -> str | None:
        record = records.get(step.unit, {})
        known = presumed or record.get("fingerprint") == step.fingerprint
        found: str | None = record.get("content") if known else None
        return found

    return [replace(step, content=content(step)) for step in steps]


def later_steps(config: RunConfig, first_steps: Sequence[Step], num_samples: int) -> list[Step]:
    """The steps after ingest, of which some run once for each budget."""
    first = {step.unit: step for step in first_steps}
    ingest = first["ingest"]
    embed = _step("embed", _embed_options(config), [ingest])
    steps = [embed]
    prepared = [embed]
    if "test_ingest" in first:
        # Through the encoder of the candidates, or from a table of their own.
        options = _embed_options(config, test=True) if config.embed.vectors else embed.fingerprint
        test_embed = _step("embed", options, [embed, first["test_ingest"]], prefix=_TEST_PREFIX)
        steps.append(test_embed)
        prepared.append(test_embed)
    neighbors = _step("neighbors", config.neighbors.identity(), [embed])
    seed_and_classes = [config.seed, config.num_classes]
    cluster = _step("cluster", [config.cluster.identity(), *seed_and_classes], [neighbors])
    pseudo = [cluster]
    if config.select.labeled is not None:
        pseudo.append(_step("anchor", [_labeled(config, ingest), *seed_and_classes], [cluster]))
    supervised = config.select.supervised
    if supervised:
        pseudo = [first["labels"]]
    unit = "proxy_supervised" if supervised else "proxy"
    trained_on = [embed, *pseudo] if supervised else pseudo[-1:]
    proxy = _step("proxy", [config.proxy.identity(), *seed_and_classes], trained_on, unit=unit)
    method = get_method(config.select.method, **config.select.options)
    needs = method.requirements()
    if (method.searched and config.select.beta is None) or balances(method, config.select.balance):
        needs |= {Needs.EMBEDDINGS, Needs.PSEUDO_LABELS}
    uses_labels = bool(needs & {Needs.PSEUDO_LABELS, Needs.DYNAMICS})
    if Needs.NEIGHBORS in needs or (uses_labels and not supervised):
        steps.append(neighbors)
    if uses_labels and not supervised:
        steps += pseudo
    if Needs.DYNAMICS in needs:
        steps.append(proxy)
    needed = [ingest, *(step for step in steps if not step.prefix), *(pseudo if supervised else [])]
    for budget in dict.fromkeys(budget_count(budget, num_samples) for budget in config.budgets):
        steps += _budget_steps(config, budget, needed, prepared, first)
    steps += _overview_steps(config, embed, neighbors if neighbors in steps else None)
    order = {stage: number for number, stage in enumerate(STAGES)}
    return sorted(steps, key=lambda step: order[step.stage])


def _overview_steps(config: RunConfig, embed: Step, neighbors: Step | None) -> Iterator[Step]:
    """What the report shows of all images."""
    if neighbors:
        yield _step("duplicates", None, [neighbors])
    if config.report.map_points:
        yield _step("map", [config.report.map, config.report.map_points, config.seed], [embed])


def _budget_steps(
    config: RunConfig, budget: int, needed: list[Step], prepared: list[Step], first: dict[str, Step]
) -> Iterator[Step]:
    name = config.select.name
    method = get_method(config.select.method, **config.select.options)
    upstream = list(needed)
    selected = [name, config.select.options, config.select.balance, _labeled(config, first["ingest"])]
    if method.searched and config.select.beta is None:
        trained = train_as_evaluated(config.beta_search, config.evaluate).identity()
        searched = [trained, config.proxy.hidden_dim, *selected]
        unit = f"beta_search/{name}/{budget}"
        search = _step("beta-search", [*searched, config.seed, budget], needed, unit=unit, budget=budget)
        upstream.append(search)
        yield search
    options = [*selected, config.select.beta, config.seed, budget]
    select = _step("select", options, upstream, unit=f"coresets/{name}/{budget}", budget=budget)
    yield select
    yield _step("coverage", [config.seed, budget], [select], unit=f"coverage/{name}/{budget}", budget=budget)
    if config.evaluate.labels:
        labels = [step for unit, step in first.items() if unit.endswith("labels")]
        unit = f"evaluation/{name}/{budget}"
        # What the labels and test images hold counts, through the steps before; not how they are reached.
        evaluate = {
            name: without_options(value) if isinstance(value, str) else value
            for name, value in config.evaluate.identity().items()
        }
        if other := evaluate.pop("embeddings_of"):
            evaluate["embeddings_of"] = RunFolder(other).content("embed")
        yield _step("evaluate", evaluate, [select, *prepared, *labels], unit=unit, budget=budget)


def _embed_options(config: RunConfig, *, test: bool = False) -> Any:
    """What the embeddings depend on: an encoder, or vectors that are there already."""
    from elfs_ray.data.vectors import vectors_signature
    from elfs_ray.encoders import weights_signature

    options = config.embed.identity()
    vectors, test_vectors = options.pop("vectors"), options.pop("test_vectors")
    if vectors is not None:
        return vectors_signature(test_vectors or vectors if test else vectors)
    weights = config.embed.weights
    return options if weights is None else {**options, "weights_signature": weights_signature(weights)}


def _labeled(config: RunConfig, ingest: Step) -> str | None:
    """Changes when the labels that are there already may have; those in the input itself are no part of its content."""
    signature = labeled_signature(config)
    in_input = signature is not None and signature == config.select.labeled
    return fingerprint(signature, ingest.fingerprint) if in_input else signature


def _labels_step(config: RunConfig, source: "Source", upstream: Sequence[Step], prefix: str) -> Step:
    from elfs_ray.data.labels import check_labels, labels_signature

    spec = (config.evaluate.test_labels if prefix else None) or config.evaluate.labels
    if spec is None:
        raise UsageError("test images are given without labels; pass --labels, and --test-labels if they differ")
    check_labels(spec, source, config.ingest.id_column)
    return _step("labels", [without_options(spec), labels_signature(spec)], upstream, prefix=prefix)


def _step(
    stage: str,
    options: Any,
    upstream: Sequence[Step],
    *,
    unit: str | None = None,
    prefix: str = "",
    budget: int | None = None,
) -> Step:
    key = fingerprint(stage, VERSIONS[stage], options, [step.content or step.fingerprint for step in upstream])
    units = tuple(step.unit for step in upstream)
    return Step(stage, unit or prefix.replace("/", "_") + stage, key, units, prefix, budget)
