"""What goes into a plan: the units of the run, what this machine measured, and counts from a look at the input.

It runs in a process of its own (`forecast`), which imports all that measures.
"""

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from elfs_ray.artifacts.record import TEST, Records
from elfs_ray.config import RunConfig
from elfs_ray.core.pruning import beta_grid, budget_count
from elfs_ray.data.sources import Source, open_input
from elfs_ray.errors import UsageError
from elfs_ray.planning import stage_costs
from elfs_ray.planning.auto_options import choose_neighbors
from elfs_ray.planning.calibrate import calibrate
from elfs_ray.planning.cost import Work, estimate
from elfs_ray.planning.plan import Calibration, Plan
from elfs_ray.run.errors_seen import expected_errors
from elfs_ray.run.graph import all_units
from elfs_ray.run.preflight import check_embeddings, check_inputs, check_pictures
from elfs_ray.run.where import works_on_ray
from elfs_ray.stages.identity import check_num_classes, method_of
from elfs_ray.stages.parts.listed import location_of, prefixes_of
from elfs_ray.workers.hardware import Hardware, hardware_here


def estimated(config: RunConfig, price_per_hour: float | None) -> Plan:
    """Look at the input, measure for some seconds, and estimate.

    Args:
        config: as for a run.
        price_per_hour: of the whole machine or cluster.

    Raises:
        UsageError: as a run would raise before it starts; or hardware that this machine cannot measure.
    """
    with expected_errors("the plan", config.location):
        return _estimated(config, price_per_hour)


def _estimated(config: RunConfig, price_per_hour: float | None) -> Plan:
    check_num_classes(config)
    check_embeddings(config)
    check_pictures(config)
    load, hardware = os.getloadavg()[0], _hardware(config)
    listed = {prefix: open_input(config, location_of(config, prefix)) for prefix in prefixes_of(config)}
    check_inputs(config, listed)
    source = listed[""]
    units = all_units([config], Records({}), source.count)
    # A stage has one line, for all budgets; its function counts separate test images itself.
    budgets = Counter(each.stage for each in units if not each.unit.prefix)
    stages = [(stage.command, stage.cost, times) for stage, times in budgets.items()]
    test_images = listed[TEST].count if TEST in listed else 0
    planned, on_ray = {each.stage.name for each in units}, works_on_ray([config], source.count + test_images)
    # In one process, trainings side by side wait for each other.
    measured = calibrate(
        config, source, hardware, planned, side_by_side=1 if on_ray or hardware.gpus else hardware.cpus
    )
    seen = _seen_as_pixels(config, planned, source.count, test_images, measured)
    work = replace(_work(config, source, test_images, measured, hardware), pixels=seen, on_ray=on_ray)
    if seen:
        stages.append(("pixels", stage_costs.pixels, 1))
    found = estimate([*stages, ("report", stage_costs.report, 1)], work, measured.rates)
    seconds = stage_costs.start_seconds("session", work) + sum(stage.seconds for stage in found)
    money = None if price_per_hour is None else price_per_hour * seconds / 3600
    disk = sum(stage.disk_bytes for stage in found)
    return Plan(found, seconds, disk, money, source.count, measured, hardware, round(load, 2))


def _hardware(config: RunConfig) -> Hardware:
    """What the configuration says, or this machine has."""
    import torch

    hardware = hardware_here(config.ray.num_cpus, config.ray.num_gpus)
    if hardware.gpus and not torch.cuda.is_available():
        raise UsageError(
            f"ray.num_gpus={hardware.gpus}, but this machine has no GPU to measure on; plan on a machine like the "
            "cluster's"
        )
    return hardware


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
