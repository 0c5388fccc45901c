"""What a run would take, said before anything runs: rows, bytes, hours and money.

The stages and their options are those that a run would choose (`run.graph`, `auto_options`); the seconds come from a
calibration of a few seconds on this machine (`calibrate`), scaled by counts (`stage_costs`). Nothing is written.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Any

from rich.table import Table

from elfs_ray.artifacts.record import TEST, Records
from elfs_ray.config import RunConfig
from elfs_ray.console import told_time
from elfs_ray.core.pruning import beta_grid, budget_count
from elfs_ray.data.sources import Source, open_input
from elfs_ray.errors import RunError, UsageError
from elfs_ray.planning import stage_costs
from elfs_ray.planning.auto_options import choose_neighbors
from elfs_ray.planning.calibrate import Calibration, calibrate
from elfs_ray.planning.cost import SESSION_SECONDS, StageEstimate, Work, estimate
from elfs_ray.run.errors_seen import expected_errors
from elfs_ray.run.graph import all_units
from elfs_ray.run.preflight import check_embeddings, check_inputs, check_pictures, check_sizes
from elfs_ray.stages.identity import check_num_classes, method_of
from elfs_ray.stages.parts.listed import location_of, prefixes_of
from elfs_ray.workers.hardware import Hardware, has_bfloat16


@dataclass(frozen=True)
class Plan:
    """An estimate of a whole run.

    Attributes:
        stages: in order.
        seconds: of all, with connecting to Ray.
        disk_bytes: of the finished run folder; about twice the largest artifact more while a stage works.
        money: in the unit of the price, or None.
        images: candidates.
        calibration: what was measured.
        hardware: that is planned for.
        load: processes that wanted a core of this machine while it was measured; well above 0 makes all look slower.
    """

    stages: list[StageEstimate]
    seconds: float
    disk_bytes: int
    money: float | None
    images: int
    calibration: Calibration
    hardware: Hardware
    load: float

    def tables(self) -> Iterator[Table | str]:
        """What a person reads."""
        table = Table(box=None, pad_edge=False)
        for name in ("stage", "rows", "time", "run folder", "memory of its processes"):
            table.add_column(name, justify="left" if name == "stage" else "right")
        for stage in self.stages:
            memory = f"{stage.actors} x {_size(stage.actor_bytes)}" if stage.actors else "-"
            disk = _size(stage.disk_bytes) if stage.disk_bytes else "-"
            table.add_row(stage.stage, f"{stage.rows:,}" if stage.rows else "-", told_time(stage.seconds), disk, memory)
        yield table
        yield f"total {told_time(self.seconds)}, run folder {_size(self.disk_bytes)}" + (
            "" if self.money is None else f", money {self.money:,.2f}"
        )
        there = self.hardware
        yield (
            f"for {there.cpus} cores and {there.gpus} GPUs, measured on {self.calibration.images} images of "
            f"{self.images:,} on this machine (load {self.load:.1f}); methods that compare images take longer to select"
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        for section in ("pseudo_labels", "proxy", "beta_search"):
            values["calibration"][section] = getattr(self.calibration, section).model_dump(mode="json")
        evaluate = self.calibration.evaluate.items()
        values["calibration"]["evaluate"] = {model: options.model_dump(mode="json") for model, options in evaluate}
        return values


def make_plan(config: RunConfig, *, price_per_hour: float | None = None) -> Plan:
    """Look at the input, measure for some seconds, and estimate.

    Args:
        config: as for a run.
        price_per_hour: of the whole machine or cluster.

    Raises:
        UsageError: as a run would raise before it starts; or hardware that this machine cannot measure.
    """
    with expected_errors("the plan", config.location):
        return _make_plan(config, price_per_hour)


def _make_plan(config: RunConfig, price_per_hour: float | None) -> Plan:
    check_num_classes(config)
    check_embeddings(config)
    check_pictures(config)
    hardware, load = _hardware(config), os.getloadavg()[0]
    listed = {prefix: open_input(config, location_of(config, prefix)) for prefix in prefixes_of(config)}
    check_inputs(config, listed)
    source = listed[""]
    check_sizes(config, source.count)
    units = all_units([config], Records({}), source.count)
    # A stage has one line, for all budgets; its function counts separate test images itself.
    budgets = Counter(each.stage for each in units if not each.unit.prefix)
    stages = [(stage.command, stage.cost, times) for stage, times in budgets.items()]
    test_images = listed[TEST].count if TEST in listed else 0
    measured = _measure(config, source, hardware)
    seen = _seen_as_pixels(config, {each.stage.name for each in units}, source.count, test_images, measured)
    work = replace(_work(config, source, test_images, measured, hardware), pixels=seen)
    if seen:
        stages.append(("pixels", stage_costs.pixels, 1))
    found = estimate([*stages, ("report", stage_costs.report, 1)], work, measured.rates)
    seconds = SESSION_SECONDS + sum(stage.seconds for stage in found)
    money = None if price_per_hour is None else price_per_hour * seconds / 3600
    disk = sum(stage.disk_bytes for stage in found)
    return Plan(found, seconds, disk, money, source.count, measured, hardware, round(load, 2))


def _measure(config: RunConfig, source: Source, hardware: Hardware) -> Calibration:
    """Calibrate in a process of its own, as Ray's workers are: how threads wait is settled when a process starts."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            return process.submit(calibrate, config, source, hardware).result()
        except BrokenProcessPool:
            raise RunError(
                "the process that measured this machine was killed, probably for memory; free some"
            ) from None


