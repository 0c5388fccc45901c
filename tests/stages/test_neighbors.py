"""Neighbours from real shard actors: one answer for any number of shards, and what inverted lists miss is said."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table, fixed_size_matrix
from elfs_ray.artifacts.writing import part_name
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.core.knn import recall_at_k
from elfs_ray.errors import UsageError
from elfs_ray.planning.auto_options import choose_neighbors
from elfs_ray.planning.cost import exact_search_seconds, shard_bytes
from elfs_ray.stages import neighbors
from elfs_ray.stages.context import StageContext
from elfs_ray.stages.parts.shard_index import check_gpu_memory, why_no_gpu
from elfs_ray.workers.hardware import Memory
from small import exact_neighbors, write_embeddings

COUNT, DIM, K = 1200, 32, 10


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Crowded vectors: a few blobs and a common direction, so that similarities differ in late digits."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 8))
    low = centres[rng.integers(20, size=COUNT)] + 0.4 * rng.normal(size=(COUNT, 8))
    store = RunFolder(str(tmp_path_factory.mktemp("run")))
    write_embeddings(store, low @ rng.normal(size=(8, DIM)) + 2 * rng.normal(size=DIM))
    return store


@pytest.fixture
def search(store, in_process, tmp_path):
    """Run the stage; returns ids, similarity and metrics. The lists that the first call trains serve the others."""

    def run(name="work", gpus=0, **options):
        given = {"k": K, "query_rows": 500, **options}
        config = load_config({"input": "/x", "num_classes": 2, "budgets": [5], "neighbors": given})
        lists = list((tmp_path / "kept").glob("*")) if (tmp_path / "kept").exists() else []
        work = f".work/{tmp_path.name}-{name}"
        for path in lists:
            store.write_bytes(path.read_bytes(), work, path.name)
        workers = replace(in_process, planned=replace(in_process.planned, gpus=gpus))
        result = neighbors.run(StageContext(config, store, "neighbors", work, workers, Reporter()))
        if store.exists(work, neighbors.TRAINED) and not lists:
            (tmp_path / "kept").mkdir()
            (tmp_path / "kept" / neighbors.TRAINED).write_bytes(store.read_bytes(work, neighbors.TRAINED))
        table = Table(store, f"{work}/{neighbors.FOUND}").read()
        assert table["index"].to_pylist() == list(range(COUNT))
        ids, similarity = (fixed_size_matrix(table[name]) for name in ("ids", "similarity"))
        assert (ids >= 0).all()
        assert not (ids == np.arange(COUNT)[:, None]).any()
        assert (np.diff(similarity, axis=1) <= 0).all()
        return ids, similarity, result.metrics

    return run


def exact(store):
    return exact_neighbors(Embeddings(store).unit_vectors(), K)


class TestShards:
    @pytest.mark.parametrize("how", [
        {"search": "torch"},
        {"search": "faiss"},
        {"search": "ivf_flat", "nlist": 20, "nprobe": 3},
        # One list holds fewer rows than there are neighbours to find: such queries look everywhere.
        {"search": "ivf_flat", "nlist": 150, "nprobe": 1},
    ], ids=["torch", "faiss", "ivf_flat", "short lists"])  # fmt: skip
    def test_any_number_gives_the_same(self, search, how):
        ids, similarity, _ = search("one", shards=1, **how)
        for count in (2, 5):
            again, their_similarity, metrics = search(f"shards-{count}", shards=count, **how)
            assert metrics["shards"] == count
            assert ids.tolist() == again.tolist()
            assert similarity.tolist() == their_similarity.tolist()

    def test_product_codes_find_nearly_the_same(self, search):
        runs = [search(f"shards-{count}", search="ivf_pq", nlist=20, nprobe=10, shards=count) for count in (1, 2, 5)]
        for ids, _, metrics in runs:
            assert metrics["recall"] >= 0.95
            assert recall_at_k(ids, runs[0][0]) >= 0.95

    def test_exact_is_brute_force(self, search, store):
        ids, similarity, metrics = search(search="auto")
        expected, their_similarity = exact(store)
        assert recall_at_k(ids, expected) >= 0.9999
        np.testing.assert_allclose(similarity, their_similarity, atol=1e-6)
        assert metrics["search"] == "torch"
        assert "recall" not in metrics


class TestLists:
    def test_all_lists_find_all(self, search, store):
        ids, _, metrics = search(search="ivf_flat", nlist=20, nprobe=20, shards=2)
        assert recall_at_k(ids, exact(store)[0]) >= 0.9999
        assert metrics["recall"] >= 0.9999

    def test_recall_is_that_of_all_queries(self, search, store):
        ids, _, metrics = search(search="ivf_flat", nlist=60, nprobe=2, shards=2)
        assert metrics["recall"] == pytest.approx(recall_at_k(ids, exact(store)[0]), abs=0.03)
        assert metrics["recall"] < 0.999

    def test_similarity_is_exact_also_behind_codes(self, search, store):
        ids, similarity, _ = search(search="ivf_pq", nlist=10, nprobe=2, shards=2)
        vectors = Embeddings(store).unit_vectors()
        np.testing.assert_allclose(similarity, np.einsum("qd,qkd->qk", vectors, vectors[ids]), atol=1e-6)

    def test_going_on_uses_the_same_lists_and_options(self, search, store, tmp_path):
        options = {"search": "ivf_flat", "nlist": 20, "nprobe": 3, "shards": 1}
        ids, _, _ = search("one", **options)
        work = f".work/{tmp_path.name}-one"
        lists = store.read_bytes(work, neighbors.TRAINED)
        store.delete(work, neighbors.BLOCKS, part_name(1))
        again, _, metrics = search("one", **{**options, "search": "auto", "shards": 2})
        assert again.tolist() == ids.tolist()
        assert metrics["search"] == "ivf_flat"
        assert store.read_bytes(work, neighbors.TRAINED) == lists

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"nlist": 2000}, r"neighbors\.nlist is 2000, but there are only 1200 samples"),
            ({"nlist": 10, "nprobe": 11}, r"neighbors\.nprobe is 11, more than neighbors\.nlist=10"),
            ({"search": "ivf_pq", "pq_m": 5}, r"neighbors\.pq_m=5 does not divide the embeddings' width 32; use 4"),
            ({"search": "ivf_pq", "pq_nbits": 12}, r"neighbors\.pq_nbits=12 needs 4096 samples, but there are only"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, search, options, message):
        with pytest.raises(UsageError, match=message):
            search(**{"search": "ivf_flat", **options})


class TestMemory:
    def test_shards_that_find_no_room_are_refused(self, search):
        message = r"needs 1000 x 0\.7 GiB of memory \(faiss\), but 1 node\(s\) have [0-9.]+ GiB to give; use .*or more"
        with pytest.raises(UsageError, match=message):
            search(search="faiss", shards=1000)

    def test_actors_are_not_split_between_nodes(self):
        assert Memory((10, 7), may_grow=False).holds(3, 5)
        assert not Memory((10, 7), may_grow=False).holds(4, 4)
        assert Memory((10, 7), may_grow=True).holds(100, 100)

    def test_bytes_follow_what_is_held(self):
        section = load_config({"input": "/x", "num_classes": 2, "budgets": [5]}).neighbors
        million = 1_000_000
        sizes = {}
        for search in ("torch", "faiss", "ivf_flat", "ivf_pq"):
            options = section.model_copy(update={"search": search})
            options = choose_neighbors(options, 2, 0, million, 256)
            sizes[search] = shard_bytes(options, million, 256)
        assert sizes["faiss"] - million * 256 * 4 < 800 << 20
        assert sizes["ivf_pq"] < sizes["faiss"] < sizes["torch"] < sizes["ivf_flat"]


class TestGpus:
    def options(self, search, **others):
        section = load_config({"input": "/x", "num_classes": 2, "budgets": [5]}).neighbors
        return choose_neighbors(section.model_copy(update={"search": search, **others}), 2, 1, 2_000_000, 768)

    def test_a_shard_that_does_not_fit_is_refused(self):
        """Two million rows of 768: 2.9 GiB of halves, 5.7 of floats, and 1.5 to work in."""
        check_gpu_memory(self.options("torch"), 2_000_000, 768, 5 << 30)
        for search, free, needed in (("torch", 4 << 30, "4.4"), ("faiss", 7 << 30, "7.2")):
            message = (
                rf"shard of 2000000 rows needs {needed} GiB of its GPU's memory, but {free >> 30}\.0 GiB are free; "
            )
            with pytest.raises(UsageError, match=message) as refused:
                check_gpu_memory(self.options(search), 2_000_000, 768, free)
            assert ("neighbors.search=torch" in str(refused.value)) == (search == "faiss")

    def test_main_memory_holds_no_rows_of_a_gpus_products(self):
        few, many = (shard_bytes(self.options("torch"), rows, 768, on_gpu=True) for rows in (1000, 2_000_000))
        assert few == many

    @pytest.mark.skipif(torch.cuda.is_available(), reason="it has a GPU")
    def test_without_one_it_says_why(self):
        assert why_no_gpu(self.options("torch")) == "torch finds none"

    @pytest.mark.parametrize(("gpus", "how", "line"), [
        (1, {"search": "faiss", "shards": 2}, "processors search, not GPUs: 2 index shards are more than 1 GPUs"),
        (1, {"search": "ivf_flat", "nlist": 5}, "processors search, not GPUs: inverted lists have no use for them"),
        (0, {"search": "torch"}, None),
    ])  # fmt: skip
    def test_processors_in_their_place_are_not_silent(self, search, store, monkeypatch, gpus, how, line):
        """GPUs that Ray gives and torch cannot use: tests/cluster/test_cluster.py."""
        said = []
        monkeypatch.setattr(Reporter, "line", lambda self, text: said.append(text.strip()))
        ids, _, metrics = search(gpus=gpus, **how)
        assert [text for text in said if "processors" in text] == ([line] if line else [])
        if metrics["search"] in ("faiss", "torch"):
            assert recall_at_k(ids, exact(store)[0]) >= 0.9999


class TestAuto:
    SECTION = load_config({"input": "/x", "num_classes": 2, "budgets": [5]}).neighbors

    @pytest.mark.parametrize(
        ("cpus", "gpus", "count", "dim", "search"),
        [
            (2, 0, 100_000, 1280, "torch"),
            (2, 0, 1_000_000, 256, "ivf_flat"),
            (64, 0, 1_000_000, 256, "torch"),
            (16, 8, 3_000_000, 768, "torch"),
            (16, 1, 1_281_167, 768, "torch"),
            (64, 8, 100_000_000, 768, "ivf_flat"),
        ],
    )
    def test_exact_where_that_is_affordable(self, cpus, gpus, count, dim, search):
        chosen = choose_neighbors(self.SECTION, cpus, gpus, count, dim)
        assert chosen.search == search
        assert chosen.nprobe <= chosen.nlist <= count
        assert dim % chosen.pq_m == 0
        assert (chosen.shards == gpus) == (gpus > 0 and search == "torch")

    def test_codes_where_rows_do_not_fit(self):
        assert choose_neighbors(self.SECTION, 2, 0, 10_000_000, 256, memory=8 << 30).search == "ivf_pq"

    @pytest.mark.parametrize(("search", "shards"), [("faiss", 1), ("torch", 1)])
    def test_gpus_are_used_up_to_their_memory(self, search, shards):
        section = self.SECTION.model_copy(update={"search": search})
        assert choose_neighbors(section, 2, shards, 2_000_000, 768).shards == shards
        # Ten million rows fit into no GPU that is meant here; a shard more than GPUs means processors.
        assert choose_neighbors(section, 2, shards, 10_000_000, 768).shards > shards
        # Wide rows, and so few that one shard would do for processors.
        assert choose_neighbors(section, 2, shards, 1_000_000, 8192).shards > shards

    def test_cost_grows_with_the_square(self):
        one, four = (exact_search_seconds(count, 100, 2, 0) for count in (1000, 2000))
        assert four == pytest.approx(4 * one)
