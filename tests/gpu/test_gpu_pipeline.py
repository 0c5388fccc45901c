"""The whole pipeline with a GPU: each stage on it, what it gives beside a processor's results, killed and gone on."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr

import runs
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.core.features import normalize_rows
from elfs_ray.data.images import decode, to_uint8
from elfs_ray.encoders import load_encoder
from elfs_ray.stages.parts.method_inputs import read_dynamics
from small import copy_without, wait_until


def agreement(ours, theirs):
    """Share of equal labels under the best renaming."""
    classes = int(max(ours.max(), theirs.max())) + 1
    counts = np.zeros((classes, classes))
    np.add.at(counts, (ours, theirs), 1)
    return counts[linear_sum_assignment(-counts)].sum() / len(ours)


def neighbor_ids(store):
    return Table(store, "neighbors").matrix("ids")


def recall(found, true):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), true.tolist(), strict=True)])


class TestStages:
    def test_all_ended_with_the_device_in_use(self, stores, figures):
        store, _ = stores
        manifest = store.manifest()
        stages = manifest["records"]
        assert {"ingest", "labels", "embed", "neighbors", "pseudo_labels", "proxy", "duplicates", "map"} <= set(stages)
        for unit in ("beta_search", "coresets", "evaluation", "coverage"):
            assert f"{unit}/elfs/{runs.BUDGET}" in stages
        assert store.exists("report.html")
        assert manifest["hardware"]["workers"]["device"] == "cuda"
        assert manifest["hardware"]["workers"]["gpus"] == 1
        later = f"beta_search/elfs/{runs.BUDGET}", f"evaluation/elfs/{runs.BUDGET}"
        for unit in ("embed", "neighbors", "pseudo_labels", "proxy", *later):
            assert stages[unit]["metrics"]["devices"] == [runs.DEVICE], unit
        figures["gpu"] = manifest["hardware"]["gpus"]
        figures["seconds"] = {unit: record["seconds"] for unit, record in stages.items()}

    def test_the_other_run_had_no_device(self, stores):
        _, processors = stores
        assert processors.manifest()["hardware"]["workers"]["device"] == "cpu"
        assert processors.manifest()["records"]["embed"]["metrics"]["devices"] == ["cpu"]


class TestBesideProcessors:
    def test_the_encoder_in_float32_gives_the_same_vectors(self, pictures):
        paths = sorted(pictures[0].iterdir())[:64]
        images = [to_uint8(decode(path.read_bytes(), max_pixels=10**6), 96, 1.0, "bilinear") for path in paths]
        encoder, pixels = load_encoder("efficientnet-lite0", image_size=96), torch.from_numpy(np.stack(images))
        expected = encoder.encode(pixels, torch.float32).numpy()
        encoder.module.to(runs.DEVICE)
        vectors = encoder.encode(pixels.to(runs.DEVICE), torch.float32).cpu().numpy()
        assert (normalize_rows(vectors) * normalize_rows(expected)).sum(axis=1).min() >= 0.999

    def test_embeddings(self, stores, figures):
        """On a GPU in bfloat16, of JPEGs that it decodes itself: both move a vector by more than float32 rounds."""
        ours, theirs = (Embeddings(store).unit_vectors() for store in stores)
        cosine = (ours * theirs).sum(axis=1)
        figures["embeddings"] = {"median cosine": float(np.median(cosine)), "least cosine": float(cosine.min())}
        assert np.median(cosine) >= (0.999 if runs.TRY else 0.99)
        assert cosine.min() >= 0.95

    def test_neighbors_are_the_nearest_of_these_embeddings(self, stores, figures):
        vectors = Embeddings(stores[0]).unit_vectors().astype(np.float64)
        similarity = vectors @ vectors.T
        np.fill_diagonal(similarity, -np.inf)
        found = recall(neighbor_ids(stores[0]), np.argsort(-similarity, axis=1)[:, : runs.K])
        between = recall(*(neighbor_ids(store) for store in stores))
        figures["neighbors"] = {"recall": found, "in common with processors": between}
        assert found >= 0.99
        assert between >= 0.8  # half precision changes the order of near ones

    def test_pseudo_labels_but_for_their_names(self, stores, figures):
        equal = agreement(*(Table(store, "pseudo_labels").column("label") for store in stores))
        figures["pseudo-labels in common"] = float(equal)
        assert equal >= 0.95

    def test_dynamics_order_samples_alike(self, stores, figures):
        """The order of the batches is drawn on the device, so that the trainings are not the same."""
        ours, theirs = (read_dynamics(Table(store, "dynamics")) for store in stores)
        for name, values in ours.items():
            assert np.isfinite(values).all(), name
        correlation = {name: float(spearmanr(ours[name], theirs[name])[0]) for name in ("aum", "el2n")}
        figures["rank correlation of dynamics"] = correlation
        assert correlation["aum"] >= 0.5

    def test_coreset_and_its_evaluation(self, stores, figures):
        unit = f"elfs/{runs.BUDGET}"
        ours, theirs = (set(Table(store, f"coresets/{unit}").read()["sample_id"].to_pylist()) for store in stores)
        figures["coreset in common"] = len(ours & theirs) / runs.BUDGET
        assert len(ours) == len(theirs) == runs.BUDGET
        rows = [Table(store, f"evaluation/{unit}").read().to_pandas() for store in stores]
        means = [table.groupby(["model", "subset"])["test_accuracy"].mean() for table in rows]
        figures["test accuracy"] = {" ".join(key): [float(mean[key]) for mean in means] for key in means[0].index}
        assert means[0]["mlp", "elfs"] == pytest.approx(means[1]["mlp", "elfs"], abs=0.1)


def test_killed_in_cluster_and_in_proxy(stores, pictures, tmp_path, figures):
    """Twice gone on from the last checkpoint, to what the run that was let alone has."""
    run_dir = copy_without(stores[0].path(), tmp_path / "killed", "pseudo_labels")
    store = RunFolder(str(run_dir))
    for stage in ("pseudo_labels", "proxy"):
        process = runs.start(*pictures, run_dir, "--until=proxy")
        wait_until(
            lambda stage=stage: any(run_dir.glob(f".work/{stage}-*/training/checkpoint_*")),
            lambda process=process: process.stderr.read().decode(),
            goes_on=lambda process=process: process.poll() is None,
        )
        runs.kill(process)
        assert stage not in store.manifest()["records"]
    runs.finish(runs.start(*pictures, run_dir, "--until=proxy"))
    both = stores[0], store
    equal = float((np.equal(*(Table(each, "pseudo_labels").column("label") for each in both))).mean())
    correlation = float(spearmanr(*(read_dynamics(Table(each, "dynamics"))["aum"] for each in both))[0])
    figures["killed and gone on"] = {"pseudo-labels in common": equal, "rank correlation of aum": correlation}
    assert equal >= 0.99
    assert correlation >= 0.9