def _hardware(config: RunConfig) -> Hardware:
    """What the configuration says, or this machine has."""
    import torch

    here = torch.cuda.device_count()
    gpus = here if config.ray.num_gpus is None else config.ray.num_gpus
    if gpus and not here:
        raise UsageError(
            f"ray.num_gpus={gpus}, but this machine has no GPU to measure on; plan on a machine like the cluster's"
        )
    cpus = config.ray.num_cpus or len(os.sched_getaffinity(0))
    return Hardware("cuda" if gpus else "cpu", cpus, gpus, has_bfloat16())


def _seen_as_pixels(
    config: RunConfig, planned: Collection[str], images: int, test_images: int, measured: Calibration
) -> dict[int, int]:
    """Images that networks train or test on in these stages, by pixels a side."""
    proxy = measured.proxy
    on_all = {"proxy": proxy.model != "mlp" and proxy.image_size, "beta_search": measured.beta_search.image_size}
    seen = {int(side): images for stage, side in on_all.items() if stage in planned}
    if "evaluate" in planned:
        drawn = sum(budget_count(budget, images) for budget in config.budgets) * (1 + config.evaluate.seeds)
        for side in {int(options.image_size) for options in measured.evaluate.values()}:
            seen[side] = max(seen.get(side, 0), min(images, drawn) if test_images else images) + test_images
    return {side: count for side, count in seen.items() if side}


def _work(config: RunConfig, source: Source, test_images: int, measured: Calibration, hardware: Hardware) -> Work:
    """Counts and options as the run would choose them."""
    images = source.count
    neighbors = choose_neighbors(config.neighbors, hardware.cpus, hardware.gpus, images, measured.dim)
    method = method_of(config)
    budgets = [budget_count(budget, images) for budget in config.budgets]
    keep = min(budgets) / images
    betas = beta_grid(keep) if config.beta_search.betas == "auto" else list(config.beta_search.betas)
    subsets = 1 if config.select.method == "random" else 2
    return Work(
        images=images,
        test_images=test_images,
        dim=measured.dim,
        image_bytes=measured.image_bytes if source.carries_bytes else 0.0,
        search_trainings=len(method.candidates(betas)) * config.beta_search.seeds,
        trainings=subsets * config.evaluate.seeds,
        tested=test_images or max(0, images - round(subsets * sum(budgets) / len(budgets))),
        map_points=min(config.report.map_points, images),
        neighbors=neighbors,
        pseudo_labels=measured.pseudo_labels,
        proxy=measured.proxy,
        beta_search=measured.beta_search,
        evaluate=measured.evaluate,
        cpus=hardware.cpus,
        gpus=hardware.gpus,
    )


def _size(count: float) -> str:
    """Bytes in a unit that reads well."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
