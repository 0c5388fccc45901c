"""Where a run works: in this process, or on Ray."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from elfs_ray.config import RayConfig, RunConfig
from elfs_ray.errors import UsageError

if TYPE_CHECKING:
    from elfs_ray.workers.base import Workers

IN_PROCESS, ON_RAY = "in this process", "on Ray"
MOST_IN_PROCESS = 10_000
"""Images of a run that needs no Ray: as many as are listed while the user waits. Where Ray pays was not measured."""


def check_where(configs: Sequence[RunConfig]) -> None:
    """Refuse to work without Ray where an option asks for it.

    Raises:
        UsageError: `ray.mode` is `never`, and another option needs Ray.
    """
    config = configs[0]
    needs = _needs(configs)
    if config.ray.mode == "never" and needs:
        raise UsageError(f"{needs[0]} needs Ray, and ray.mode is 'never'; leave one of the two out")


def works_on_ray(configs: Sequence[RunConfig], count: int | None) -> bool:
    """Whether a run over so many images (None: not known) works on Ray."""
    ray = configs[0].ray
    if ray.mode != "auto":
        return ray.mode == "always"
    if _connected() or os.environ.get("RAY_ADDRESS") or _needs(configs):
        return True
    if count is None or count > MOST_IN_PROCESS:
        return True
    from elfs_ray.workers.hardware import hardware_here

    return hardware_here(ray.num_cpus, ray.num_gpus).gpus > 1


@contextlib.contextmanager
def workers_of(config: RayConfig, *, on_ray: bool, verbose: bool = False) -> Iterator["Workers"]:
    """The workers of a run."""
    if on_ray:
        from elfs_ray.workers.on_ray.session import ray_session

        with ray_session(config, verbose=verbose) as workers:
            yield workers
    else:
        from elfs_ray.workers.in_process.session import in_process_session

        with in_process_session(config) as here:
            yield here


def _needs(configs: Sequence[RunConfig]) -> list[str]:
    """Options that one process cannot fulfil."""
    config = configs[0]
    several = {
        "pseudo_labels.workers": config.pseudo_labels.workers,
        "proxy.workers": config.proxy.workers,
    }
    found = [f"{name}={value}" for name, value in several.items() if value not in ("auto", 1)]
    if config.beta_search.scheduler == "asha":
        found.append("beta_search.scheduler=asha")
    if config.ray.address:
        found.append(f"ray.address={config.ray.address}")
    return found


def _connected() -> bool:
    """Whether whoever calls has connected this process to Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and hasattr(ray, "is_initialized") and ray.is_initialized()
