"""A driver that needs no images, on file systems that count its steps: it can be killed before each of them."""

import importlib
import io
import json
import os
import signal
import sys
import threading
import zlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from PIL import Image

from elfs_ray.artifacts import schema, stores
from elfs_ray.artifacts.record import Record, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.writing import write_table
from elfs_ray.config import RunConfig
from elfs_ray.console import Reporter
from elfs_ray.stages.context import StageContext
from elfs_ray.stages.parts.pixels import pixels_for

ROWS = 3
SUBSET = {"method": "elfs", "budget": 40}
EARLIER, BEGUN, NOW = (letter * 16 for letter in "abc")
"""Fingerprints of what a run folder holds, of what is half done in it, and of what it is driven to."""
KINDS = {
    "listing": schema.LISTING,
    "samples": schema.samples(carries_bytes=True),
    "quarantine": schema.QUARANTINE,
    "labels_true": schema.LABELS,
    "test/embeddings": schema.embeddings(4),
    "neighbors": schema.neighbors(2),
    "near_duplicates": schema.NEAR_DUPLICATES,
    "pseudo_labels": schema.PSEUDO_LABELS,
    "dynamics": schema.dynamics(tdds=True),
    "map": schema.MAP,
    "coresets/elfs/40": schema.CORESET,
    "coverage/elfs/40": schema.COVERAGE,
}
"""Of all other stages, here of one."""
UNITS = {
    "rows": {
        Unit("beta_search", **SUBSET): {"beta_search/elfs/40": schema.BETA_SEARCH, "logs/x": schema.COVERAGE},
        Unit("evaluate", **SUBSET): {"evaluation/elfs/40": schema.EVALUATION},
    },
    "kinds": {Unit("ingest"): KINDS},
    "few": {Unit("evaluate", **SUBSET): {"evaluation/elfs/40": schema.EVALUATION}},
}


def values(kind: pa.DataType, seed: int) -> list[object]:
    """A few values of a type that say which rows they were made from."""
    if pa.types.is_fixed_size_list(kind):
        return [values(kind.value_type, seed + row)[:1] * kind.list_size for row in range(ROWS)]
    if pa.types.is_floating(kind):
        return [(seed + row) % 2048 / 8 for row in range(ROWS)]
    numbers = [(seed + row) % 2**31 for row in range(ROWS)]
    return pa.array(map(str, numbers)).cast(kind).to_pylist() if kind in (pa.string(), pa.binary()) else numbers


def table(layout: pa.Schema, seed: int) -> pa.Table:
    columns = {field.name: values(field.type, seed) for field in layout if not pa.types.is_boolean(field.type)}
    flags = {field.name: [bool(seed % 2)] * ROWS for field in layout if pa.types.is_boolean(field.type)}
    return pa.table({**columns, **flags})


def finished_rows(store: RunFolder, work: str) -> list[object]:
    """Rows of two trials, each in two files; a third file says that the trial has ended, so it must come last."""
    for trial in "01":
        if f"{trial}.json" not in store.names(work, "trials"):
            for part in "01":
                store.write_json([work, trial, part], work, "rows", part, f"{trial}.json")
            store.write_json({}, work, "trials", f"{trial}.json")
    return [
        store.read_json(work, "rows", part, name)
        for part in store.names(work, "rows")
        for name in store.names(work, "rows", part)
    ]


def prepare(store: RunFolder, name: str) -> None:
    """A run folder in which the last unit is there with other options, and half done with yet others."""
    unit = list(UNITS[name])[-1]
    drive(store, name, EARLIER, [unit])
    finished_rows(store, store.work_folder(unit, BEGUN))


def drive(store: RunFolder, name: str, fingerprint: str, wanted: list[Unit] | None = None) -> None:
    """Do what is missing, as the runner does."""
    store.recover()
    store.update_manifest(name=fingerprint)
    for unit in wanted or UNITS[name]:
        if store.is_complete(store.records().get(unit), fingerprint):
            continue
        work, artifacts = store.sole_work_folder(unit, fingerprint), UNITS[name][unit]
        seed = zlib.crc32(json.dumps(finished_rows(store, work)).encode())
        folders = {artifact: artifact.replace("/", "-") for artifact in artifacts}
        for artifact, layout in artifacts.items():
            write_table(store, f"{work}/{folders[artifact]}", table(layout, seed), layout)
        with store.filesystem.open_output_stream(store.path(work, next(iter(folders.values())), "notes")) as stream:
            stream.write(b"of a library that syncs nothing")
        store.publish(work, Record(unit, 1, fingerprint, str(seed), artifacts=tuple(artifacts)), folders)
    store.write_table(table(schema.EXPORT, 0), schema.EXPORT, "exports", "mine.parquet")
    store.write_bytes(fingerprint.encode(), "report.html")
    store.update_manifest(finished=True)


@dataclass
class Value:
    value: Any

    def result(self) -> Any:
        return self.value


