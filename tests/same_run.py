"""Whether two run folders hold the same, but for times."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from elfs_ray.artifacts.run_folder import LOGS, RunFolder
from elfs_ray.artifacts.table import Table

TIMES = ("seconds", "per_second", "memory_mb")


def assert_same_run(one: str | Path, other: str | Path) -> None:
    """Every row of every artifact, every chosen option, every figure that is no time."""
    ours, theirs = (RunFolder(str(run_dir)).records() for run_dir in (one, other))
    assert ours.keys() == theirs.keys()
    for unit, record in ours.items():
        same = theirs[unit]
        assert (record.fingerprint, record.content, record.chosen) == (same.fingerprint, same.content, same.chosen)
        assert _without_times(record.metrics) == _without_times(same.metrics), unit
        assert_same_rows(one, other, [name for name in record.artifacts if not name.startswith(LOGS)])


def assert_same_rows(one: str | Path, other: str | Path, artifacts: Iterable[str], but: Iterable[str] = ()) -> None:
    """Every row of these artifacts, but for some columns and the time that a training took."""
    for artifact in artifacts:
        tables = [Table(RunFolder(str(run_dir)), artifact).read() for run_dir in (one, other)]
        kept = [name for name in tables[0].schema.names if name not in {"seconds", *but}]
        ours, theirs = (table.select(kept) for table in tables)
        assert ours.equals(theirs), artifact


def _without_times(value: Any) -> Any:
    """Metrics but for those that differ from run to run."""
    if isinstance(value, dict):
        return {name: _without_times(each) for name, each in value.items() if not name.endswith(TIMES)}
    return value
