"""Well-known data sets in the forms in which they are downloaded, rewritten once as Parquet that a run reads.

| name | what the folder holds |
|---|---|
| cifar10, cifar100 | the Python version (`cifar-10-batches-py`, `cifar-100-python`); only arrays leave its pickles |
| stl10 | the binary version (`stl10_binary`): its 5,000 labelled training images and its test images |
| imagenet | `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`: used as they are |
| folders | `train/CLASS/*` and `test/CLASS/*` of any images: used as they are |

Pictures are kept without loss, as PNG. Beside them stands `dataset.yaml`, a configuration for `elfs-ray run --config`.
"""

import io
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from elfs_ray.data.files import new_folder
from elfs_ray.errors import UsageError, one_line

ROWS_PER_FILE = 5000
DESCRIPTION = "dataset.yaml"
# What NumPy's own arrays are rebuilt from; under both names of its inner package.
_ARRAY_PARTS = {
    *((module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("_codecs", "encode"),
}


class Found(NamedTuple):
    """A data set: arrays to write, or folders that a run reads as they are.

    Attributes:
        classes: how many.
        splits: `train` and `test`.
        folders: of training and of test images, each with a folder for each class.
    """

    classes: int
    splits: "dict[str, Split]"
    folders: tuple[Path, ...] = ()


class Split(NamedTuple):
    """Images and labels of one part of a data set.

    Attributes:
        images: uint8 [n, height, width, 3].
        labels: int [n].
    """

    images: np.ndarray
    labels: np.ndarray


def write_dataset(name: str, source: str | Path, out: str | Path) -> Path:
    """Write a data set for runs; returns the configuration file that names its parts.

    Nothing is written when it is there already; otherwise it appears whole.

    Args:
        name: one of `DATASETS`.
        source: folder with the files as they were downloaded and unpacked.
        out: folder for the Parquet files and `dataset.yaml`.

    Raises:
        UsageError: an unknown name, or a folder that does not hold what the name says.
    """
    source, out = Path(source).expanduser().resolve(), Path(out).expanduser().resolve()
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    if not source.is_dir():
        raise UsageError(f"{source} is no folder; pass the folder with the unpacked files of {name}")
    description = out / DESCRIPTION
    if description.is_file():
        return description
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no {DESCRIPTION}; choose another --out")
    found = DATASETS[name](source)
    with new_folder(out) as folder:
        for part, split in found.splits.items():
            _write_split(split, folder / part, part)
        (folder / DESCRIPTION).write_text(yaml.safe_dump(_description(found, out), sort_keys=False))
    return description


def _cifar(source: Path, *, train: list[str], test: list[str], key: bytes, classes: int) -> Found:
    """The Python version of CIFAR: rows of 3 x 32 x 32 bytes, colour by colour."""

    def read(names: list[str]) -> Split:
        batches = [_read_arrays(source / name) for name in names]
        pixels = np.concatenate([np.asarray(batch[b"data"], dtype=np.uint8) for batch in batches])
        labels = np.concatenate([np.asarray(batch[key], dtype=np.int64) for batch in batches])
        return Split(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)

    return Found(classes, {"train": read(train), "test": read(test)})


def _stl10(source: Path) -> Found:
    """The binary version of STL-10: 3 x 96 x 96 bytes, column by column; labels from 1."""

    def read(name: str) -> Split:
        pixels, labels = (np.fromfile(_file(source / f"{name}_{part}.bin"), dtype=np.uint8) for part in "Xy")
        if len(pixels) != len(labels) * 3 * 96 * 96:
            raise UsageError(
                f"{source}: {name}_X.bin has {len(pixels)} bytes for {len(labels)} labels in {name}_y.bin; "
                "download them again"
            )
        images = pixels.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
        return Split(images, labels.astype(np.int64) - 1)

    return Found(10, {"train": read("train"), "test": read("test")})


def _folders(source: Path, *, test: str) -> Found:
    """Class folders, which a run reads as they are."""
    parts = source / "train", source / test
    for part in parts:
        if not any(part.glob("*/")):
            raise UsageError(f"{part} holds no class folders; it must hold a folder of images for each class")
    return Found(len(list(parts[0].glob("*/"))), {}, parts)


_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
DATASETS: dict[str, Callable[[Path], Found]] = {
    "cifar10": partial(_cifar, train=_BATCHES, test=["test_batch"], key=b"labels", classes=10),
    "cifar100": partial(_cifar, train=["train"], test=["test"], key=b"fine_labels", classes=100),
    "stl10": _stl10,
    "imagenet": partial(_folders, test="val"),
    "folders": partial(_folders, test="test"),
}
"""Name -> what reads it from its folder."""


def _description(found: Found, out: Path) -> dict[str, Any]:
    """The configuration of a run over the data set."""
    train, test = found.folders or (out / "train", out / "test")
    labels = "folders" if found.folders else "column:label"
    return {
        "input": str(train),
        "num_classes": found.classes,
        "evaluate": {"test_input": str(test), "labels": labels},
    }


def _write_split(split: Split, folder: Path, name: str) -> None:
    """Parquet files with the columns image_id, image and label."""
    folder.mkdir()
    for number, start in enumerate(range(0, len(split.labels), ROWS_PER_FILE)):
        rows = range(start, min(start + ROWS_PER_FILE, len(split.labels)))
        table = pa.table(
            {
                "image_id": [f"{name}-{row:06d}" for row in rows],
                "image": pa.array(_encoded(split.images, rows), pa.binary()),
                "label": pa.array(split.labels[rows.start : rows.stop], pa.int64()),
            }
        )
        pq.write_table(table, folder / f"part-{number:04d}.parquet", compression="none")


def _encoded(images: np.ndarray, rows: range) -> Iterator[bytes]:
    for row in rows:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(images[row])).save(file, "PNG")
        yield file.getvalue()


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds arrays and plain values; whatever else a pickle asks for, which may be any code, is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _read_arrays(path: Path) -> dict[bytes, Any]:
    with open(_file(path), "rb") as file:
        try:
            batch = _ArraysOnly(file, encoding="bytes").load()  # nothing but arrays, see above
        except Exception as error:  # noqa: BLE001 - damaged pickles raise anything
            raise UsageError(f"{path} is no batch of images ({one_line(error)}); download it again") from None
    if not isinstance(batch, dict) or b"data" not in batch:
        raise UsageError(f"{path} is no batch of images (it holds no b'data'); download it again")
    return batch


def _file(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"{path} does not exist; pass the folder with the unpacked files")
    return path
