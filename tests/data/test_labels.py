import json
import unicodedata
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from elfs_ray.data.digits import write_digits
from elfs_ray.data.images import inspect
from elfs_ray.data.labels import check_labels, labels_signature, match_labels
from elfs_ray.data.sources import open_source
from elfs_ray.errors import UsageError
from given_labels import read_labels

IDS = ["001", "002", "003"]


def read(spec, ids=IDS, source=None):
    labels, classes = read_labels(str(spec), ids, source=lambda: open_source(source))
    return labels.tolist(), classes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "sample_id,label\n001,cat\n003,dog\n"),
        ("l.tsv", "filename\tclass\n001\tcat\n003\tdog\n"),
        ("l.jsonl", '{"id": "001", "label": "cat"}\n{"id": "003", "label": "dog"}\n'),
    ],
)
def test_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read(tmp_path / name) == ([0, -1, 1], ["cat", "dog"])


def test_parquet_file(tmp_path):
    pq.write_table(pa.table({"id": IDS, "target": [3, 10, 3]}), tmp_path / "l.parquet")
    assert read(tmp_path / "l.parquet") == ([0, 1, 0], ["3", "10"])


def test_column_of_the_source(tmp_path):
    pq.write_table(pa.table({"id": IDS, "kind": ["b", "a", None], "path": IDS}), tmp_path / "images.parquet")
    assert read("column:kind", source=str(tmp_path / "images.parquet")) == ([1, 0, -1], ["a", "b"])


