"""A run over embeddings without any image: what needs none works, what needs them is refused before the start."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elfs_ray import pick, select
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.samples import median_side
from elfs_ray.artifacts.table import Table, fixed_size_matrix
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.core.features import unit_half
from elfs_ray.data.sources import open_input
from elfs_ray.errors import UsageError
from elfs_ray.exports import FORMATS, TABLES, export_coreset
from elfs_ray.planning import calibrate
from elfs_ray.planning.auto_options import choose_proxy
from elfs_ray.run.runner import run
from elfs_ray.workers.hardware import Hardware
from made_records import fingerprints
from small import sections

ROWS, CLASSES, BUDGET = 120, 4, 20
OPTIONS = {
    "neighbors.k": 8,
    "pseudo_labels.heads": 2,
    "pseudo_labels.epochs": 4,
    "pseudo_labels.batch_size": 30,
    "proxy.epochs": 4,
    "select.beta": 0.1,
    "evaluate.models": ["linear", "mlp"],
    "evaluate.seeds": 2,
    "evaluate.steps": 20,
}


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    """A table of vectors in clear clusters, and their labels in a file."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("vectors")
    labels = np.arange(ROWS) % CLASSES
    matrix = (4 * np.eye(8)[labels] + rng.normal(size=(ROWS, 8))).astype(np.float32)
    ids = [f"v{number}" for number in rng.permutation(ROWS)]
    table = pa.table({"id": ids, "embedding": list(matrix), "kind": [f"class {label}" for label in labels]})
    pq.write_table(table, folder / "vectors.parquet", row_group_size=50)
    rows = "".join(f"{one},{label}\n" for one, label in zip(ids, labels, strict=True))
    (folder / "labels.csv").write_text(f"id,label\n{rows}")
    return folder / "vectors.parquet", folder / "labels.csv", ids, matrix


@pytest.fixture(scope="module")
def result(clustered, tmp_path_factory):
    """The whole pipeline, up to the evaluation and the report."""
    path, labels, *_ = clustered
    options = {**OPTIONS, "embed.vectors": str(path), "evaluate.labels": str(labels)}
    out = tmp_path_factory.mktemp("runs") / "run"
    return select(None, BUDGET, num_classes=CLASSES, out=out, **sections(options))


def test_the_ids_are_the_samples(result, clustered):
    path, _, ids, matrix = clustered
    store = RunFolder(result.run_dir)
    samples = Table(store, "samples").read()
    assert samples.column_names == ["sample_id", "index", "uri"]
    assert samples["sample_id"].to_pylist() == ids
    assert samples["uri"][51].as_py() == f"{path}#51"
    embeddings, units = Table(store, "embeddings").read(), unit_half(matrix)
    assert np.array_equal(fixed_size_matrix(embeddings["vector"]), units.vectors)
    np.testing.assert_allclose(embeddings["norm"], np.linalg.norm(matrix, axis=1), rtol=1e-6)
    assert Table(store, "quarantine").rows == 0
    assert result.manifest["input"] == str(path)
    assert median_side(store) == 0


def test_a_coreset_comes_out(result, clustered):
    assert len(set(result.table["sample_id"].to_pylist()) & set(clustered[2])) == BUDGET
    accuracy = result.manifest["records"][f"evaluate/elfs/{BUDGET}"]["metrics"]["models"]
    assert set(accuracy) == {"linear", "mlp"}
    assert accuracy["linear"]["subsets"]["elfs"]["mean"] > 0.8
    page = Path(result.report).read_text()
    assert "</b>samples to choose from" in page
    assert re.findall("no picture| images[ ,.<]", page.partition("<main>")[2]) == []


def test_pick_in_memory_takes_the_same(result, clustered):
    given = sections(OPTIONS)
    beta = given.pop("select")["beta"]
    del given["evaluate"]
    picked = pick(clustered[3], BUDGET, method="elfs", num_classes=CLASSES, beta=beta, **given)
    assert picked.tolist() == result.table["index"].to_pylist()


@pytest.mark.parametrize("form", FORMATS)
def test_exports_that_need_no_pictures(result, tmp_path, form):
    def export():
        return export_coreset(RunFolder(result.run_dir), f"elfs/{BUDGET}", form, tmp_path / "out")

    if form not in TABLES:
        with pytest.raises(UsageError, match=f"'{form}' shows images, and .* has embeddings alone; use csv, parquet"):
            export()
        return
    assert (export() / f"coreset.{form}").stat().st_size
    if form == "parquet":
        rows = pq.read_table(tmp_path / "out" / "coreset.parquet")
        assert rows["sample_id"].equals(result.table["sample_id"])
        assert rows["uri"].equals(result.table["uri"])
        assert rows["width"].null_count == BUDGET


def test_labels_of_the_table_and_a_matrix(clustered, tmp_path):
    """An .npy file has the numbers of its rows as ids; the table's own columns hold labels."""
    path, _, ids, matrix = clustered
    np.save(tmp_path / "v.npy", matrix)
    for vectors, labels, samples in (
        (path, "column:kind", ids),
        (tmp_path / "v.npy", None, list(map(str, range(ROWS)))),
    ):
        values = {"budgets": [BUDGET], "num_classes": CLASSES, "embed.vectors": str(vectors), "evaluate.labels": labels}
        store = RunFolder(str(tmp_path / f"run-{vectors.suffix}"))
        manifest = run(load_config(values), store, Reporter(), until="embed")
        assert Table(store, "samples").read()["sample_id"].to_pylist() == samples
        found = Table(store, "embeddings").matrix("vector")
        assert np.array_equal(found, unit_half(matrix).vectors)
        if labels:
            assert manifest["records"]["labels"]["metrics"]["classes"] == [f"class {n}" for n in range(CLASSES)]


