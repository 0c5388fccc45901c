"""The listing of an input: seconds, and the memory of the driver, by the number of its entries.

    python benchmarks/listing.py --entries 10000 100000 1000000
    python benchmarks/listing.py --kind members --at 's3://photos/bench?endpoint_override=localhost:5000&scheme=http'

Entries are empty files of a folder, or members of tar shards. `--at` puts them, and the run folder, on object storage,
such as a moto server of this machine.

Three columns of seconds and of the driver's memory: the first listing, made by tasks; the next run, which looks again
and finds nothing new; a command for a later stage, which goes by the listing that is there. Each size in a process of
its own. Memory is what the driver holds more than before Ray was there, MB, without what it shares with others.
"""

import argparse
import io
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
from common import driver_memory, in_fresh_process

from elfs_ray.artifacts import filesystems
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.run.runner import run_methods

FILES_IN_A_FOLDER, MEMBERS_OF_A_SHARD = 10_000, 10_000


def main() -> None:
    """Measure each size and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--kind", choices=("files", "members"), default="files")
    parser.add_argument("--at", metavar="URI", help="a folder on object storage")
    options = parser.parse_args()
    print("| entries | first, s | driver | again, s | driver | later stage, s | driver |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for entries in options.entries:
            images = Path(folder) / f"{options.kind}-{entries}"
            (write_files if options.kind == "files" else write_shards)(images, entries)
            location, run_dir = str(images), f"{images}-run"
            if options.at:
                root, mark, how = options.at.partition("?")
                location, run_dir = (f"{root}/{name}{mark}{how}" for name in (images.name, f"{images.name}-run"))
                filesystem, path = filesystems.resolve(location)
                pafs.copy_files(str(images), path, destination_filesystem=filesystem)
            told = [in_fresh_process(measure, location, run_dir, entries, how) for how in ("first", "again", "later")]
            print(f"| {entries:,} | " + " | ".join(f"{seconds:.1f} | {memory:,}" for seconds, memory in told) + " |")


def measure(location: str, run_dir: str, entries: int, how: str) -> tuple[float, int]:
    """Seconds without Ray's start, and the driver's memory; `how`: the first listing, again, or a later stage's."""
    config = load_config({"input": location, "num_classes": 2, "budgets": [1], "ray.num_cpus": 2})
    store = RunFolder(run_dir)
    marks = Marks()
    with driver_memory() as driver:
        run_methods([config], store, marks, until="listing", look_again=how != "later")
    listed = Table(store, "listing").rows
    if listed != entries:
        raise RuntimeError(f"{location}: {listed:,} entries were listed, not {entries:,}")
    return marks.seconds(), driver.peak_own


class Marks(Reporter):
    """Notes when the listing begins and ends."""

    def __init__(self) -> None:
        super().__init__()
        self._times = [time.monotonic()]

    def line(self, _text: str, **_about: Any) -> None:
        """Take the time of what is said of the listing."""
        self._times.append(time.monotonic())

    def seconds(self) -> float:
        """From the first word of the listing, after Ray's start, to the last."""
        return self._times[-1] - self._times[1 if len(self._times) > 2 else 0]


def write_files(folder: Path, entries: int) -> None:
    """Empty files in folders of some thousand."""
    for number in range(entries):
        inside = folder / f"{number // FILES_IN_A_FOLDER:04d}"
        if number % FILES_IN_A_FOLDER == 0:
            inside.mkdir(parents=True)
        (inside / f"IMG_{number:08d}.jpg").touch()


def write_shards(folder: Path, entries: int) -> None:
    """Tar shards of some thousand members of a byte."""
    folder.mkdir(parents=True)
    for first in range(0, entries, MEMBERS_OF_A_SHARD):
        with tarfile.open(folder / f"shard-{first // MEMBERS_OF_A_SHARD:05d}.tar", "w") as shard:
            for number in range(first, min(first + MEMBERS_OF_A_SHARD, entries)):
                member = tarfile.TarInfo(f"IMG_{number:08d}.jpg")
                member.size = 1
                shard.addfile(member, io.BytesIO(b"x"))


if __name__ == "__main__":
    main()
