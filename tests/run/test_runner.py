"""The real pipeline on a small real input: artifacts, resume, what is redone, and that labels stay out."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elfs_ray import select
from elfs_ray.artifacts import schema
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.record import Records
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.errors import UsageError
from elfs_ray.run.graph import all_units
from elfs_ray.run.preflight import check_test_set
from elfs_ray.run.runner import run
from small import BUDGET, NUM_IMAGES, OPTIONS, exact_neighbors, sections


def again(result, images, out=None, **changes):
    """Run with the same options but for some."""
    values = {**OPTIONS, **changes}
    budget, out = values.pop("budget", BUDGET), out or result.run_dir
    return select(images, budget, num_classes=10, out=out, **sections(values))


class TestArtifacts:
    def test_every_image_is_a_sample(self, small_run):
        store = RunFolder(small_run.run_dir)
        samples = Table(store, "samples").read()
        assert len(samples) + Table(store, "quarantine").rows == NUM_IMAGES
        assert samples["index"].to_pylist() == list(range(NUM_IMAGES))
        assert samples["sample_id"][0].as_py() == "digit-0000.png"
        assert set(samples["width"].to_pylist()) == {64}

    @pytest.mark.parametrize(
        ("artifact", "expected"),
        [
            ("samples", schema.samples(carries_bytes=False)),
            ("quarantine", schema.QUARANTINE),
            ("labels_true", schema.LABELS),
            ("embeddings", schema.embeddings(1280)),
            ("neighbors", schema.neighbors(10)),
            ("pseudo_labels", schema.PSEUDO_LABELS),
            ("dynamics", schema.dynamics()),
            (f"beta_search/elfs/{BUDGET}", schema.BETA_SEARCH),
            (f"coresets/elfs/{BUDGET}", schema.CORESET),
            (f"evaluation/elfs/{BUDGET}", schema.EVALUATION),
        ],
    )
    def test_schema(self, small_run, artifact, expected):
        table = Table(RunFolder(small_run.run_dir), artifact)
        assert table.schema.equals(expected)
        for part in table.parts():
            assert pq.read_schema(table.store.path(artifact, part.name)).equals(expected)

    def test_neighbors_are_exact(self, small_run):
        store = RunFolder(small_run.run_dir)
        expected, _ = exact_neighbors(Embeddings(store).unit_vectors(), 10)
        found = Table(store, "neighbors").matrix("ids")
        assert not (found == np.arange(len(found))[:, None]).any()
        # Equal similarities may stand in another order; the sets agree but for rounding at the last place.
        same = [len(set(a) & set(b)) for a, b in zip(found.tolist(), expected.tolist(), strict=True)]
        assert np.mean(same) >= 9.99

    def test_faiss_finds_the_same(self, small_run, tmp_path):
        run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
        config = load_config({"neighbors.search": "faiss"}, base=small_run.manifest["config"])
        manifest = run(config, RunFolder(str(run_dir)), Reporter(), until="neighbors")
        assert manifest["records"]["neighbors"]["chosen"]["search"] == "faiss"
        assert small_run.manifest["records"]["neighbors"]["chosen"]["search"] == "torch"
        assert manifest["records"]["embed"] == small_run.manifest["records"]["embed"]
        runs = RunFolder(str(run_dir)), RunFolder(small_run.run_dir)
        ours, theirs = (Table(store, "neighbors").matrix("ids") for store in runs)
        assert (np.sort(ours) == np.sort(theirs)).mean() >= 0.999

    def test_coreset_is_the_best_of_its_rank(self, small_run):
        coreset = small_run.table
        assert len(coreset) == BUDGET
        assert len(set(coreset["sample_id"].to_pylist())) == BUDGET
        assert coreset["rank"].to_pylist() == list(range(BUDGET))

    def test_beta_is_the_best_mean_of_the_table(self, small_run):
        rows = Table(RunFolder(small_run.run_dir), f"beta_search/elfs/{BUDGET}").read().to_pandas()
        means = rows.groupby("beta")["validation_accuracy"].mean()
        chosen = small_run.manifest["records"][f"beta_search/elfs/{BUDGET}"]["metrics"]["beta"]
        assert chosen == means.index[np.flatnonzero(means.to_numpy() == means.max())[0]]

    def test_evaluation_compares_on_one_test_set(self, small_run):
        rows = Table(RunFolder(small_run.run_dir), f"evaluation/elfs/{BUDGET}").read().to_pandas()
        assert rows.groupby("subset")["seed"].nunique().to_dict() == {"elfs": 2, "random": 2}
        assert rows["test_samples"].nunique() == 1
        assert set(rows["train_samples"]) == {BUDGET}
        assert (rows["test_accuracy"] > 0.3).all()

    def test_manifest_states_what_auto_chose(self, small_run):
        stages = small_run.manifest["records"]
        assert stages["embed"]["chosen"]["dtype"] in ("bfloat16", "float32")
        assert stages["proxy"]["chosen"]["model"] in ("mlp", "resnet18")
        assert all(record["seconds"] > 0 and record["peak_memory_mb"] > 0 for record in stages.values())
        assert {"torch", "ray", "numpy"} <= small_run.manifest["versions"].keys()


class TestAgain:
    def test_nothing_is_done_twice(self, small_run, small_input):
        before = RunFolder(small_run.run_dir).manifest()["records"]
        result = again(small_run, small_input[0], **{"evaluate.labels": str(small_input[1])})
        assert result.manifest["records"] == before

    def test_changed_option_redoes_what_depends_on_it(self, small_run, small_input, tmp_path):
        run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
        before = RunFolder(str(run_dir)).manifest()["records"]
        result = again(small_run, small_input[0], out=run_dir, **{"proxy.epochs": 11})
        redone = {unit for unit, record in result.manifest["records"].items() if record != before[unit]}
        assert redone == {"proxy", *(f"{unit}/elfs/{BUDGET}" for unit in ("beta_search", "select", "coverage"))}

    def test_each_method_searches_its_own_beta(self, small_run, small_input, tmp_path):
        run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
        result = again(small_run, small_input[0], out=run_dir, **{"select.method": "ccs"})
        stages = result.manifest["records"]
        assert stages[f"beta_search/ccs/{BUDGET}"]["fingerprint"] != stages[f"beta_search/elfs/{BUDGET}"]["fingerprint"]
        assert stages[f"beta_search/elfs/{BUDGET}"] == small_run.manifest["records"][f"beta_search/elfs/{BUDGET}"]

    def test_another_budget_keeps_the_first(self, small_run, small_input, tmp_path):
        run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
        result = again(small_run, small_input[0], out=run_dir, budget=[BUDGET, 0.5], **{"select.method": "random"})
        assert {count: len(table) for count, table in result.coresets.items()} == {BUDGET: BUDGET, 120: 120}
        assert Table(RunFolder(str(run_dir)), f"coresets/elfs/{BUDGET}").rows == BUDGET


class TestRefuses:
    def test_a_folder_that_holds_a_run_over_other_images(self, small_run, small_input, tmp_path):
        before = RunFolder(small_run.run_dir).manifest()
        other = shutil.copytree(small_input[0], tmp_path / "other")
        with pytest.raises(UsageError, match=r"holds a run over .*images, not over .*other; choose another --out"):
            again(small_run, other)
        assert RunFolder(small_run.run_dir).manifest() == before

    def test_ids_that_come_twice(self, small_input, tmp_path):
        images = [path.read_bytes() for path in sorted(small_input[0].iterdir())[:4]]
        pq.write_table(pa.table({"id": ["a", "b", "a", "c"], "image": images}), tmp_path / "images.parquet")
        with pytest.raises(UsageError) as caught:
            select(tmp_path / "images.parquet", budget=2, num_classes=2, out=tmp_path / "run", **sections(OPTIONS))
        assert str(caught.value) == (
            f"sample id 'a' stands 2 times in {tmp_path}/images.parquet (1 ids are repeated); ids must be unique: "
            "fix them, or name another column of a table with --set ingest.id_column=NAME"
        )

    def test_more_classes_than_images(self, small_input, tmp_path):
        with pytest.raises(UsageError, match="num_classes is 300, but only 240 images are usable"):
            select(small_input[0], budget=5, num_classes=300, out=tmp_path / "run", **sections(OPTIONS))


class TestQuarantine:
    @pytest.fixture
    def mixed(self, small_input, tmp_path):
        folder = tmp_path / "mixed"
        folder.mkdir()
        for image in sorted(small_input[0].iterdir())[:30]:
            shutil.copy(image, folder)
        (folder / "empty.png").write_bytes(b"")
        (folder / "truncated.png").write_bytes((folder / "digit-0000.png").read_bytes()[:60])
        (folder / "notes.jpg").write_text("not an image")
        (folder / "notes.txt").write_text("of another kind, and so no bad image")
        return folder

    def test_bad_images_are_set_aside_with_their_reason(self, mixed, tmp_path):
        out = tmp_path / "run"
        options = {**OPTIONS, "ingest.max_bad_fraction": 0.2, "neighbors.k": 5, "select.method": "random"}
        result = select(mixed, budget=10, num_classes=2, out=out, **sections(options))
        quarantine = Table(RunFolder(str(out)), "quarantine").read().to_pandas().set_index("sample_id")["reason"]
        assert set(quarantine.index) == {"empty.png", "truncated.png", "notes.jpg"}
        assert "0 bytes" in quarantine["empty.png"]
        assert result.manifest["records"]["ingest"]["rows"] == {"samples": 30, "quarantine": 3}

    def test_too_many_bad_images_stop_the_run(self, mixed, tmp_path):
        with pytest.raises(UsageError) as caught:
            select(mixed, budget=10, num_classes=2, out=tmp_path / "run", **sections(OPTIONS))
        assert str(caught.value) == (
            "3 of 33 inputs (9.1%) cannot be used, more than ingest.max_bad_fraction=0.05; the first is 'empty.png': "
            "the file is empty (0 bytes); fix or remove them, or raise the limit with --set "
            "ingest.max_bad_fraction=..."
        )
        assert not RunFolder(str(tmp_path / "run")).exists("samples")


def test_table_input_with_bytes(small_input, tmp_path):
    """A Parquet source gives the same embeddings as the same files in a folder."""
    paths = sorted(small_input[0].iterdir())[:50]
    table = pa.table({"image_id": [path.name for path in paths], "image": [path.read_bytes() for path in paths]})
    pq.write_table(table, tmp_path / "images.parquet", row_group_size=20)
    options = {**OPTIONS, "neighbors.k": 5, "select.method": "random"}
    from_table = select(tmp_path / "images.parquet", budget=5, num_classes=2, out=tmp_path / "run", **sections(options))
    store = RunFolder(from_table.run_dir)
    assert Table(store, "samples").read(columns=["sample_id"])["sample_id"].to_pylist() == table["image_id"].to_pylist()
    assert "image" in Table(store, "samples").schema.names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 300}, "num_classes is 300, but only 240 images are usable"),
        ({"neighbors": {"k": 240}}, "neighbors.k is 240, but each of the 240 usable images has only 239 others"),
        ({"pseudo_labels": {"num_neighbors": 51}}, "num_neighbors is 51, but only 50 neighbours of each image are"),
        ({"select": {"method": "prototypicality", "options": {"num_clusters": 241}}}, "241, more than the 240 samples"),
        ({"budgets": [241]}, "241"),
        ({"select": {"beta": 0.9}, "budgets": [40]}, "select.beta=0.9 drops 216 of 240 images"),
    ],
)
def test_sizes_are_checked_before_the_long_stages(changes, message):
    config = load_config({"input": "/x", "num_classes": 10, "budgets": [40], **changes})
    with pytest.raises(UsageError, match=message):
        all_units([config], Records({}), 240)


def test_a_size_that_decides_nothing_fits():
    """`random` reads no neighbours, and forms no clusters."""
    values = {"input": "/x", "budgets": [4], "num_classes": 300, "neighbors": {"k": 240}, "select.method": "random"}
    assert len(all_units([load_config(values)], Records({}), 5)) == 3


def test_one_image_has_no_neighbours():
    config = load_config({"input": "/x", "budgets": [1], "num_classes": 2, "select.method": "typiclust"})
    with pytest.raises(UsageError, match=r"a single usable image has no neighbours.*use --method random"):
        all_units([config], Records({}), 1)


@pytest.mark.parametrize(("method", "budget", "left"), [("random", 5, None), ("zcore", 5, 19), ("random", 20, 1)])
def test_candidates_that_leave_nothing_to_test_on_are_refused_before_the_long_stages(method, budget, left):
    """41 images; of five random subsets of 5, and a coreset, about 19 are in none."""
    values = {
        "input": "/x",
        "budgets": [budget],
        "num_classes": 2,
        "select.method": method,
        "evaluate.labels": "folders",
    }
    if left is None:
        check_test_set(load_config(values), 41, 41)
        return
    with pytest.raises(UsageError, match=f"leave about {left} of the 41 labelled images to test on, and it takes 20"):
        check_test_set(load_config(values), 41, 41)
    check_test_set(load_config({**values, "evaluate.test_input": "/y"}), 41, 41)