def test_a_table_of_images_and_embeddings_is_two_inputs(tmp_path):
    table = {"id": ["a"], "vector": [[1.0]], "image": [b"x"]}
    pq.write_table(pa.table(table), tmp_path / "both.parquet")
    values = {"budgets": [1], "num_classes": 2, "embed.vectors": str(tmp_path / "both.parquet")}
    units = []
    for more in ({}, {"input": str(tmp_path / "both.parquet")}):
        config = load_config({**values, **more})
        units.append(fingerprints(config, num_samples=100)["ingest"])
    assert units[0] != units[1]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("proxy.model", "resnet18", "proxy.model=resnet18 trains on images, and there are only embeddings; use mlp"),
        ("beta_search.model", "resnet-small", "beta_search.model=resnet-small trains on images"),
        ("evaluate.models", ["mlp", "resnet50"], "evaluate.models=resnet50 trains on images"),
        ("evaluate.test_input", "/images", "evaluate.test_input=/images holds images, and the candidates have none"),
        (
            "embed.vectors",
            None,
            "option 'input' is missing; pass --input or set it in a file; or pass --embeddings alone",
        ),
    ],
)
def test_what_needs_images_is_refused_before_the_start(clustered, tmp_path, option, value, message):
    path, labels, *_ = clustered
    values = {"embed.vectors": str(path), "evaluate.labels": str(labels), option: value}
    with pytest.raises(UsageError, match=message):
        select(None, BUDGET, num_classes=CLASSES, out=tmp_path / "run", **sections(values))
    assert not (tmp_path / "run").exists()


def test_a_plan_needs_no_images(clustered, monkeypatch):
    """What a plan measures for a run."""
    for name, small in {"SECONDS_EACH": 0.01, "SEARCH_ROWS": 100, "SEARCH_QUERIES": 10}.items():
        monkeypatch.setattr(calibrate, name, small)
    values = {"budgets": [BUDGET], "num_classes": CLASSES, "embed.vectors": str(clustered[0]), **OPTIONS}
    config = load_config(values)
    planned = {"embed", "neighbors", "pseudo_labels", "proxy", "beta_search"}
    found = calibrate.calibrate(config, open_input(config, None), Hardware("cpu", 1, 0), planned, side_by_side=2)
    assert (found.dim, found.images, found.image_bytes) == (8, 0, 0)
    assert min(found.rates.pseudo_labels_step, found.rates.proxy_step, found.rates.search_step) > 0
    assert choose_proxy(config.proxy, "cuda", 1, ROWS, 8, median_side=0, image_dtype="bfloat16").model == "mlp"
    assert choose_proxy(config.proxy, "cuda", 1, ROWS, 8, median_side=64, image_dtype="bfloat16").model == "resnet18"


def test_a_repeated_id_is_refused(tmp_path):
    pq.write_table(pa.table({"id": ["a", "a", "b"], "vector": [[1.0], [2.0], [3.0]]}), tmp_path / "v.parquet")
    values = {"budgets": [1], "num_classes": 2, "embed.vectors": str(tmp_path / "v.parquet")}
    with pytest.raises(UsageError) as caught:
        run(load_config(values), RunFolder(str(tmp_path / "run")), Reporter(), until="ingest")
    assert str(caught.value) == (
        f"sample id 'a' stands 2 times in {tmp_path}/v.parquet (1 ids are repeated); ids must be unique: "
        "fix them, or name another column of a table with --set ingest.id_column=NAME"
    )


def test_one_coreset_on_any_scale(tmp_path):
    """As a network without a final norm gives, or probabilities over many classes: 300 vectors in 10 clear groups."""
    rng = np.random.default_rng(0)
    matrix = np.repeat(rng.normal(size=(10, 16)), 30, axis=0) + 0.1 * rng.normal(size=(300, 16))
    ids, coresets = [f"{number:03d}" for number in range(300)], []
    for factor in (1, 2**-30, 2**100):
        column = list(matrix.astype(np.float32) * np.float32(factor))
        pq.write_table(pa.table({"sample_id": ids, "vector": column}), tmp_path / f"{factor}.parquet")
        values = {"budgets": [20], "num_classes": 10, "embed.vectors": str(tmp_path / f"{factor}.parquet")}
        store = RunFolder(str(tmp_path / f"run-{factor}"))
        run(load_config({**values, "select.method": "kcenter"}), store, Reporter(), until="select")
        coresets.append(Table(store, "coresets/kcenter/20").read().drop(["uri"]))
    assert len(set(coresets[0]["sample_id"].to_pylist())) == 20
    assert {int(one) // 30 for one in coresets[0]["sample_id"].to_pylist()} == set(range(10))
    assert coresets[1].equals(coresets[0])
    assert coresets[2].equals(coresets[0])
