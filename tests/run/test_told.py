"""What a run says of its stages: whole sentences, with the numbers that a person asks for."""

import re

import pytest

from elfs_ray import stages
from elfs_ray.artifacts.record import Record, Records, Unit
from elfs_ray.config_loading import load_config
from elfs_ray.run.graph import all_units
from elfs_ray.run.told import opening, result, sentence

COMPARED = {"elfs": {"mean": 0.9193}, "random": {"mean": 0.895}}
RANGE = {"coreset": 0.891, "random": {"mean": 0.8964}}
SAMPLES = {"samples": 1797, "quarantine": 3}
SAID = [
    ("listing", {"inputs": 1800}, {}, "Listed 1,800 inputs"),
    ("ingest", {"inputs": 1800, "quarantined": 3}, SAMPLES, "Checked 1,800 images, 3 of them unusable"),
    ("test/ingest", {"inputs": 1, "quarantined": 0}, {"test/samples": 1}, "Checked 1 test image, all usable"),
    ("labels", {"labelled": 1797, "classes": ["a", "b"]}, {}, "Read the labels of 1,797 images, of 2 classes"),
    ("labeled", {"labelled": 80}, {}, "Read the labels that 80 images have already"),
    ("embed", {"encoder": "hub:x"}, {"embeddings": 41}, "Embedded 41 images with hub:x"),
    ("embed", {"encoder": "-", "vectors_used": 41}, {"embeddings": 41}, "Read the embeddings of 41 images"),
    ("neighbors", {"k": 20}, {"neighbors": 41}, "Found the 20 nearest neighbours of each of 41 images"),
    (
        *("neighbors", {"k": 1, "recall": 0.987}, {"neighbors": 3}),
        "Found the nearest neighbour of each of 3 images, 99 % of them the true ones",
    ),
    (
        *("pseudo_labels", {"cluster_sizes": [30, 11], "mean_agreement": 0.981}, {"pseudo_labels": 41}),
        "Clustered 41 images into 2 pseudo-classes; the heads agree on 98 %",
    ),
    ("anchor", {"labeled": 100, "used": "probes"}, {}, "Improved the pseudo-labels with 100 known labels"),
    (
        *("anchor", {"labeled": 1, "used": "clusters"}, {}),
        "Kept the pseudo-labels as they are: 1 known label would not improve them",
    ),
    (
        *("proxy", {"model": "mlp", "train_accuracy": 1.0}, {}),
        "Trained the proxy (mlp): it learned 100 % of the pseudo-labels",
    ),
    (
        *("supervised/proxy", {"model": "resnet18", "held_out_accuracy": 0.9}, {}),
        "Trained the proxy (resnet18): right on 90 % held out",
    ),
    (
        *("beta_search/elfs/180", {"trainings": 27, "found": {"beta": 0.2}}, {}),
        "Tried 9 cut-offs x 3 seeds for 180 images: drop the hardest 20 %",
    ),
    (
        *("beta_search/elfs/180", {"trainings": 27, "found": {"beta": 0.0}}, {}),
        "Tried 9 cut-offs x 3 seeds for 180 images: drop none of the hardest",
    ),
    (
        *("beta_search/auto/180", {"trainings": 72, "found": {"choice": "ccs", "beta": 0.1}}, {}),
        "Tried 24 candidates x 3 seeds for 180 images: ccs, drop the hardest 10 %",
    ),
    ("select/elfs/180", {"labeled": 80}, {}, "Selected 180 images by elfs, 80 of them labelled before"),
    ("select/random/1", {"labeled": 0}, {}, "Selected 1 image by random"),
    (
        *("evaluate/elfs/180", {"models": {"mlp": {"subsets": COMPARED}}, "test_samples": 900}, {}),
        "Evaluated 180 images by elfs on 900 test images: mlp is right on 91.9 %, with random images on 89.5 %",
    ),
    (
        *("evaluate/random/180", {"models": {"mlp": {"subsets": COMPARED}}, "test_samples": 900}, {}),
        "Evaluated 180 images by random on 900 test images: mlp is right on 89.5 %",
    ),
    ("duplicates", {"alike": 210}, {}, "Looked for near-duplicates: 210 images have one"),
    ("duplicates", {"alike": 0}, {}, "Looked for near-duplicates: no image has one"),
    ("map", {}, {"map": 1797}, "Placed 1,797 images on the map"),
    (
        *("coverage/elfs/180", {"coverage": RANGE}, {}),
        "Measured the coverage of 180 images by elfs: 0.891, of random ones 0.896",
    ),
]


@pytest.mark.parametrize(("unit", "metrics", "rows", "said"), SAID)
def test_what_came_out(unit, metrics, rows, said):
    record = Record(Unit.parse(unit), 1, "f", "c", metrics=metrics, rows=rows, chosen={"seeds": 3})
    assert result(record) == said


def test_every_stage_says_what_it_does(small_input):
    values = {"input": str(small_input[0]), "budgets": [20], "num_classes": 10, "select.labeled": str(small_input[1])}
    config = load_config({**values, "evaluate.labels": str(small_input[1]), "select.method": "auto"})
    listing = Record(Unit("listing"), 1, "f", "c", metrics={"inputs": 1797})
    ingest = Record(Unit("ingest"), 1, "f", "c", rows={"samples": 1797})
    ingested = Records({record.unit: record for record in (listing, ingest)})
    planned = all_units([config], Records({}), 240)
    assert {each.stage.name for each in planned} == {stage.name for stage in stages.STAGES}
    for each in planned:
        for records in (Records({}), ingested):
            doing = sentence(each, records)
            assert re.fullmatch(r"[A-Z][a-z]+ing [^_]+[^.]", doing), doing
            assert ("1,797 images" in doing) == (records is ingested and not each.unit.method), doing
    assert {Unit.parse(unit).stage for unit, *_ in SAID} == {stage.name for stage in stages.STAGES}


@pytest.mark.parametrize(
    ("budgets", "until", "said"),
    [
        ([180], "report", "Selecting 180 images from /photos by elfs, zcore, in /run"),
        ([1, 0.05], "select", "Selecting 1 image and 5 % of the images from /photos by elfs, zcore, in /run"),
        ([180], "embed", "Working on /photos up to the stage embed, in /run"),
    ],
)
def test_the_first_words(budgets, until, said):
    values = {"input": "/photos", "num_classes": 2, "budgets": budgets}
    configs = [load_config({**values, "select.method": name}) for name in ("elfs", "zcore")]
    assert opening(configs, "/run", until) == said
