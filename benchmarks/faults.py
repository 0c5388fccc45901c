"""Time to recover from each fault: a real run, a process killed in the middle of a stage, the same result or not.

    python benchmarks/faults.py                                   # all faults; half an hour on 2 cores
    python benchmarks/faults.py --faults embed driver-embed       # some
    python benchmarks/faults.py --images 300                      # small, to see that it works

Runs the pipeline on the handwritten digits once, undisturbed. Then, for each fault, a copy of that run folder keeps the
stages before one stage; a process of its own runs that stage, and SIGKILL ends a worker or the driver when half of the
stage's files or checkpoints are there. The same without a kill says what the stage takes undisturbed. Seconds are those
from the line that says that the stage begins to the line that says that it is published; after the driver's death the
same command starts at once, so its start and Ray's are in the sum. Time to recover is the difference.
"""

import argparse
import atexit
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import LOGS, RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.data.digits import write_digits

BUDGET, TIMEOUT_SECONDS, POLL_SECONDS = 40, 900, 0.02
SEARCH, EVALUATION = f"beta_search/elfs/{BUDGET}", f"evaluate/elfs/{BUDGET}"
# Each stage takes some 10 s or more on 2 cores, and saves often enough to be met half done.
OPTIONS = {
    "ingest.chunk_rows": 64,  # and so the blocks of embed, which are encoded and saved as one
    "embed.image_size": 160,
    "embed.checkpoint_rows": 64,
    "neighbors.shards": 2,
    "neighbors.query_rows": 12,
    "pseudo_labels.epochs": 80,
    "pseudo_labels.checkpoint_epochs": 5,
    "proxy.epochs": 200,
    "proxy.checkpoint_epochs": 10,
    "beta_search.seeds": 3,
    "beta_search.steps": 500,
    "evaluate.seeds": 10,
    "evaluate.steps": 1000,
}


@dataclass(frozen=True)
class Fault:
    """One kill.

    Attributes:
        stage: its name on the command line.
        unit: its name in the manifest.
        progress: which files below the work folder say how far it is.
        victim: what Ray calls the process to kill; none: the driver.
        happens: what the engine does then.
    """

    stage: str
    unit: str
    progress: str
    victim: str | None
    happens: str


AGAIN = "the same command finds {} and does the rest"
TRAIN_AGAIN = "Ray Train starts the workers again, from the last checkpoint"
FAULTS = {
    "embed": Fault(
        "embed", "embed", "encoded/*.parquet", "ray::MapWorker(MapBatches(_EncodeBatch))",
        "Ray Data starts a new actor, which encodes the batches that were lost",
    ),
    "neighbors": Fault(
        "neighbors", "neighbors", "neighbors/*.parquet", "ray::_Holder",
        "Ray starts the actor again: it builds its index and answers the queries that wait",
    ),
    "pseudo-labels": Fault(
        "pseudo-labels", "pseudo_labels", "training/checkpoint*", "ray::RayTrainWorker", TRAIN_AGAIN
    ),
    "proxy": Fault("proxy", "proxy", "training/checkpoint*", "ray::RayTrainWorker", TRAIN_AGAIN),
    "beta-search": Fault(
        "beta-search", SEARCH, "trials/*.json", "ray::_Trials", "Tune runs the trial again in a new actor"
    ),
    "evaluate": Fault(
        "evaluate", EVALUATION, "trainings/*.json", "ray::train", "Ray runs the task again in another process"
    ),
    "driver-embed": Fault("embed", "embed", "encoded/*.parquet", None, AGAIN.format("the saved rows")),
    "driver-pseudo-labels": Fault(
        "pseudo-labels", "pseudo_labels", "training/checkpoint*", None, AGAIN.format("the last checkpoint")
    ),
    "driver-proxy": Fault("proxy", "proxy", "training/checkpoint*", None, AGAIN.format("the last checkpoint")),
}  # fmt: skip
NAMES = {
    "embed": "embedding actor killed",
    "neighbors": "index shard killed",
    "pseudo-labels": "TEMI worker killed",
    "proxy": "proxy worker killed",
    "beta-search": "Tune trial killed",
    "evaluate": "evaluation task killed",
    "driver-embed": "driver killed in embed",
    "driver-pseudo-labels": "driver killed in pseudo-labels",
    "driver-proxy": "driver killed in proxy",
}


