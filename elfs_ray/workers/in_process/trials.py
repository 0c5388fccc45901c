"""Trials side by side, each on a thread, with logs for TensorBoard."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.workers.base import Search
from elfs_ray.workers.in_process.tasks import Crew

Config = dict[str, Any]
Report = dict[str, Any]


def run_trials(
    crew: Crew,
    trial: Callable[[Any, Config], Iterator[Report]],
    shared: Any,
    configs: Sequence[Config],
    search: Search,
    ended: Callable[[Config, Report], None],
    store: RunFolder,
    work: str,
) -> None:
    """Run all of them to the end; what ended is said as it happens, in this thread."""

    def run(config: Config) -> Report:
        reports = list(trial(shared, config))
        _write_logs(reports, store, f"{work}/{search.logs}/{search.name(config)}")
        return reports[-1]

    tasks = {crew.submit(run, (config,)): config for config in configs}
    for task in as_completed(tasks):
        ended(tasks[task], task.result())


def _write_logs(reports: Sequence[Report], store: RunFolder, folder: str) -> None:
    """The numbers of each report, under the names that Ray Tune gives them."""
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as aside:
        with SummaryWriter(aside, flush_secs=3600) as writer:
            for step, report in enumerate(reports, 1):
                for name, value in _numbers(report):
                    writer.add_scalar(f"ray/tune/{name}", value, global_step=step)
        for file in Path(aside).iterdir():
            store.write_bytes(file.read_bytes(), folder, file.name)


def _numbers(report: Report, before: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a nested report, by the names on the way to them."""
    for name, value in report.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{before}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{before}{name}", value
