"""Readers and configuration on damaged input: a result, or one of the errors that they promise, and nothing else.

CI tries some hundred inputs for each reader, the same every time. `make fuzz` tries more than ten thousand, and others
every time: the profile is chosen by ELFS_RAY_FUZZ, the number of examples for each test.
"""

import contextlib
import io
import json
import math
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from elfs_ray.config_loading import load_config
from elfs_ray.data.annotations import read_annotations
from elfs_ray.data.image_kinds import IMAGE_KINDS, ending_of
from elfs_ray.data.images import ImageError, decode, inspect
from elfs_ray.data.labels import match_labels
from elfs_ray.data.sources import open_source
from elfs_ray.data.vectors import open_vectors
from elfs_ray.errors import RunError, UsageError
from elfs_ray.exports.matching import match
from elfs_ray.exports.records import Exported, ExportRecord
from image_files import KINDS_WITH_EXIF, any_file, png, tiff

EXAMPLES = int(os.environ.get("ELFS_RAY_FUZZ", "0"))
fuzz = settings(
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MAX_PIXELS = 1_000_000
IDS = ["a", "b", "ü/c"]
pytestmark = [
    pytest.mark.timeout(0 if EXAMPLES else 300),
    pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\..*"),  # of damaged metadata, which the program filters
]


def encoded(kind, **options):
    rows, columns = np.mgrid[:24, :32]
    pixels = np.stack([columns * 7, rows * 9, columns + rows], axis=2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(options.pop("mode", "RGB")).save(file, kind, **options)
    return file.getvalue()


SIXTEEN_BITS = np.arange(8 * 6 * 3, dtype=np.uint16).reshape(6, 8, 3) * 300
IMAGES = [
    encoded("JPEG"), encoded("JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0"), encoded("PNG"),
    encoded("PNG", mode="P"), encoded("PNG", mode="LA"), encoded("PNG", mode="I;16"), encoded("GIF"),
    encoded("WEBP"), encoded("WEBP", lossless=True), encoded("BMP"), encoded("TIFF"),
    encoded("TIFF", compression="tiff_lzw"), encoded("ICO"), encoded("PPM"), encoded("TGA"), encoded("JPEG2000"),
    encoded("TIFF", mode="F"), encoded("TIFF", mode="I"), encoded("JPEG", mode="CMYK"),
    *(write(SIXTEEN_BITS) for write in (png, tiff)), b"P6 3 2 4095\n" + bytes(range(36)), b"P3 2 1 999\n0 1 2 3 4 5\n",
]  # fmt: skip
IMAGES += [encoded("AVIF")] if "AVIF" in Image.SAVE else []  # an older Pillow has none


def as_parquet(columns, **options):
    file = pa.BufferOutputStream()
    named = columns.items() if isinstance(columns, dict) else columns  # pairs, where two may have one name
    table = pa.table([pa.array(values) for _, values in named], names=[name for name, _ in named])
    pq.write_table(table, file, **options)
    return file.getvalue().to_pybytes()


LABELS = {
    "csv": [b"sample_id,label\na,1\nb,2\n", 'id,class,x\n"a","c,d",\nb,,3\nü/c,e,4\n'.encode()],
    "tsv": [b"id\tlabel\na\t1\nb\t2\n", b"id\tlabel\tid\na\t1\tb\n"],
    "jsonl": ['{"id": "a", "label": "x"}\n{"id": "ü/c", "label": 3}\n'.encode(), b'{"id": 1, "label": [2]}\n'],
    "parquet": [
        as_parquet({"id": ["a", "b"], "label": [1, 2]}),
        as_parquet({"id": [1, 2], "y": ["x", None]}, compression="zstd"),
        as_parquet({"id": ["a"], "label": [[1, 2]]}),
        as_parquet([("id", ["a"]), ("label", [1]), ("id", ["b"])]),
    ],
}
TABLES = [
    as_parquet({"id": ["a", "b"], "image": [IMAGES[0], IMAGES[2]]}),
    as_parquet({"id": [1, 2], "image": [{"bytes": IMAGES[6], "path": "x"}, None]}, compression="zstd"),
    as_parquet({"id": ["a", "b"], "path": ["x.png", None]}, row_group_size=1),
    as_parquet([("id", ["a"]), ("path", ["x.png"]), ("id", ["b"])]),
    as_parquet([("id", ["a"]), ("path", ["x.png"]), ("path", ["y.png"])]),
]
VECTORS = [
    as_parquet({"id": ["a", "b"], "vector": [[1.0, 2.0], [3.0, 4.0]]}),
    as_parquet({"id": ["a", "b"], "vector": [[1.0], None]}, compression="zstd"),
    as_parquet({"id": [1, 2], "embedding": pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2))}, row_group_size=1),
    as_parquet([("id", ["a"]), ("vector", [[1.0]]), ("id", ["b"])]),
    as_parquet([("id", ["a"]), ("vector", [[1.0]]), ("vector", [[2.0]])]),
]
# The file says that there are rows; of the vectors' column nothing is left.
NO_VECTORS = VECTORS[0].replace(b"&\x00\x1c\x15\n\x19", b"&\x00)I\xe7\x19")
CHOICE = {"from_name": "label", "type": "choices", "value": {"choices": ["x"]}}
TASK = {"data": {"image": "a", "sample_id": "a"}, "annotations": [{"completed_by": 1, "result": [CHOICE]}]}
OTHER = {"data": {"image": "ü/c"}, "annotations": [{"was_cancelled": True, "result": []}, {"result": [CHOICE] * 2}]}
COCO = {"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "c"}], "categories": [{"id": 1, "name": "x"}], "annotations": [{"image_id": 1, "category_id": 1}]}  # fmt: skip  # noqa: E501
SAMPLES = [
    {"filepath": "a", "ground_truth": {"_cls": "Classification", "label": "x"}},
    {"sample_id": "b", "label": "y"},
]
ANNOTATIONS = [
    json.dumps([TASK, TASK, OTHER]).encode(), json.dumps(COCO).encode(), json.dumps({"samples": SAMPLES}).encode(),
    json.dumps([{"sample_id": "a", "label": "x"}, {"sample_id": "b", "label": {"choices": ["x", "y"]}}]).encode(),
    b'{"sample_id": "a", "label": "x"}\n{"sample_id": "b", "label": 2.0}\n',
    as_parquet({"sample_id": ["a", "b"], "label": ["x", None]}),
    b"sample_id,label\na,x\nb,y\nwho,x\n",
    b'<?xml version="1.0"?><annotations><image name="a"><tag label="x&amp;"/></image><image name="q"/></annotations>',
    b'<!DOCTYPE a [<!ENTITY b "cc">]><annotations><image name="&b;"/></annotations>',
]  # fmt: skip

EXPORTED = tuple(Exported(one, index, name=one, place=one) for index, one in enumerate(IDS))
EXPORT = ExportRecord("x", "k", "csv", "elfs/3", None, "", "", EXPORTED)


@st.composite
def damaged(draw, originals):
    """A real file with bytes replaced, put in, taken out or repeated, or its end cut off; or any bytes."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 12) | st.sampled_from([100, 512]))
        change = draw(st.sampled_from(["replace", "flip", "put in", "take out", "repeat", "cut"]))
        if change == "replace":
            new = draw(st.binary(min_size=1, max_size=8))
            data[at : at + len(new)] = new
        elif change == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "put in":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif change == "take out":
            del data[at : at + length]
        elif change == "repeat":
            data[at:at] = data[at : at + length]
        elif change == "cut" and draw(st.integers(0, 3)) == 0:
            del data[at:]
    return bytes(data)


KEYS = (
    "data image images id image_id annotations result type value choices name categories category_id file_name "
    "sample_id was_cancelled ground_truth from_name completed_by samples filepath _cls label"
)
leaves = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["a", "x", "", "ü", "label"])
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4),
    max_leaves=12,
)
promised = contextlib.suppress(UsageError, RunError)


@fuzz
@given(damaged(IMAGES) | st.binary(max_size=200))
@pytest.mark.parametrize("reader", [decode, inspect])
def test_images(reader, data):
    with contextlib.suppress(ImageError):
        found = reader(data, max_pixels=MAX_PIXELS)
        assert found.width * found.height <= MAX_PIXELS
        assert reader is inspect or found.mode == "RGB"


def found(reader, data):
    """Width and height, or that it is refused."""
    with contextlib.suppress(ImageError):
        image = reader(data, max_pixels=MAX_PIXELS)
        return image.width, image.height
    return None


@fuzz
@given(damaged(IMAGES))
def test_what_ingest_passes_decodes(data):
    assert found(inspect, data) == found(decode, data)


@fuzz
@given(st.randoms(use_true_random=False))
@pytest.mark.parametrize("kind", KINDS_WITH_EXIF)
def test_exif(kind, random):
    """No picture is lost to it; but for TIFF, whose own directory it is, and JPEG, whose resolution Pillow looks up."""
    data = any_file(random, kind)
    size = found(inspect, data)
    assert size == found(decode, data)
    assert size in {(32, 24), (24, 32)} | (set() if kind in ("PNG", "WEBP") else {None})


ONE_OF_EACH = [
    (kind.endings[0], encoded(kind.name, mode="1" if kind.name == "XBM" else "RGB"))
    for kind in IMAGE_KINDS
    if kind.name in Image.SAVE
]


@pytest.mark.parametrize(("ending", "data"), ONE_OF_EACH)
def test_endings(ending, data):
    assert ending_of(data) == ending
    for length in range(40):
        assert ending_of(data[:length]) in (None, ending)


@fuzz
@given(damaged([data for _, data in ONE_OF_EACH]) | st.binary(max_size=200))
def test_endings_of_damaged_files(data):
    assert ending_of(data) in {None, *(kind.endings[0] for kind in IMAGE_KINDS)}


@fuzz
@given(data=st.data())
@pytest.mark.parametrize("ending", LABELS)
def test_label_files(tmp_path, ending, data):
    path = tmp_path / f"labels.{ending}"
    path.write_bytes(data.draw(damaged(LABELS[ending]) | st.binary(max_size=100)))
    with promised:
        labels = match_labels(str(path), pa.array(IDS), source="")
        assert len(labels.numbers) == len(IDS)
        assert labels.numbers.max() < len(labels.classes)
        assert labels.given == labels.matched + labels.unmatched
        assert labels.matched >= labels.labelled > 0


@fuzz
@given(
    damaged(ANNOTATIONS) | st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["", ".jsonl", ".csv", ".tsv"]),
)
@example(b"[" * 100_000, "")
def test_annotations(tmp_path, data, ending):
    """Every answer and every exported sample is in one place, and in one alone."""
    path = tmp_path / f"annotations{ending}"
    path.write_bytes(data)
    with promised:
        found = read_annotations(path)
        matched = match(found, [EXPORT])
        assert all(isinstance(label, str) and label.strip() for label in matched.labels.values())
        assert not matched.labels.keys() & matched.without.keys()
        assert matched.labels.keys() | matched.without.keys() == set(IDS)
        assert sum(matched.answers.values()) == sum(len(picture.answers) for picture in found.pictures)
        assert len(matched.unknown) <= len(found.pictures)
        assert "\n" not in matched.summary("x.csv")


@fuzz
@given(damaged(TABLES) | st.binary(max_size=100))
def test_image_tables(tmp_path, data):
    (tmp_path / "images.parquet").write_bytes(data)
    with promised:
        source = open_source(str(tmp_path / "images.parquet"))
        rows = [source.read(chunk) for chunk in source.chunks]
        assert sum(table.num_rows for table in rows) == source.count


@fuzz
@given(damaged(VECTORS) | st.binary(max_size=100))
@example(NO_VECTORS)
def test_vector_tables(tmp_path, data):
    (tmp_path / "vectors.parquet").write_bytes(data)
    with promised:
        table = open_vectors(str(tmp_path / "vectors.parquet"))
        for number, group in enumerate(table.groups):
            ids, units = table.read(number)
            assert units.vectors.shape == (len(ids), table.dim) == (group.rows, table.dim)
            assert units.norms.shape == (group.rows,)
            np.testing.assert_allclose(np.linalg.norm(units.vectors.astype(float), axis=1), 1, atol=0.01)


@st.composite
def any_vectors(draw):
    """A column of lists of one width, of any numbers."""
    kind, width = draw(st.sampled_from(["float16", "float32", "float64", "int8", "uint64"])), draw(st.integers(1, 4))
    numbers = st.integers(0, 3) if "int" in kind else st.floats(width=int(kind[5:])) | st.sampled_from([0.0, 1.0])
    rows = draw(st.lists(st.lists(numbers | st.none(), min_size=width, max_size=width), min_size=1, max_size=6))
    rows = [[value if value is None else np.dtype(kind).type(value) for value in row] for row in rows]
    value = pa.from_numpy_dtype(kind)
    return pa.array(rows, draw(st.sampled_from([pa.list_(value), pa.list_(value, width), pa.large_list(value)])))


@fuzz
@given(any_vectors())
def test_vectors_of_any_values(tmp_path, column):
    """Counted here without the reader: either each is refused with its right count, or all are of unit length."""
    rows = [[math.nan if value is None else float(value) for value in row] for row in column.to_pylist()]
    broken = [not all(map(math.isfinite, row)) for row in rows]
    zero = [not any(row) for row in rows]
    flat = [
        len(row) > 1 and len(set(row)) == 1 and not bad and not none
        for row, bad, none in zip(rows, broken, zero, strict=True)
    ]
    told = []
    for what, faulty in {"not finite": broken, "zero": zero, "constant": flat}.items():
        if count := sum(faulty):
            verb = "is" if count == 1 else "are"
            told.append(f"{count} of {len(rows)} vectors {verb} {what}, such as 'v{faulty.index(True)}'")
    path = tmp_path / "vectors.parquet"
    pq.write_table(pa.table({"id": [f"v{number}" for number in range(len(rows))], "vector": column}), path)
    if told:
        with pytest.raises(UsageError) as caught:
            open_vectors(str(path)).read(0)
        assert str(caught.value).startswith(f"{path}: {'; '.join(told)}; cosine cannot compare them: ")
        return
    units = open_vectors(str(path)).read(0)[1].vectors.astype(float)
    for row, found in zip(rows, units, strict=True):
        largest = max(map(abs, row))
        length = math.hypot(*(value / largest for value in row))
        np.testing.assert_allclose(found, [value / largest / length for value in row], rtol=2**-10, atol=2**-24)


def test_vectors_of_which_nothing_is_left(tmp_path):
    (tmp_path / "vectors.parquet").write_bytes(NO_VECTORS)
    with pytest.raises(UsageError, match="is damaged: no vector of 2 rows is there; copy it again"):
        open_vectors(str(tmp_path / "vectors.parquet"))


YAML = ["seed: 1\nembed: {batch_size: 8, encoder: timm:resnet18}\n", "budgets: [1, 0.5]\nselect:\n  method: elfs\n"]
names = st.sampled_from(
    ["seed", "input", "embed.batch_size", "select.options", "budgets", "evaluate.models", "pseudo_labels"]
)
values = st.text(max_size=20) | st.sampled_from(
    ["1", "-1", "[1", "{a: 1}", "&a [*a]", "!!python/name:os.system", "0x", ".nan"]
)
overrides = st.text(max_size=20) | st.builds("{}={}".format, names | st.text(max_size=10), values)


@fuzz
@given(damaged([text.encode() for text in YAML]) | st.binary(max_size=60), st.lists(overrides, max_size=3))
def test_configuration(tmp_path, data, texts):
    path = tmp_path / "run.yaml"
    path.write_bytes(data)
    with promised:
        config = load_config({"input": "/x", "num_classes": 2, "budgets": [1]}, path, texts)
        assert repr(load_config({}, base=config.model_dump(mode="json"))) == repr(config)