def test_folders():
    assert read("folders", ["cat/1.png", "dog/x/2.png"]) == ([0, 1], ["cat", "dog"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_id,label\n001,cat\n001,dog\n", "gives '001' two labels, 'cat' and 'dog'"),
        ("sample_id,label\n9,cat\n", "no id in .* is a sample id: labels have ids like '9', samples like '001'"),
        ("sample_id,lable\n001,cat\n", "label"),
        ("", "cannot be read"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "l.csv")


def test_other_wrong_specs(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read(tmp_path / "none.csv")
    (tmp_path / "labels.xlsx").write_text("x")
    with pytest.raises(UsageError, match=r"of no known kind; pass \.csv"):
        read(tmp_path / "labels.xlsx")
    with pytest.raises(UsageError, match=r"image '1\.png' is in no class folder"):
        read("folders", ["1.png"])


@pytest.fixture
def write(tmp_path):
    """Write a file of labels by id; returns its path."""

    def write(pairs):
        frame = pd.DataFrame(list(pairs.items() if isinstance(pairs, dict) else pairs), columns=["id", "label"])
        frame.to_csv(tmp_path / "labels.csv", index=False)
        return str(tmp_path / "labels.csv")

    return write


def match(spec, ids, source="", **more):
    others = {name: pa.array(texts, pa.string()) for name, texts in more.items()}
    return match_labels(spec, pa.array(ids, pa.string()), source=source, **others)


class TestEveryLabelIsUsedOrReported:
    def test_letters_that_are_composed_or_not(self, write):
        """Names from a Mac, labels written elsewhere."""
        names = [f"Stra\u00dfe M\u00fcnchen {number:02d}.jpg" for number in range(50)]
        ids = [*(unicodedata.normalize("NFD", name) for name in names), "plain.jpg"]
        labels = match(write({name: "ab"[number % 2] for number, name in enumerate([*names[:18], "plain.jpg"])}), ids)
        assert (labels.given, labels.matched, labels.unmatched, labels.labelled) == (19, 19, 0, 19)
        assert labels.numbers.tolist() == [*[0, 1] * 9, *[-1] * 32, 0]
        back = match(write({ids[0]: "a"}), names)
        assert back.numbers.tolist() == [0, *[-1] * 49]

    def test_an_id_that_may_be_two_samples_is_refused(self, write):
        angstroms = ["\u212b", "A\u030a"]
        message = r"has a label for '\\xc5', which may be the image 'A\\u030a' or '\\u212b': the same letters"
        with pytest.raises(UsageError, match=message):
            match(write({"\u00c5": "a"}), angstroms)
        assert match(write({"\u212b": "a"}), angstroms).numbers.tolist() == [0, -1]

    def test_two_labels_for_one_image(self, write):
        pairs = [("\u00fc", "a"), ("u\u0308", "b")]
        with pytest.raises(UsageError, match="gives 'u\u0308' two labels, 'a' and 'b'; keep one"):
            match(write(pairs), ["u\u0308"])
        same = [("\u00fc", "\u00e4"), ("u\u0308", "a\u0308"), ("u\u0308", "\u00e4")]
        found = match(write(same), ["u\u0308"])
        assert (found.numbers.tolist(), found.classes, found.given, found.matched) == ([0], ["\u00e4"], 2, 2)

    def test_labels_of_no_image(self, write):
        path = write({**{f"x{number}.jpg": "a" for number in range(18)}, "1.jpg": "a", "2.jpg": "b", "3.jpg": None})
        labels = match(path, ["0.jpg", "1.jpg", "2.jpg"])
        assert (labels.given, labels.matched, labels.unmatched) == (20, 2, 18)
        assert labels.counts == {"given": 20, "matched": 2, "quarantined": 0, "elsewhere": 0, "unmatched": 18}
        told = (
            f"{path}: 2 of 20 labels belong to images of photos/; 18 do not, such as 'x0.jpg' "
            "(images are called like '0.jpg')"
        )
        with pytest.raises(UsageError) as refused:
            labels.refuse_unmatched("photos/")
        assert str(refused.value) == f"{told}; fix the ids, or pass --allow-unmatched"
        assert labels.told("photos/") == [told, "2 of 3 images have a label"]
        assert labels.told(None) == ["2 of 3 images have a label"]
        with pytest.raises(UsageError, match="2 of 20 labels belong to images of the samples; 18 do not"):
            read_labels(path, ["0.jpg", "1.jpg", "2.jpg"], source="")

    def test_labels_of_images_that_cannot_be_used(self, write):
        labels = match(write({"1": "a", "2": "b", "u\u0308": "a"}), ["1"], quarantined=["2", "\u00fc"])
        assert (labels.matched, labels.quarantined, labels.unmatched) == (1, 2, 0)
        labels.refuse_unmatched("photos/")
        assert labels.told("photos/") == ["2 of 3 labels belong to images in quarantine"]
        assert labels.classes == ["a"]
        with pytest.raises(UsageError, match="no label belongs to an image that can be used, and 1 to images in"):
            match(write({"2": "b"}), ["1"], quarantined=["2"])

    def test_a_file_without_labels(self, write):
        with pytest.raises(UsageError, match=r"labels.csv holds no label: the column is empty; pass one with labels"):
            match(write({"1": None}), ["1"])

    def test_rows_without_an_id(self, write):
        with pytest.raises(UsageError, match=r"column 'id' of .*labels.csv holds nulls or empty texts"):
            match(write([("1", "a"), (None, "b")]), ["1"])

    def test_all_of_a_column_are_inputs(self, tmp_path):
        pq.write_table(pa.table({"id": IDS, "kind": ["b", "a", None], "path": IDS}), tmp_path / "images.parquet")
        labels = match("column:kind", ["002"], source=lambda: open_source(str(tmp_path / "images.parquet")))
        assert (labels.numbers.tolist(), labels.given, labels.quarantined, labels.unmatched) == ([0], 2, 1, 0)


def by_dicts(pairs, samples, quarantined, elsewhere, *, is_file):
    """What matching should come to, one label after the other: names and counts, or what is wrong first."""
    given_labels, names, counts = {}, {}, Counter()
    for one, label in pairs:
        if label and nfc(given_labels.setdefault(one, label)) != nfc(label):
            return f"gives {one!r} two labels, {given_labels[one]!r} and {label!r}"
    for one, label in given_labels.items():
        ids = next((ids for ids in ({*samples, *quarantined}, {*elsewhere} if is_file else ()) if alike(one, ids)), ())
        if len(found := sorted(alike(one, ids))) > 1:
            return f"for {one!a}, which may be the image {found[0]!a} or {found[1]!a}"
        if not found:
            counts["unmatched" if is_file else "quarantined"] += 1
        elif found[0] not in samples:
            counts["quarantined" if found[0] in quarantined else "elsewhere"] += 1
        elif nfc(names.setdefault(found[0], label)) != nfc(label):
            return f"gives {found[0]!r} two labels, {names[found[0]]!r} and {label!r}"
    if not given_labels:
        return "holds no label"
    if not names:
        return "no label belongs to an image" if counts["quarantined"] else "is a sample id"
    written = {nfc(names[one]): names[one] for one in reversed(samples) if one in names}
    return [written[nfc(names[one])] if one in names else None for one in samples], len(given_labels), counts


def nfc(text):
    return unicodedata.normalize("NFC", text)


def alike(one, ids):
    return {one} if one in ids else {other for other in ids if nfc(other) == nfc(one)}


some_ids = st.sampled_from(["x", "\u00fc", "u\u0308", "\u00c5", "A\u030a", "\u212b", "K", "\u212a"])
some_names = st.sampled_from(["a", "a", "a", "b", "\u00e4", "a\u0308", "", None])
TWO_LABELS_THEN_TWO_IMAGES = [("\u00fc", "a"), ("u\u0308", "b"), ("\u00c5", "a")]


@settings(max_examples=300)
@example(TWO_LABELS_THEN_TWO_IMAGES, ["u\u0308", "A\u030a", "\u212b"], [], [], True)
@given(st.lists(st.tuples(some_ids, some_names), min_size=1), *[st.lists(some_ids, unique=True)] * 3, st.booleans())
def test_matching_is_what_dicts_do(tmp_path_factory, pairs, samples, quarantined, elsewhere, is_file):
    table = pa.table({"id": [one for one, _ in pairs], "label": pa.array([name for _, name in pairs], pa.string())})
    path = tmp_path_factory.getbasetemp() / "pairs.parquet"
    pq.write_table(table, path)
    source = SimpleNamespace(location="images", read_column=lambda _: tuple(table.itercolumns()))
    spec, others = str(path) if is_file else "column:label", {"quarantined": quarantined, "elsewhere": elsewhere}
    expected = by_dicts(pairs, samples, **others, is_file=is_file)
    if isinstance(expected, str):
        with pytest.raises(UsageError) as refused:
            match(spec, samples, lambda: source, **others)
        assert expected in str(refused.value)
    else:
        found = match(spec, samples, lambda: source, **others)
        of_samples = [found.classes[number] if number >= 0 else None for number in found.numbers]
        counts = {name: count for name, count in found.counts.items() if name not in ("given", "matched")}
        assert (of_samples, found.given, +Counter(counts)) == expected


KINDS = {
    # what stands in the column: the names of the classes
    "floats, as pandas writes numbers where some are missing": (np.array([1.0, np.nan, 2.0]), ["1", None, "2"]),
    "short floats": (np.array([1.0, np.nan, 2.5], np.float32), ["1", None, "2.5"]),
    "null floats": (pa.array([1.0, None, 2.0]), ["1", None, "2"]),
    "booleans": (pa.array([True, None, False]), ["true", None, "false"]),
    "categories": (pd.Series(["x", None, "y"], dtype="category"), ["x", None, "y"]),
    "categories of numbers": (pd.Series([1, None, 2], dtype="category"), ["1", None, "2"]),
    "views": (pa.array(["x", "", "y"]).cast(pa.string_view()), ["x", None, "y"]),
    "long texts": (pa.array(["x", None, ""], pa.large_string()), ["x", None, None]),
    "whole numbers": (pa.array([3, None, 10], pa.int8()), ["3", None, "10"]),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_columns(tmp_path, name):
    values, expected = KINDS[name]
    table = pa.table({"id": IDS, "label": pa.array(values), "path": IDS})
    pq.write_table(table, tmp_path / "l.parquet")
    for spec, source in ((tmp_path / "l.parquet", None), ("column:label", str(tmp_path / "l.parquet"))):
        numbers, classes = read(spec, source=source)
        assert [None if number < 0 else classes[number] for number in numbers] == expected


def test_lists_are_no_labels(tmp_path):
    pq.write_table(pa.table({"id": IDS, "label": [[1], [2], [3]]}), tmp_path / "l.parquet")
    with pytest.raises(UsageError, match=r"column 'label' of .* holds list<.*; labels are text or numbers"):
        read(tmp_path / "l.parquet")


def test_a_table_of_many_columns_is_told_in_short(tmp_path):
    """As an object that maps ids to labels is one row of many columns."""
    (tmp_path / "l.json").write_text(json.dumps({f"{number:03d}": "cat" for number in range(1000)}))
    with pytest.raises(UsageError, match=r"has no id column 'sample_id' .*; its columns: 000, 001, .*, 019, \.\.\.$"):
        read(tmp_path / "l.json")


def test_text_that_looks_like_nothing_is_a_class(tmp_path):
    (tmp_path / "l.csv").write_text("id,label\n001,nan\n002,\n003,NA\n")
    assert read(tmp_path / "l.csv") == ([1, -1, 0], ["NA", "nan"])


def test_folders_are_checked_before_any_image_is_read(tmp_path):
    for name in ("images/cat/1.png", "images/dog/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    check_labels("folders", open_source(str(tmp_path / "images")))
    with pytest.raises(UsageError, match="all 2 images would be of the class 'images'; pass 'folders:last'"):
        check_labels("folders", open_source(str(tmp_path)))
    check_labels("folders:last", open_source(str(tmp_path)))
    with pytest.raises(
        UsageError, match="labels 'folders:lats' are of no known form; pass 'folders' or 'folders:last'"
    ):
        labels_signature("folders:lats")


def test_signature_follows_the_file(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("sample_id,label\n001,cat\n")
    before = labels_signature(str(path))
    path.write_text("sample_id,label\n001,doggy\n")
    assert labels_signature(str(path)) != before
    assert [labels_signature(spec) for spec in ("folders", "folders:last")] == ["folders", "folders:last"]


def test_digits_are_written_once(tmp_path):
    images, labels = write_digits(tmp_path)
    assert len(list(images.iterdir())) == 1797
    assert len(labels.read_text().splitlines()) == 1798
    assert inspect((images / "digit-0000.png").read_bytes(), max_pixels=10_000)[:2] == (64, 64)
    first = (images / "digit-0000.png").stat().st_mtime_ns
    write_digits(tmp_path)
    assert (images / "digit-0000.png").stat().st_mtime_ns == first
