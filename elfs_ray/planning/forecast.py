"""What a run would take, said before anything runs: rows, bytes, hours and money.

The stages and their options are those that a run would choose (`run.graph`, `auto_options`); the seconds come from a
calibration of a few seconds on this machine (`calibrate`), scaled by counts (`stage_costs`). Nothing is written.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from elfs_ray.config import RunConfig
from elfs_ray.errors import RunError
from elfs_ray.planning.plan import Plan


def make_plan(config: RunConfig, *, price_per_hour: float | None = None) -> Plan:
    """Look at the input, measure for some seconds, and estimate.

    All of it is done in a process of its own, as Ray's workers are: how threads wait is settled when a process starts.
    This one imports nothing that takes seconds.

    Args:
        config: as for a run.
        price_per_hour: of the whole machine or cluster.

    Raises:
        UsageError: as a run would raise before it starts; or hardware that this machine cannot measure.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            return process.submit(_estimated, config, price_per_hour).result()
        except BrokenProcessPool:
            raise RunError(
                "the process that measured this machine was killed, probably for memory; free some"
            ) from None


def _estimated(config: RunConfig, price_per_hour: float | None) -> Plan:
    # As in a run, and before torch reads it. Threads that spin while they wait take the processors of those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from elfs_ray.planning.estimating import estimated
    from elfs_ray.workers.machine import keep_freed_memory

    keep_freed_memory()

    return estimated(config, price_per_hour)
