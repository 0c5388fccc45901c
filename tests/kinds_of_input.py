"""The same images in every kind of input, each written by the library that users write it with."""

import csv
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from image_files import encode

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

COUNT = 7
NAMES = [f"{'ab'[number % 2]}/{number}.png" for number in range(COUNT)]
LABELS = ["cat", "dog", "cat", "dog", "cat", "dog", "cat"]


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels))


def read_all(source):
    """All rows of an input."""
    return pa.concat_tables([source.read(chunk) for chunk in source.chunks])


IMAGES = [png(number) for number in range(COUNT)]


def write_folder(folder):
    for name, data in zip(NAMES, IMAGES, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_parquet(folder):
    path = folder / "table.parquet"
    pq.write_table(pa.table({"id": NAMES, "image": IMAGES, "label": LABELS}), path, row_group_size=4)
    return path


def write_csv(folder, delimiter=","):
    write_folder(folder / "pictures")
    path = folder / ("photos.csv" if delimiter == "," else "photos.tsv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["image_path", "label", "note, with a comma"])
        writer.writerows((f"pictures/{name}", label, 'a "b"\n') for name, label in zip(NAMES, LABELS, strict=True))
    return path


def write_jsonl(folder):
    write_folder(folder / "pictures")
    lines = [{"id": f"2024-01-0{n + 1}", "path": f"pictures/{NAMES[n]}", "label": LABELS[n]} for n in range(COUNT)]
    (folder / "photos.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder / "photos.jsonl"


def write_shards(folder):
    """Two shards, with labels as `.cls` and in `.json`, and a list of lengths beside them."""
    import webdataset

    folder.mkdir(exist_ok=True)
    with webdataset.ShardWriter(str(folder / "shard-%02d.tar"), maxcount=4, verbose=0) as sink:
        for name, data, label in zip(NAMES, IMAGES, LABELS, strict=True):
            key = name.removesuffix(".png")
            sink.write({"__key__": key, "png": data, "cls": label.encode(), "json": {"kind": f"{label}s"}})
    (folder / "sizes.json").write_text("{}")
    return folder


def hugging_face_data():
    import datasets

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["dog", "cat"]))
    numbers = [["dog", "cat"].index(label) for label in LABELS]
    images = [{"bytes": data, "path": None} for data in IMAGES]
    return datasets.Dataset.from_dict({"image": images, "label": numbers}, features=features)


def write_hugging_face(folder):
    hugging_face_data().save_to_disk(folder, num_shards=2)
    return folder


KEYS = [name.removesuffix(".png") for name in NAMES]
# Kind: what writes it, and the ids in its order.
KINDS = {
    "folder": (write_folder, sorted(NAMES)),
    "parquet": (write_parquet, NAMES),
    "csv": (write_csv, [f"pictures/{name}" for name in NAMES]),
    "tsv": (lambda folder: write_csv(folder, "\t"), [f"pictures/{name}" for name in NAMES]),
    "jsonl": (write_jsonl, [f"2024-01-0{number + 1}" for number in range(COUNT)]),
    "webdataset": (write_shards, KEYS),
    "hugging face": (write_hugging_face, [str(number) for number in range(COUNT)]),
}
