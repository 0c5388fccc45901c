"""Work in this process, for as long as a block runs."""

import contextlib
import os
from collections.abc import Iterator

from elfs_ray.config import RayConfig
from elfs_ray.workers.hardware import hardware_here
from elfs_ray.workers.in_process.tasks import Crew
from elfs_ray.workers.in_process.workers import InProcess
from elfs_ray.workers.machine import keep_freed_memory


@contextlib.contextmanager
def in_process_session(config: RayConfig) -> Iterator[InProcess]:
    """Threads for as many tasks at once as there are processors; what still runs at the end is broken off."""
    # Read when torch is loaded. Threads that spin while they wait take the processors of those that decode.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    hardware = hardware_here(config.num_cpus, config.num_gpus)
    crew = Crew(hardware.cpus)
    try:
        yield InProcess(hardware, crew)
    finally:
        crew.end()