class Here:
    """Does in this process what workers do for `pixels_for`."""

    def begin_several(self, function, *arguments, **_):
        return [Value(each) for each in function(*arguments)]

    def map(self, function, items, decoding, missing, **_):
        return [function(decoding, missing.result(), *item) for item in items]

    def counter(self, done):
        return SimpleNamespace(advance=lambda _: None, value=lambda: done)


def take_in(store: RunFolder) -> None:
    """A run folder with samples that carry their images, and pixels of earlier ones."""
    file, layout = io.BytesIO(), schema.samples(carries_bytes=True)
    Image.new("RGB", (3, 3), "teal").save(file, "PNG")
    samples = table(layout, 0)
    images = pa.array([file.getvalue()] * ROWS, pa.binary())
    samples = samples.set_column(samples.column_names.index("image"), "image", images)
    write_table(store, "samples", samples.set_column(1, "index", pa.array(range(ROWS))), layout)
    write_table(store, "pixels/2-1-earlier", table(schema.COVERAGE, 0), schema.COVERAGE)
    ingest = Unit("ingest")
    store.update_manifest(records={str(ingest): Record(ingest, 1, NOW, "now").as_json()})


def decode(store: RunFolder) -> None:
    """Pixels of one image, then of all."""
    store.recover()
    config = RunConfig(input="photos", num_classes=2, budgets=[1])
    context = StageContext(config, store, Unit("proxy"), "work", Here(), Reporter())
    pixels_for(context, 2, wanted=np.array([1]))
    pixels_for(context, 2)


def turn_away(store: RunFolder, name: str) -> None:
    """Remove the work that is half done, as a unit does that begins with other options."""
    store.sole_work_folder(list(UNITS[name])[-1], NOW)


def contents(store: RunFolder) -> dict[str, bytes]:
    """All files of a run folder, hidden ones too."""
    found = store.filesystem.get_file_info(pafs.FileSelector(store.path(), recursive=True))
    names = [info.path.removeprefix(store.path() + "/") for info in found if info.type == pafs.FileType.File]
    return {name: store.read_bytes(name) for name in names}


class Steps:
    """A file system of which `step` is called before each change that the medium could see by itself."""

    step = staticmethod(lambda: None)

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        self.step()
        super().create_dir(path, recursive=recursive)

    def move(self, source: str, target: str) -> None:
        self.step()
        super().move(source, target)

    def copy_file(self, source: str, target: str) -> None:
        self.step()
        super().copy_file(source, target)

    def delete_file(self, path: str) -> None:
        self.step()
        super().delete_file(path)

    def delete_dir(self, path: str) -> None:
        """With a step in the middle, when the first half of the files is gone."""
        self.step()
        found = self.get_file_info(pafs.FileSelector(path, recursive=True))
        files = sorted(info.path for info in found if info.type == pafs.FileType.File)
        for each in files[: len(files) // 2]:
            super().delete_file(each)
        self.step()
        super().delete_dir(path)

    def open_output_stream(self, path: str) -> pa.NativeFile:
        self.step()
        return super().open_output_stream(path)


class Stream:
    """Writes half, then the other half."""

    def __init__(self, stream: pa.NativeFile, steps: Steps) -> None:
        self._stream, self._steps = stream, steps

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self._steps.step()
        self._stream.close()

    def write(self, data: bytes) -> None:
        half = len(data) // 2
        self._stream.write(memoryview(data)[:half])
        self._steps.step()
        self._stream.write(memoryview(data)[half:])


class Disk(Steps, pafs.LocalFileSystem):
    def open_output_stream(self, path: str) -> Stream:
        """An object is there when it is closed; a file before, in part."""
        return Stream(super().open_output_stream(path), self)


class Store(Steps, stores.S3):
    pass


def watched(store: RunFolder, step) -> RunFolder:
    """The same run folder on a file system that calls `step`."""
    filesystem = Disk() if store.is_local else Store(*store.filesystem.__reduce__()[1])
    filesystem.step = step
    again = RunFolder(store.uri)
    again.__dict__["_location"] = filesystem, store.path()
    return again


class Counter:
    """Counts steps, and kills this process before one of them."""

    def __init__(self, last: int = 0) -> None:
        self.count, self._last, self._one_at_a_time = 0, last, threading.Lock()

    def __call__(self) -> None:
        with self._one_at_a_time:
            self.count += 1
            if self.count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """For each line of input, drive a run folder in a process of its own until it is killed; tell how it ended.

    Forked from this one, which has imported everything and done nothing: that is quick, and safe.
    """
    importlib.import_module("pandas")  # pyarrow would, in each of them
    for line in sys.stdin:
        uri, name, program, last = json.loads(line)
        child = os.fork()
        if not child:
            store = watched(RunFolder(uri), Counter(last))
            if program == "drive":
                drive(store, name, NOW)
            elif program == "decode":
                decode(store)
            else:
                turn_away(store, name)
            os._exit(0)
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    os.fsync = lambda _: None  # what is killed leaves to the system what it wrote
    main()
