"""The plan: every stage of the run it is for, finite numbers, and counts that scale as the work does."""

import json
import math
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elfs_ray.artifacts.record import Records
from elfs_ray.config_loading import load_config
from elfs_ray.errors import UsageError
from elfs_ray.planning import stage_costs
from elfs_ray.planning.auto_options import (
    choose_beta_search,
    choose_evaluations,
    choose_neighbors,
    choose_proxy,
    choose_pseudo_labels,
)
from elfs_ray.planning.cost import Cost, Rates, StageEstimate, Work, estimate, search_seconds
from elfs_ray.planning.forecast import make_plan
from elfs_ray.run.graph import all_units

RATES = Rates(0.001, 0.002, 0.004, 1e11, 0.05, 0.01, 0.002, {"mlp": 0.002, "resnet-small": 0.03}, components=0.5)


def work(images=50_000, device="cpu", side=32, dim=1280, options=(), **changes):
    config = load_config({"input": "/x", "num_classes": 10, "budgets": [100]}, overrides=options)
    cpus, gpus = changes.setdefault("cpus", 2), changes.setdefault("gpus", 0)
    units, dtypes = max(1, gpus), {"image_dtype": "float32"}
    made = Work(
        images=images,
        test_images=0,
        dim=dim,
        image_bytes=0.0,
        search_trainings=27,
        trainings=10,
        tested=10_000,
        map_points=20_000,
        neighbors=choose_neighbors(config.neighbors, cpus, gpus, images, dim),
        pseudo_labels=choose_pseudo_labels(
            config.pseudo_labels, device, units, images, dim, num_classes=10, neighbors=50
        ),
        proxy=choose_proxy(config.proxy, device, units, images, dim, side, **dtypes),
        beta_search=choose_beta_search(config.beta_search, config.evaluate, side, 100, **dtypes),
        evaluate=choose_evaluations(config.evaluate, side, **dtypes),
        cpus=cpus,
        gpus=gpus,
    )
    return replace(made, **changes)


WORKS = {
    "cores": work(),
    "gpus": work(
        400_000, "cuda", 128, options=["evaluate.models=[mlp, resnet-small]"],
        cpus=32, gpus=4, test_images=10_000, image_bytes=9000.5,
    ),
    "lists, asha and images": work(
        3_000_000, side=64, dim=256, cpus=8, pixels={32: 1_000, 64: 3_000_000}, options=[
            *("neighbors.search=ivf_pq", "beta_search.scheduler=asha", "beta_search.model=resnet-small"),
            *("proxy.model=resnet18", "evaluate.models=[resnet-small]"),
        ],
    ),
}  # fmt: skip
SAME = {"labels": 0.1, "select": 0.1, "duplicates": 0.5, "coverage": 0.3, "report": 2.4}
COSTS_OF_WORKS = {
    "cores": {
        "ingest": Cost(27.0, 50_000, 7_500_000),
        "embed": Cost(257.0, 50_000, 128_000_000),
        "neighbors": Cost(65.5, 50_000, 30_000_000, 1, 1_782_726_656),
        "pseudo_labels": Cost(104.7, 50_000, 1_000_000, 1, 1_163_603_200),
        "anchor": Cost(2.0, 50_000, 1_000_000),
        "proxy": Cost(66.30000000000001, 50_000, 3_000_000, 1, 795_203_200),
        "beta_search": Cost(8.130208333333334, 27, 0, 2, 990_003_200),
        "evaluate": Cost(3.0520833333333335, 10, 0, 2, 785_203_200),
        "map": Cost(31.5, 20_000, 800_000),
    },
    "gpus": {
        "ingest": Cost(14.8125, 410_000, 3_751_705_000),
        "embed": Cost(417.0, 410_000, 1_049_600_000),
        "neighbors": Cost(1025.5, 400_000, 240_000_000, 4, 2_080_374_784),
        "pseudo_labels": Cost(7836.525000000001, 400_000, 8_000_000, 4, 3_966_003_200),
        "anchor": Cost(2.0, 400_000, 8_000_000),
        "proxy": Cost(3133.0, 400_000, 24_000_000, 4, 5_729_203_200),
        "beta_search": Cost(6.608333333333333, 27, 0, 9, 2_782_003_200),
        "evaluate": Cost(185.39583333333334, 20, 0, 10, 785_203_200),
        "map": Cost(9.0, 20_000, 800_000),
    },
    "lists, asha and images": {
        "ingest": Cost(377.0, 3_000_000, 450_000_000),
        "embed": Cost(12757.0, 3_000_000, 1_536_000_000),
        "neighbors": Cost(4933.254904678636, 3_000_000, 1_800_000_000, 4, 1_231_641_984),
        "pseudo_labels": Cost(5938.725, 3_000_000, 60_000_000, 1, 8_078_003_200),
        "anchor": Cost(2.0, 3_000_000, 60_000_000),
        "proxy": Cost(23445.0, 3_000_000, 180_000_000, 1, 38_198_003_200),
        "beta_search": Cost(11.125, 27, 0, 8, 3_806_003_200),
        "evaluate": Cost(122.5625, 10, 0, 8, 734_003_200),
        "pixels": Cost(750.25, 3_001_000, 36_867_072_000),
        "map": Cost(9.0, 20_000, 800_000),
    },
}