@dataclass
class Measured:
    """One stage, disturbed or not.

    Attributes:
        seconds: from its begin to its publication.
        steps: files or checkpoints of it that were seen.
        killed_at: how many of them were there when the process was killed.
        replaced: seconds until another process of the same name was there.
        equal: whether the artifacts are those of the undisturbed run.
    """

    seconds: float
    steps: int
    killed_at: int = 0
    replaced: float | None = None
    equal: bool = True


class Process:
    """The command line in a process of its own; notes when each line comes."""

    def __init__(self, arguments: list[str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "elfs_ray.cli", *arguments, "--set=ray.mode=always"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        atexit.register(self._end)

    def _end(self) -> None:
        """Leave nothing behind when this script is stopped."""
        if self.running():
            self.kill()

    def _read(self) -> None:
        for line in self._process.stdout or []:
            self.lines.append((time.monotonic(), line.rstrip()))

    def when(self, unit: str, *states: str) -> float | None:
        """When the run first said that a unit is in one of these states, if it did."""
        for at, line in list(self.lines):
            said = json.loads(line) if line.startswith("{") else {}
            if said.get("unit") == unit and said["state"] in states:
                return at
        return None

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as the kernel sends it when memory is out."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def workers(self, title: str) -> list[int]:
        """Processes that this one or its Ray started, with this title."""
        found = []
        for child in psutil.Process(self._process.pid).children(recursive=True):
            try:
                if child.cmdline()[:1] and child.cmdline()[0].startswith(title):
                    found.append(child.pid)
            except psutil.Error:  # it ended meanwhile
                continue
        return found

    def check(self) -> None:
        """The process must have ended well."""
        self._process.wait(TIMEOUT_SECONDS)
        self._reader.join()
        if self._process.returncode:
            raise RuntimeError("\n".join(["the run failed:", *(line for _, line in self.lines[-10:])]))


@dataclass
class Disturbance:
    """Watches a stage and kills once; without a fault to inject it only watches."""

    run_dir: Path
    fault: Fault
    kill_at: int | None
    seen: set[str] = field(default_factory=set)
    killed: float | None = None
    replaced: float | None = None
    killed_at: int = 0
    _others: set[int] = field(default_factory=set)

    def look(self, process: Process) -> None:
        """Count what is saved, and do what is due."""
        work = f".work/{self.fault.unit.replace('/', '-')}-{'?' * 16}"
        self.seen.update(path.name for path in self.run_dir.glob(f"{work}/{self.fault.progress}"))
        if self.kill_at is None or not process.running():
            return
        if self.killed is None and len(self.seen) >= self.kill_at:
            self._kill(process)
        elif self.killed is not None and self.replaced is None and self._replacement(process):
            self.replaced = time.monotonic() - self.killed

    def _replacement(self, process: Process) -> bool:
        return self.fault.victim is not None and bool(set(process.workers(self.fault.victim)) - self._others)

    def _kill(self, process: Process) -> None:
        if self.fault.victim is None:
            process.kill()
        else:
            self._others = set(process.workers(self.fault.victim))
            if not self._others:  # between two tasks
                return
            os.kill(min(self._others), signal.SIGKILL)
        self.killed, self.killed_at = time.monotonic(), len(self.seen)


class Bench:
    """The whole run, and copies of it that do one stage again."""

    def __init__(self, folder: Path, images: int | None, overrides: list[str]) -> None:
        self._folder, self._images, self._overrides = folder, images, overrides
        self.whole = folder / "whole"

    def prepare(self) -> float:
        """Run everything once; returns the seconds."""
        images, self._labels = write_digits(self._folder / "digits")
        self._input = Path(images)
        if self._images:
            self._input = self._folder / "images"
            self._input.mkdir()
            for image in sorted(Path(images).iterdir())[: self._images]:
                shutil.copy(image, self._input)
        started = time.monotonic()
        Process(self._arguments(self.whole, "evaluate")).check()
        return time.monotonic() - started

    def _arguments(self, run_dir: Path, until: str) -> list[str]:
        sets = [f"--set={one}" for one in [*(f"{name}={value}" for name, value in OPTIONS.items()), *self._overrides]]
        required = ["--input", str(self._input), "--budget", str(BUDGET), "--num-classes", "10", "--allow-unmatched"]
        return [
            "run",
            *required,
            "--labels",
            str(self._labels),
            "--out",
            str(run_dir),
            "--until",
            until,
            "--log=json",
            *sets,
        ]

    def again(self, fault: Fault, kill_at: int | None) -> Measured:
        """Run one stage in a copy of the whole run, with or without a kill."""
        run_dir = self._folder / "copy"
        shutil.rmtree(run_dir, ignore_errors=True)
        shutil.copytree(self.whole, run_dir)
        forget_from(fault.unit, run_dir)
        arguments = self._arguments(run_dir, fault.stage)
        disturbance = Disturbance(run_dir, fault, kill_at)
        first = process = Process(arguments)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while process.running():
            disturbance.look(process)
            if not process.running() and process is first and fault.victim is None and disturbance.killed:
                process = Process(arguments)
            if time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(f"{fault.stage} did not end within {TIMEOUT_SECONDS} s")
            time.sleep(POLL_SECONDS)
        process.check()
        begun, ended = first.when(fault.unit, "begun"), process.when(fault.unit, "done", "there")
        if begun is None or ended is None or (kill_at is not None and disturbance.killed is None):
            raise RuntimeError(f"{fault.stage} did not run as it should, or ended before the kill")
        found = disturbance
        return Measured(ended - begun, len(found.seen), found.killed_at, found.replaced, self._equal(fault, run_dir))

    def _equal(self, fault: Fault, run_dir: Path) -> bool:
        """Whether the stage's artifacts are those of the whole run; how long a training took is no result."""
        ours, theirs = RunFolder(str(run_dir)), RunFolder(str(self.whole))
        names = [name for name in theirs.records()[Unit.parse(fault.unit)].artifacts if not name.startswith(LOGS)]
        tables = [[Table(store, name).read() for name in names] for store in (ours, theirs)]
        both = [[table.drop([n for n in table.column_names if n == "seconds"]) for table in some] for some in tables]
        return bool(names) and all(mine.equals(other) for mine, other in zip(*both, strict=True))


def forget_from(unit: str, run_dir: Path) -> None:
    """Take a stage and all after it out of a run folder."""
    path = run_dir / "manifest.json"
    manifest = json.loads(path.read_text())
    stages = list(manifest["records"])
    for gone in stages[stages.index(unit) :]:
        for artifact in manifest["records"].pop(gone)["artifacts"]:
            shutil.rmtree(run_dir / artifact)
    path.write_text(json.dumps(manifest))


def describe(fault: Fault, runs: list[Measured]) -> str:
    """What happened, in words and as seen."""
    last = runs[-1]
    new = f", a new process after {statistics.median(times):.1f} s" if (times := replaced(runs)) else ""
    return f"{fault.happens} (killed when {last.killed_at} of {last.steps} pieces were saved{new})"


def replaced(runs: list[Measured]) -> list[float]:
    return [run.replaced for run in runs if run.replaced is not None]


def main() -> None:
    """Run, disturb, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), help="which; default: all")
    parser.add_argument("--images", type=int, help="the first so many digits; default: all 1,797")
    parser.add_argument("--repeats", type=int, default=1, help="runs with and without each fault; medians are quoted")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.OPTION=VALUE", help="of the runs")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rows, undisturbed = [], dict[str, list[Measured]]()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.images, options.set)
        print(f"the whole run: {bench.prepare():.0f} s", flush=True)
        for name in options.faults:
            fault = FAULTS[name]
            if fault.stage not in undisturbed:
                undisturbed[fault.stage] = [bench.again(fault, None) for _ in range(options.repeats)]
            plain = undisturbed[fault.stage]
            half = max(1, max(run.steps for run in plain) // 2)
            runs = [bench.again(fault, half) for _ in range(options.repeats)]
            before, after = (statistics.median(run.seconds for run in some) for some in (plain, runs))
            equal = "yes" if all(run.equal for run in [*plain, *runs]) else "no"
            rows.append((NAMES[name], describe(fault, runs), before, after, after - before, equal))
            print(f"{NAMES[name]}: {before:.1f} s, with the fault {after:.1f} s, the same result: {equal}", flush=True)
    print(f"load at the end {os.getloadavg()[0]:.1f}; repeats {options.repeats}\n")
    print("| fault | what happened | undisturbed, s | with the fault, s | time to recover, s | same result |")
    print("|---|---|---:|---:|---:|---|")
    for fault_name, happened, before, after, recovery, equal in rows:
        print(f"| {fault_name} | {happened} | {before:.1f} | {after:.1f} | {recovery:.1f} | {equal} |")


if __name__ == "__main__":
    main()
