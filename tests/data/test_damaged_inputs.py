"""Whatever a damaged file holds, a reader gives rows or says in one line what is wrong: it fails in no other way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elfs_ray.data.sources import open_source
from elfs_ray.data.vectors import open_vectors
from elfs_ray.errors import ElfsRayError
from kinds_of_input import read_all, write_csv, write_hugging_face, write_jsonl, write_shards
from test_fuzz import damaged

EXAMPLES = 150


def refusal(read, *arguments):
    """What a reader says against its input, on one line; empty where it says nothing."""
    try:
        read(*arguments)
    except ElfsRayError as error:
        return str(error)
    return ""


def read_images(path):
    source = open_source(str(path))
    rows = read_all(source)
    assert rows.num_rows == source.count
    for row in rows.select(["image", "error"]).to_pylist():
        assert (row["image"] is None) != (row["error"] is None)
    for name in ("label", "cls", "kind"):
        assert "\n" not in refusal(read_labels, source, name)


def read_labels(source, name):
    ids, values = source.read_column(name)
    assert len(ids) == len(values) == source.count


def read_vectors(path):
    found = open_vectors(str(path))
    for number in range(len(found.groups)):
        ids, rows = found.read(number)
        assert rows.vectors.shape == (len(ids), found.dim)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good file of each kind, and what reads it."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("csv", "jsonl", "tar", "hf"):
        (folder / name).mkdir()
    np.save(folder / "v.npy", np.arange(18, dtype=np.float32).reshape(6, 3))
    shards, saved = write_shards(folder / "tar"), write_hugging_face(folder / "hf")
    return {
        "csv": (write_csv(folder / "csv").read_bytes(), read_images),
        "jsonl": (write_jsonl(folder / "jsonl").read_bytes(), read_images),
        "tar": ((shards / "shard-00.tar").read_bytes(), read_images),
        "arrow": (next(saved.glob("*.arrow")).read_bytes(), read_images),
        "npy": ((folder / "v.npy").read_bytes(), read_vectors),
    }


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tar", "arrow", "npy"])
@settings(max_examples=EXAMPLES)
@given(drawn=st.data())
def test_damaged(whole, tmp_path_factory, kind, drawn):
    data, read = whole[kind]
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    path.write_bytes(drawn.draw(damaged([data])))
    told = refusal(read, path)
    assert "\n" not in told
    assert not told or "damaged." in told


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tar", "arrow", "npy"])
@settings(max_examples=EXAMPLES // 3)
@given(data=st.binary(max_size=2000))
def test_any_bytes(tmp_path_factory, kind, data):
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    path.write_bytes(data)
    with pytest.raises(ElfsRayError, match=r"damaged\."):
        (read_vectors if kind == "npy" else read_images)(path)
