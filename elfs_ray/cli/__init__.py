"""The command line. Nothing here computes: it reads options, calls the pipeline and says what came out."""

from elfs_ray.workers import search_path

search_path.put_standard_library_first()  # before anything else is imported

from elfs_ray.cli import machine, results, runs  # noqa: E402, F401 - their commands enter the app
from elfs_ray.cli.app import app, command, main  # noqa: E402

__all__ = ["app", "command", "main"]
