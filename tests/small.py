"""A pipeline run that is real and small: a few hundred digits, and options that end in seconds."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from sklearn.neighbors import NearestNeighbors

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import matrix_column
from elfs_ray.artifacts.writing import write_index, write_part
from elfs_ray.console import Reporter
from elfs_ray.data.digits import write_digits

Found = TypeVar("Found")
NUM_IMAGES = 240
BUDGET = 40
TIMEOUT_SECONDS = 600  # against hanging alone: machines differ and are shared
LONG_STAGES = ("listing", "ingest", "embed", "neighbors", "pseudo_labels", "proxy")
OPTIONS = {
    "ray.num_cpus": 2,  # as many threads everywhere: their number can change the last bits of a sum
    "embed.image_size": 64,
    "embed.checkpoint_rows": 64,
    "ingest.chunk_rows": 64,
    "neighbors.k": 10,
    "neighbors.shards": 2,
    "neighbors.query_rows": 100,
    "pseudo_labels.heads": 4,
    "pseudo_labels.batch_size": 33,  # odd: the shares of two workers differ by one
    "pseudo_labels.epochs": 12,
    "pseudo_labels.checkpoint_epochs": 3,
    "proxy.epochs": 12,
    "proxy.batch_size": 33,
    "proxy.checkpoint_epochs": 3,
    "beta_search.betas": [0.0, 0.2, 0.4],
    "beta_search.seeds": 1,
    "beta_search.steps": 30,
    "evaluate.seeds": 2,
    "evaluate.steps": 60,
    "report.thumbnails": 40,
}


def sections(options: dict[str, Any]) -> dict[str, Any]:
    """Options by name (`embed.batch_size`) as Python's functions take them: a dict for each section."""
    nested = dict[str, Any]()
    for name, value in options.items():
        section, _, option = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[option] = value
    return nested


class Lines(Reporter):
    """Keeps what a run says: sentences, and the units that were `begun`, are `done` or `there`, by state."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.units: dict[str, list[str]] = {}

    def line(self, text: str, **about: Any) -> None:
        self.lines.append(text)
        if "unit" in about:
            self.units.setdefault(about["state"], []).append(about["unit"])


class AtBegin(Lines):
    """Does something once, when a unit begins."""

    def __init__(self, unit: str, act: Callable[[], object]) -> None:
        super().__init__()
        self._unit, self._act = unit, [act]

    def line(self, text: str, **about: Any) -> None:
        super().line(text, **about)
        if self._act and (about.get("state"), about.get("unit")) == ("begun", self._unit):
            self._act.pop()()


def write_small_input(folder: Path) -> tuple[Path, Path]:
    """The first digits as PNG files, and their labels in a file apart."""
    images, labels = write_digits(folder / "all")
    small = folder / "images"
    small.mkdir()
    for image in sorted(Path(images).iterdir())[:NUM_IMAGES]:
        shutil.copy(image, small)
    return small, write_labels_of(small, Path(labels), folder / "labels.csv")


def write_labels_of(images: Path, labels: Path, target: Path) -> Path:
    """Of the labels of all digits, those of the images in a folder: a label of no image stops a run."""
    header, *rows = labels.read_text().splitlines(keepends=True)
    names = {path.name for path in images.iterdir()}
    target.write_text("".join([header, *(row for row in rows if row.partition(",")[0] in names)]))
    return target


def write_embeddings(store: RunFolder, vectors: np.ndarray, rows_in_part: int = 500) -> None:
    """An artifact in several parts, as it is if all lengths were 1."""
    layout, parts = schema.embeddings(vectors.shape[1]), []
    for number, start in enumerate(range(0, len(vectors), rows_in_part)):
        some = vectors[start : start + rows_in_part].astype(np.float16)
        index = np.arange(start, start + len(some))
        columns = {"sample_id": index.astype(str), "index": index, "norm": np.ones(len(some))}
        table = pa.table({**columns, "vector": matrix_column(some)})
        parts.append(write_part(store, "embeddings", number, start, table, layout))
    write_index(store, "embeddings", parts, layout)


def exact_neighbors(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions [n, k] of the nearest other rows, and their cosine similarity, by scikit-learn."""
    distances, ids = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(vectors).kneighbors()
    return ids, 1 - distances


def command_line(images: Path, labels: Path, run_dir: Path) -> list[str]:
    """The same run through the command line."""
    sets = [f"--set={name}={value}" for name, value in OPTIONS.items()]
    required = ["--input", str(images), "--budget", str(BUDGET), "--num-classes", "10", "--labels", str(labels)]
    return ["run", *required, "--out", str(run_dir), *sets]


def wait_until(
    reached: Callable[[], Found], told: Callable[[], object], *, goes_on: Callable[[], bool] = lambda: True
) -> Found:
    """Wait for something and return it; whoever should bring it about must go on until then.

    Args:
        reached: gives something that is true in the end.
        told: what to say if it does not come.
        goes_on: whether there is still somebody who works on it.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (found := reached()):
        assert goes_on(), told()
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)
    return found


def published(run_dir: Path) -> set[str]:
    """The units that a run folder holds."""
    return set(RunFolder(str(run_dir)).manifest().get("records", {}))


def has_begun(stage: str, run_dir: Path) -> bool:
    """Whether the folder of a stage holds something."""
    return any(path.is_dir() and any(path.iterdir()) for path in run_dir.glob(stage))


def copy_without(run_dir: Path, target: Path, first: str) -> Path:
    """A copy of a run folder without a stage and what came after it."""
    shutil.copytree(run_dir, target)
    path = target / "manifest.json"
    manifest = json.loads(path.read_text())
    stages = list(manifest["records"])
    manifest["records"] = {unit: manifest["records"][unit] for unit in stages[: stages.index(first)]}
    path.write_text(json.dumps(manifest))
    return target
