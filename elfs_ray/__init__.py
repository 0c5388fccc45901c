"""elfs_ray: choose which images to label.

From unlabelled images and a labelling budget to the coreset that trains the best model, without seeing one label.
"""

from elfs_ray.workers import search_path

TYPE_CHECKING = False  # as type checkers read it; `typing` itself could be found in the working directory

__version__ = "0.2.0"
__all__ = ["Result", "select"]

if TYPE_CHECKING:
    from elfs_ray.api import Result, select


def __getattr__(name: str) -> object:
    # Imported on first use: `import elfs_ray` stays quick and free of Ray.
    if name in __all__:
        with search_path.StandardLibraryFirst():
            from elfs_ray import api

        return getattr(api, name)
    raise AttributeError(f"module 'elfs_ray' has no attribute {name!r}")
