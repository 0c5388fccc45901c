"""elfs_ray: choose which images to label.

From unlabelled images and a labelling budget to the coreset that trains the best model, without seeing one label.
"""

from elfs_ray.workers import search_path

TYPE_CHECKING = False  # as type checkers read it; `typing` itself could be found in the working directory

__version__ = "0.2.0"
__all__ = [
    "BetaSearchConfig",
    "CoresetSelector",
    "EmbedConfig",
    "EvaluateConfig",
    "IngestConfig",
    "NeighborsConfig",
    "ProxyConfig",
    "PseudoLabelsConfig",
    "RayConfig",
    "ReportConfig",
    "Result",
    "SelectConfig",
    "pick",
    "run_stage",
    "select",
]

if TYPE_CHECKING:
    from elfs_ray.api import pick, run_stage, select
    from elfs_ray.config import (
        BetaSearchConfig,
        EmbedConfig,
        EvaluateConfig,
        IngestConfig,
        NeighborsConfig,
        ProxyConfig,
        PseudoLabelsConfig,
        RayConfig,
        ReportConfig,
        SelectConfig,
    )
    from elfs_ray.estimator import CoresetSelector
    from elfs_ray.results import Result

_HOMES = {
    "CoresetSelector": "estimator",
    "Result": "results",
    "pick": "api",
    "run_stage": "api",
    "select": "api",
}
"""Public name -> its module; of all others `config`."""


def __getattr__(name: str) -> object:
    # Imported on first use: `import elfs_ray` stays quick and free of Ray.
    if name in __all__:
        with search_path.StandardLibraryFirst():
            from importlib import import_module

            return getattr(import_module(f"elfs_ray.{_HOMES.get(name, 'config')}"), name)
    raise AttributeError(f"module 'elfs_ray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
