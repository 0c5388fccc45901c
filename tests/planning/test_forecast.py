"""The plan: every stage of the run it is for, finite numbers, and counts that scale as the work does."""

import json
import math
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elfs_ray.config import load_config
from elfs_ray.errors import UsageError
from elfs_ray.planning.auto_options import (
    choose_beta_search,
    choose_cluster,
    choose_evaluation,
    choose_neighbors,
    choose_proxy,
)
from elfs_ray.planning.cost import Rates, Work, estimate, search_seconds
from elfs_ray.planning.forecast import make_plan
from elfs_ray.run.graph import first_steps, later_steps

RATES = Rates(0.001, 0.002, 0.004, 1e11, 0.05, 0.01, 0.002, {"mlp": 0.002})


def work(images=50_000, **changes):
    config = load_config({"input": "/x", "num_classes": 10, "budgets": [100]})
    made = Work(
        stages=("ingest", "embed", "neighbors", "cluster", "proxy", "beta-search", "select", "evaluate", "report"),
        images=images,
        test_images=0,
        dim=1280,
        image_bytes=0.0,
        search_trainings=27,
        trainings=10,
        tested=10_000,
        map_points=20_000,
        neighbors=choose_neighbors(config.neighbors, 2, 0, images, 1280),
        cluster=choose_cluster(config.cluster, "cpu", 1, images, 1280),
        proxy=choose_proxy(config.proxy, "cpu", 1, images, 32, image_dtype="float32"),
        beta_search=choose_beta_search(config.beta_search, 32, 100, image_dtype="float32"),
        evaluate={"mlp": choose_evaluation(config.evaluate, "mlp", 32, image_dtype="float32")},
        cpus=2,
        gpus=0,
    )
    return replace(made, **changes)


def by_stage(estimates):
    return {one.stage: one for one in estimates}


class TestEstimates:
    def test_more_images_take_longer_and_more_space(self):
        one, four = (by_stage(estimate(work(images), RATES)) for images in (50_000, 200_000))
        for stage in ("ingest", "embed", "neighbors"):
            assert four[stage].seconds > 2 * one[stage].seconds
            assert four[stage].disk_bytes == 4 * one[stage].disk_bytes
        assert one["embed"].disk_bytes == 50_000 * 1280 * 2

    def test_gpus_overlap_decoding_and_encoding(self):
        alone, beside = (by_stage(estimate(work(gpus=gpus), RATES))["embed"].seconds for gpus in (0, 1))
        assert alone - beside == pytest.approx(50_000 * RATES.decode / 2)

    def test_budgets_repeat_their_stages(self):
        stages = ("ingest", "beta-search", "beta-search", "select", "select")
        once, twice = (by_stage(estimate(work(stages=some), RATES)) for some in (stages[:2], stages))
        assert twice["beta-search"].seconds == 2 * once["beta-search"].seconds
        assert twice["ingest"] == once["ingest"]

    def test_with_asha_a_candidate_trains_its_seeds_one_after_another(self):
        """27 trainings on 27 cores: all at once, or nine trials of three."""
        options = work().beta_search.model_copy(update={"scheduler": "asha"})
        apart, whole = (
            by_stage(estimate(work(cpus=27, beta_search=some), RATES))["beta-search"]
            for some in (work().beta_search, options)
        )
        assert options.seeds == 3
        assert whole.seconds - apart.seconds == pytest.approx(2 * RATES.search_step * (500 + 5_000 / 384))
        assert (whole.actors, apart.actors) == (9, 27)

    def test_lists_are_cheaper_for_millions(self):
        million = 1_000_000
        section = load_config({"input": "/x", "num_classes": 2, "budgets": [5]}).neighbors
        seconds = [
            search_seconds(
                choose_neighbors(section.model_copy(update={"search": search}), 2, 0, million, 256),
                million, 256, 1e11, 2,
            )
            for search in ("faiss", "ivf_flat")
        ]  # fmt: skip
        assert seconds[1] < seconds[0] / 2


class TestOnTheDigits:
    @pytest.fixture
    def config(self, small_input):
        images, labels = small_input
        return load_config(
            {
                "input": str(images),
                "num_classes": 10,
                "budgets": [40, 80],
                "evaluate.labels": str(labels),
                "evaluate.models": ["mlp", "resnet-small"],
            },
            overrides=["embed.image_size=64", "neighbors.k=10", "cluster.heads=4"],
        )

    def test_every_stage_of_the_run_is_there(self, config):
        from elfs_ray.data.sources import open_source

        plan = make_plan(config, price_per_hour=3.6)
        source = open_source(config.input)
        first = first_steps(config, source)
        stages = {step.stage for step in [*first, *later_steps(config, first, source.count)]}
        assert {one.stage for one in plan.stages} == stages | {"report"}
        for one in plan.stages:
            assert 0 < one.seconds < math.inf
            assert one.disk_bytes >= 0
        assert plan.images == 240
        assert plan.seconds == pytest.approx(sum(one.seconds for one in plan.stages), abs=10)
        assert plan.money == pytest.approx(plan.seconds / 1000)
        rates = dict(vars(plan.calibration.rates))
        assert list(rates["evaluate_steps"]) == ["mlp", "resnet-small"]
        rates.update(rates.pop("evaluate_steps"))
        assert all(0 < rate < math.inf for rate in rates.values())
        assert plan.calibration.cluster.heads == 4
        assert plan.calibration.dim == 1280

    def test_the_command(self, small_input, call, tmp_path):
        """With embeddings that are there already: no encoder is measured, their width counts."""
        vectors = pa.table({"id": ["x"] * 100, "embedding": pa.array([[1.0] * 23 + [0.0]] * 100)})
        pq.write_table(vectors, tmp_path / "vectors.parquet")
        given = ["plan", f"--input={small_input[0]}", "--budget=40", "--num-classes=10", "--price-per-hour=2"]
        code, out, err = call(*given, "--method=random", "--json", f"--embeddings={tmp_path}")
        assert code == 0, err
        shown = json.loads(out)
        assert [one["stage"] for one in shown["stages"]] == ["ingest", "embed", "select", "map", "coverage", "report"]
        assert shown["stages"][1]["disk_bytes"] == 2 * 24 * 240
        assert (shown["calibration"]["dim"], shown["calibration"]["encoder_bytes"]) == (24, 0)
        assert shown["money"] == pytest.approx(2 * shown["seconds"] / 3600)

    def test_hardware_that_is_not_here_is_not_guessed(self, config):
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
        there = config.model_copy(update={"ray": config.ray.model_copy(update={"num_gpus": 8})})
        with pytest.raises(UsageError, match=r"ray\.num_gpus=8, but this machine has no GPU to measure on"):
            make_plan(there)
