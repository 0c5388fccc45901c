"""Data sets in the forms in which they are downloaded: small ones written as their authors describe the files."""

import io
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from elfs_ray.config_loading import load_config
from elfs_ray.data.datasets import write_dataset
from elfs_ray.data.sources import open_source
from elfs_ray.errors import UsageError
from given_labels import read_labels


def cifar_batch(path, rng, rows, key=b"labels", more=None):
    """A row: 1,024 red bytes, 1,024 green, 1,024 blue, each line by line."""
    data = rng.integers(0, 256, (rows, 3072), dtype=np.uint8)
    labels = [int(label) for label in rng.integers(0, 10, rows)]
    batch = {b"data": data, key: labels, b"filenames": [b"a.png"] * rows, **(more or {})}
    path.write_bytes(pickle.dumps(batch, protocol=2))
    return data, labels


def read(folder):
    table = pq.read_table(folder)
    images = [np.asarray(Image.open(io.BytesIO(data))) for data in table["image"].to_pylist()]
    return np.stack(images), table["label"].to_pylist(), table["image_id"].to_pylist()


@pytest.fixture
def cifar10(tmp_path, rng):
    source = tmp_path / "cifar-10-batches-py"
    source.mkdir()
    batches = [cifar_batch(source / f"data_batch_{number}", rng, 3) for number in range(1, 6)]
    cifar_batch(source / "test_batch", rng, 4)
    return source, batches


def test_cifar10(cifar10, tmp_path):
    source, batches = cifar10
    config = load_config({"budgets": [2]}, write_dataset("cifar10", source, tmp_path / "out"))
    images, labels, ids = read(tmp_path / "out" / "train")
    data = np.concatenate([data for data, _ in batches])
    assert images.shape == (15, 32, 32, 3)
    assert images[4, 5, 6].tolist() == [data[4, colour * 1024 + 5 * 32 + 6] for colour in range(3)]
    assert labels == [label for _, labels in batches for label in labels]
    assert len(read(tmp_path / "out" / "test")[0]) == 4
    # The configuration is one that a run understands.
    assert config.num_classes == 10
    assert [open_source(place).count for place in (config.input, config.evaluate.test_input)] == [15, 4]
    assert read_labels(config.evaluate.labels, ids, source=lambda: open_source(config.input))[1] == [
        str(one) for one in sorted(set(labels))
    ]


def test_cifar100_takes_the_fine_labels(tmp_path, rng):
    source = tmp_path / "cifar-100-python"
    source.mkdir()
    _, fine = cifar_batch(source / "train", rng, 5, b"fine_labels", {b"coarse_labels": [19] * 5})
    cifar_batch(source / "test", rng, 2, b"fine_labels")
    assert load_config({"budgets": [2]}, write_dataset("cifar100", source, tmp_path / "out")).num_classes == 100
    assert read(tmp_path / "out" / "train")[1] == fine


def test_stl10(tmp_path, rng):
    """An image: 96 x 96 red bytes column by column, then green, then blue; labels from 1."""
    source = tmp_path / "stl10_binary"
    source.mkdir()
    for name, rows in (("train", 3), ("test", 2)):
        pixels = rng.integers(0, 256, (rows, 3, 96, 96), dtype=np.uint8)
        pixels.tofile(source / f"{name}_X.bin")
        np.arange(1, rows + 1, dtype=np.uint8).tofile(source / f"{name}_y.bin")
        if name == "train":
            first = pixels
    write_dataset("stl10", source, tmp_path / "out")
    images, labels, _ = read(tmp_path / "out" / "train")
    assert labels == [0, 1, 2]
    row, column = 10, 20
    assert images[1, row, column].tolist() == [first[1, colour, column, row] for colour in range(3)]


@pytest.mark.parametrize(("name", "test"), [("imagenet", "val"), ("folders", "test")])
def test_class_folders_stay_where_they_are(tmp_path, name, test):
    for part in ("train", test):
        for number, kind in enumerate(("cat", "dog", "eel")):
            (tmp_path / "images" / part / kind).mkdir(parents=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / part / kind / "1.png")
    config = load_config({"budgets": [2]}, write_dataset(name, tmp_path / "images", tmp_path / "out"))
    assert (config.num_classes, config.evaluate.labels) == (3, "folders")
    assert config.input == str(tmp_path / "images" / "train")
    assert config.evaluate.test_input == str(tmp_path / "images" / test)


def test_a_second_time_changes_nothing(cifar10, tmp_path):
    out = tmp_path / "out"
    assert write_dataset("cifar10", cifar10[0], out) == write_dataset("cifar10", cifar10[0], out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    write_dataset("cifar10", cifar10[0], out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


class Harmful:
    def __reduce__(self):
        return (open, ("/tmp/elfs-ray-was-here", "w"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"data_batch_3 does not exist"),
        (lambda path: path.write_bytes(b"\x80\x02no"), r"data_batch_3 is no batch of images \("),
        (lambda path: path.write_bytes(pickle.dumps([1])), r"data_batch_3 is no batch of images \(it holds no b'data'"),
        (lambda path: path.write_bytes(pickle.dumps({b"data": Harmful()})), r"it asks for (io|_io)\.open"),
    ],
)
def test_damaged_and_harmful_files_are_refused(cifar10, tmp_path, damage, message):
    damage(cifar10[0] / "data_batch_3")
    with pytest.raises(UsageError, match=message):
        write_dataset("cifar10", cifar10[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_use(tmp_path):
    with pytest.raises(UsageError, match=r"unknown data set 'cifar'; known: cifar10, cifar100"):
        write_dataset("cifar", tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match=r"none is no folder; pass the folder with the unpacked files of stl10"):
        write_dataset("stl10", tmp_path / "none", tmp_path / "out")
    with pytest.raises(UsageError, match=r"train holds no class folders"):
        write_dataset("imagenet", tmp_path, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match=r"full is not empty and holds no dataset.yaml; choose another --out"):
        write_dataset("imagenet", tmp_path, tmp_path / "full")