@pytest.mark.parametrize(
    ("images", "classes", "neighbors", "pairs", "components"),
    [
        (2, 2, 1, 1, 1),
        (5, 2, 2, 1, 4),
        (41, 10, 20, 2, 40),
        (41, 3, 20, 6, 40),
        (300, 10, 50, 15, 128),
        (1797, 10, 50, 50, 128),
    ],
)
def test_few_images_have_few_neighbours(images, classes, neighbors, pairs, components):
    """Half of the others at most; a pair is drawn from half a class at most: what is farther is of another class."""
    config = load_config({"input": "/x", "num_classes": classes, "budgets": [1]})
    found = choose_neighbors(config.neighbors, 2, 0, images, 1280)
    assert found.k == neighbors
    chosen = choose_pseudo_labels(
        config.pseudo_labels, "cpu", 2, images, 1280, num_classes=classes, neighbors=int(found.k)
    )
    assert (chosen.num_neighbors, chosen.pca_dim) == (pairs, components)
    assert 1 <= chosen.batch_size <= images
    named = config.pseudo_labels.model_copy(update={"num_neighbors": 7, "pca_dim": 64})
    kept = choose_pseudo_labels(named, "cpu", 2, images, 1280, num_classes=classes, neighbors=50)
    assert (kept.num_neighbors, kept.pca_dim) == (7, 64)


class TestCosts:
    @pytest.mark.parametrize("name", WORKS)
    def test_stay_what_they_were(self, name):
        found = {stage: getattr(stage_costs, stage)(WORKS[name], RATES) for stage in COSTS_OF_WORKS[name] | SAME}
        assert found == COSTS_OF_WORKS[name] | {stage: Cost(seconds) for stage, seconds in SAME.items()}

    def test_gpus_overlap_decoding_and_encoding(self):
        alone, beside = (stage_costs.embed(work(gpus=gpus), RATES).seconds for gpus in (0, 1))
        assert alone - beside == pytest.approx(50_000 * RATES.decode / 2)

    def test_a_stage_that_runs_for_each_budget_has_one_line(self):
        stages = [("ingest", stage_costs.ingest, 1), ("search", stage_costs.beta_search, 2)]
        ingest, search = estimate(stages, work(), RATES)
        once = stage_costs.beta_search(work(), RATES)
        assert (search.seconds, search.rows) == (2 * once.seconds, 2 * once.rows)
        assert (search.actors, search.actor_bytes) == (once.actors, once.actor_bytes), "one budget after the other"
        assert ingest == StageEstimate(stage="ingest", **vars(stage_costs.ingest(work(), RATES)))

    def test_a_trial_trains_all_seeds_of_a_candidate(self):
        """27 trainings are nine trials: with eight cores in two rounds, with nine in one."""
        two, one = (stage_costs.beta_search(work(cpus=cpus), RATES) for cpus in (8, 27))
        steps = int(work().beta_search.steps) + 5_000 / 384
        assert two.seconds - one.seconds == pytest.approx(RATES.search_step * steps)
        assert (two.actors, one.actors) == (8, 9)

    def test_an_evaluation_trains_all_seeds_at_once_on_embeddings(self):
        """Ten trainings are two tasks; on images, or where samples are hidden, they are ten."""
        found = [
            stage_costs.evaluate(work(cpus=10, options=[f"evaluate.{option}"]), RATES)
            for option in ("steps=1000", "hide=0.5", "models=[resnet-small]")
        ]
        assert [(cost.rows, cost.actors) for cost in found] == [(10, 2), (10, 10), (10, 10)]

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
            overrides=["embed.image_size=64", "neighbors.k=10", "pseudo_labels.heads=4"],
        )

    def test_every_stage_of_the_run_is_there(self, config):
        plan = make_plan(config, price_per_hour=3.6)
        units = all_units([config], Records({}), plan.images)
        stages = {each.stage.command for each in units}
        assert {one.stage for one in plan.stages} == stages | {"pixels", "report"}
        [pixels] = [one for one in plan.stages if one.stage == "pixels"]
        assert (pixels.rows, pixels.disk_bytes) == (240, 240 * 3 * 64**2)  # once, for two budgets
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
        assert plan.calibration.pseudo_labels.heads == 4
        assert plan.calibration.dim == 1280

    def test_the_command(self, small_input, call, tmp_path):
        """With embeddings that are there already: no encoder is measured, their width counts."""
        vectors = pa.table({"id": ["x"] * 100, "embedding": pa.array([[1.0] * 23 + [0.0]] * 100)})
        pq.write_table(vectors, tmp_path / "vectors.parquet")
        given = ["plan", f"--input={small_input[0]}", "--budget=40", "--num-classes=10", "--price-per-hour=2"]
        code, out, err = call(*given, "--method=zcore", "--json", f"--embeddings={tmp_path}")
        assert code == 0, err
        shown = json.loads(out)
        assert [one["stage"] for one in shown["stages"]] == [
            "listing",
            "ingest",
            "embed",
            "select",
            "map",
            "coverage",
            "report",
        ]
        assert shown["stages"][2]["disk_bytes"] == 2 * 24 * 240
        assert (shown["calibration"]["dim"], shown["calibration"]["encoder_bytes"]) == (24, 0)
        rates = shown["calibration"]["rates"]
        assert {name for name in rates if rates[name]} == {"check", "decode"}, "no other stage is planned"
        assert shown["money"] == pytest.approx(2 * shown["seconds"] / 3600)

    def test_hardware_that_is_not_here_is_not_guessed(self, config):
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
        there = config.model_copy(update={"ray": config.ray.model_copy(update={"num_gpus": 8})})
        with pytest.raises(UsageError, match=r"ray\.num_gpus=8, but this machine has no GPU to measure on"):
            make_plan(there)
