"""The stages of a run.

`STAGES` is the only list of them: the order in which they run, the commands, the plan and the tables of the
documentation follow from it. A stage is an entry here and a file with its `run(context)`. The entries do not stand in
the files, as one might expect, because `--help` and `status` need all entries and must not import what computes.
"""

from elfs_ray.planning import stage_costs as cost
from elfs_ray.stages import identity, words
from elfs_ray.stages.descriptor import Scope, Stage, always

__all__ = ["STAGES", "maker_of", "stage_named"]

STAGES = (
    Stage(
        name="listing",
        version=1,
        summary="List what the input holds.",
        module="elfs_ray.stages.listing",
        scope=Scope.PER_INPUT,
        inputs=lambda _: (),
        outputs=("listing",),
        options=identity.of_listing,
        cost=cost.listing,
        wanted=always,
        doing=words.on_images("Listing {}"),
        told=words.listed,
        brief=True,
    ),
    Stage(
        name="ingest",
        version=2,
        summary="Check and number the images.",
        module="elfs_ray.stages.ingest",
        scope=Scope.PER_INPUT,
        inputs=lambda case: (case.unit.artifact("listing"),),
        outputs=("samples", "quarantine"),
        options=lambda case: case.config.ingest.identity(),
        cost=cost.ingest,
        wanted=always,
        doing=words.on_images("Checking {}"),
        told=words.checked,
    ),
    Stage(
        name="labels",
        version=3,
        summary="Bring true labels into the run folder, for the evaluation.",
        module="elfs_ray.stages.labels",
        scope=Scope.PER_INPUT,
        inputs=identity.for_labels,
        outputs=("labels_true",),
        options=identity.of_labels,
        cost=cost.labels,
        wanted=lambda config, _: config.evaluate.labels is not None or config.evaluate.test_input is not None,
        doing=words.on_images("Reading the labels of {}"),
        told=words.labels_read,
        brief=True,
    ),
    Stage(
        name="labeled",
        version=1,
        summary="Bring the labels that some images have already into the run folder (select.labeled).",
        module="elfs_ray.stages.labeled",
        inputs=identity.for_labeled,
        outputs=("labels_known",),
        options=identity.of_labeled,
        cost=cost.labels,
        wanted=lambda config, _: config.select.labeled is not None,
        doing=words.on_images("Reading the labels that some of {} have already"),
        told=words.labeled_read,
        brief=True,
    ),
    Stage(
        name="embed",
        version=5,  # 5: passes of eight images on processors, each by one thread
        summary="Turn the images into embeddings.",
        module=lambda config: f"elfs_ray.stages.{'embed_vectors' if config.embed.vectors else 'embed'}",
        scope=Scope.PER_INPUT,
        inputs=identity.for_embed,
        outputs=("embeddings",),
        options=identity.of_embed,
        cost=cost.embed,
        doing=words.embedding,
        told=words.embedded,
    ),
    Stage(
        name="neighbors",
        version=3,  # 3: of many equal rows the first ones, on processors
        summary="Find the nearest neighbours of each image.",
        module="elfs_ray.stages.neighbors",
        inputs=lambda _: ("embeddings",),
        outputs=("neighbors",),
        options=lambda case: case.config.neighbors.identity(),
        cost=cost.neighbors,
        doing=words.on_images("Finding the nearest neighbours of {}"),
        told=words.neighbors_found,
    ),
    Stage(
        name="pseudo_labels",
        version=3,  # 3: pairs from fewer neighbours where classes are small
        summary="Cluster the embeddings into pseudo-labels (TEMI).",
        module="elfs_ray.stages.pseudo_labels",
        inputs=lambda _: ("embeddings", "neighbors"),
        outputs=("pseudo_labels",),
        options=lambda case: [case.config.pseudo_labels.identity(), case.config.seed, case.config.num_classes],
        cost=cost.pseudo_labels,
        doing=words.on_images("Clustering {}"),
        told=words.clustered,
    ),
    Stage(
        name="anchor",
        version=2,
        summary="Improve the pseudo-labels with the labels that some images have (select.labeled).",
        module="elfs_ray.stages.anchor",
        inputs=lambda _: ("embeddings", "pseudo_labels", "labels_known"),
        outputs=("pseudo_labels_anchored",),
        options=lambda case: [case.config.seed, case.config.num_classes],
        cost=cost.anchor,
        doing=words.on_images("Improving the pseudo-labels of {} with known labels"),
        told=words.anchored,
    ),
    Stage(
        name="proxy",
        version=3,  # 3: an MLP sees principal components
        summary="Train the proxy classifier and record its training dynamics.",
        module="elfs_ray.stages.proxy",
        inputs=identity.for_proxy,
        outputs=("dynamics",),
        options=lambda case: [case.config.proxy.identity(), case.config.seed, case.config.num_classes],
        cost=cost.proxy,
        doing=words.training_proxy,
        told=words.proxy_trained,
    ),
    Stage(
        name="beta_search",
        version=6,  # 6: trials of small coresets take fewer steps
        summary="Search the share of hardest images to drop.",
        module="elfs_ray.stages.beta_search",
        scope=Scope.PER_BUDGET,
        inputs=identity.for_search,
        outputs=("beta_search", "logs/beta_search"),
        options=identity.of_search,
        cost=cost.beta_search,
        doing=words.searching,
        told=words.searched,
    ),
    Stage(
        name="select",
        version=3,  # 3: zcore draws in another way
        summary="Select the coreset.",
        module="elfs_ray.stages.select",
        scope=Scope.PER_BUDGET,
        inputs=identity.for_select,
        outputs=("coresets",),
        options=identity.of_select,
        cost=cost.select,
        wanted=always,
        doing=words.selecting,
        told=words.selected,
    ),
    Stage(
        name="evaluate",
        version=4,  # 4: trainings on embeddings at once
        summary="Train on coresets with true labels and compare with random subsets.",
        module="elfs_ray.stages.evaluate",
        scope=Scope.PER_BUDGET,
        inputs=identity.for_evaluate,
        outputs=("evaluation",),
        options=identity.of_evaluate,
        cost=cost.evaluate,
        wanted=lambda config, _: config.evaluate.labels is not None,
        doing=words.evaluating,
        told=words.evaluated,
    ),
    Stage(
        name="duplicates",
        version=1,
        summary="Find the images that are most alike, for the report.",
        module="elfs_ray.stages.overview.duplicates",
        inputs=lambda _: ("neighbors",),
        outputs=("near_duplicates",),
        options=lambda _: None,
        cost=cost.duplicates,
        wanted=lambda _, made: "neighbors" in made,
        doing=words.on_images("Looking for near-duplicates among {}"),
        told=words.duplicates_found,
        brief=True,
    ),
    Stage(
        name="map",
        version=2,
        summary="Place the images in the plane, for the report.",
        module="elfs_ray.stages.overview.map",
        inputs=lambda _: ("embeddings",),
        outputs=("map",),
        options=lambda case: [case.config.report.map, case.config.report.map_points, case.config.seed],
        cost=cost.map,
        wanted=lambda config, made: config.report.map_points > 0 and "embeddings" in made,
        doing=words.on_images("Placing {} on a map"),
        told=words.mapped,
    ),
    Stage(
        name="coverage",
        version=1,
        summary="Judge how well the coreset stands for all images, for the report.",
        module="elfs_ray.stages.overview.coverage",
        scope=Scope.PER_BUDGET,
        inputs=lambda _: ("embeddings", "coresets"),
        outputs=("coverage",),
        options=lambda case: [case.config.seed, case.unit.budget],
        cost=cost.coverage,
        wanted=lambda _, made: "embeddings" in made,
        doing=words.covering,
        told=words.coverage_measured,
        brief=True,
    ),
)


def stage_named(name: str) -> Stage:
    """The stage of this name."""
    return next(stage for stage in STAGES if stage.name == name)


def maker_of(artifact: str) -> Stage:
    """The stage that makes artifacts of this name, without prefix, method and budget."""
    return next(stage for stage in STAGES if artifact in stage.outputs)
