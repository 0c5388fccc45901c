"""The command line. Nothing here computes: it reads options, calls the pipeline and says what came out."""

from elfs_ray.cli import machine, results, runs  # noqa: F401 - their commands enter the app
from elfs_ray.cli.app import app, main

__all__ = ["app", "main"]
