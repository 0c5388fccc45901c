"""The order of classes, those that are one, those that nobody can tell apart, and folders as classes."""

import os
import re
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elfs_ray.data import classes as of_classes
from elfs_ray.data.classes import FOLDER_FORMS
from elfs_ray.errors import UsageError

NAMES = ["1", "01", "1.0", "nan", "inf", "1_000", "٣", "-2", "10", "9", ".5", "1e1", "b", "B", "", "ä", "²", "1e999"]
ORDER = ["-2", ".5", "01", "1", "1.0", "9", "10", "1e1", "1_000", "1e999", "B", "b", "inf", "nan", "²", "ä", "٣"]


def number_classes(names, where):
    return of_classes.number_classes(pa.array(names, pa.string()), where)


def folder_classes(form, ids):
    return of_classes.folder_classes(form, pa.array(ids, pa.string())).to_pylist()


def test_numbers_come_by_value_and_all_else_by_text():
    names = [name or None for name in NAMES]
    numbers, classes = number_classes(names, "labels.csv")
    assert classes == ORDER
    assert [None if number < 0 else classes[number] for number in numbers] == names


@given(st.permutations(NAMES[:12]))
def test_the_order_does_not_depend_on_that_of_the_labels(names):
    assert number_classes(names, "x")[1] == number_classes(sorted(names), "x")[1]


def test_the_order_does_not_depend_on_the_hash_seed():
    code = (
        "from elfs_ray.data.classes import number_classes; import pyarrow, sys; "
        "print(number_classes(pyarrow.array(sys.argv[1:]), 'x'))"
    )
    given_names = [name for name in NAMES if name]
    shown = {
        subprocess.run(
            [sys.executable, "-c", code, *given_names],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2", "3")
    }
    assert len(shown) == 1
    assert shown.pop().strip()


def test_composed_letters_are_one_class():
    numbers, classes = number_classes(["Mu\u0308ll", "M\u00fcll", None, "a", "M\u00fcll"], "x")
    assert sorted(classes) == ["Mu\u0308ll", "a"]  # as first written
    assert [classes[number] for number in numbers if number >= 0] == ["Mu\u0308ll", "Mu\u0308ll", "a", "Mu\u0308ll"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "cat "),
        ("cat", "\tcat"),
        ("tabby cat", "tabby  cat"),
        ("tabby cat", "tabby\u00a0cat"),
        ("cat", "c\u200bat"),
        ("cat", "\ufeffcat"),
        ("cat", "cat\u00ad"),
        ("fish", "\ufb01sh"),
        ("1", "\uff11"),
        ("\u2764", "\u2764\ufe0f"),
    ],
)
def test_what_looks_the_same_is_refused(one, other):
    for names in ([one, other], [other, "dog", one, one]):
        with pytest.raises(
            UsageError, match=r"^x: the classes '.*' and '.*' look the same; if they are one"
        ) as refused:
            number_classes(names, "x")
        assert ascii(one) in str(refused.value)
        assert ascii(other) in str(refused.value)


@pytest.mark.parametrize("names", [["Cat", "cat"], ["m2", "m²"], ["1", "1.0"], ["½", "1/2"]])
def test_what_can_be_told_apart_is_kept(names):
    assert sorted(number_classes(names, "x")[1]) == sorted(names)


@pytest.mark.parametrize("name", [" ", "\u00a0", "\u200b"])
def test_names_that_show_nothing_are_refused(name):
    with pytest.raises(UsageError, match="is nothing but white space; name it, or leave it empty"):
        number_classes(["a", name], "x")


class TestFolders:
    SOME = (
        "a/1",
        "a/2",
        "b/1",
        "a/b/1",
        "a/./2",
        "a/.",
        "a/..",
        "a/",
        "a/x.parquet#7",
        "1",
        "/a/1",
        "s3://a/1",
        "../1",
    )
    DEEP = ("cat/2023/0.jpg", "cat/2024/1.jpg", "dog/2023/2.jpg")

    def test_the_first_is_the_class(self):
        assert folder_classes("folders", self.DEEP) == ["cat", "cat", "dog"]
        assert folder_classes("folders", ["./cat/0.jpg", "dog//1.jpg"]) == ["cat", "dog"]

    def test_or_the_one_that_an_image_lies_in(self):
        assert folder_classes("folders:last", self.DEEP) == ["2023", "2024", "2023"]
        whole = ["/data/cat/0.jpg", "s3://photos/dog/1.jpg", "file:///data/x/cat/2.jpg", "../emu/3.jpg"]
        assert folder_classes("folders:last", whole) == ["cat", "dog", "cat", "emu"]

    @pytest.mark.parametrize(
        ("form", "image", "message"),
        [
            ("folders", "0.jpg", "image '0.jpg' is in no class folder; put each class into a folder"),
            ("folders", "./0.jpg", "image './0.jpg' is in no class folder"),
            ("folders", "/data/cat/0.jpg", "image '/data/cat/0.jpg' is named by a whole path, .*; pass 'folders:last'"),
            ("folders", "s3://b/cat/0.jpg", "image 's3://b/cat/0.jpg' is named by a whole path"),
            ("folders", "../cat/0.jpg", "image '../cat/0.jpg' is not below the input"),
            ("folders:last", "0.jpg", "image '0.jpg' is in no class folder"),
            ("folders:last", "s3://bucket/0.jpg", "image 's3://bucket/0.jpg' is in no class folder"),
            ("folders:last", "/0.jpg", "image '/0.jpg' is in no class folder"),
            (
                "folders",
                "x/part-0.parquet#7",
                "'x/part-0.parquet#7' is a row of a table, not a path; pass 'column:NAME'",
            ),
            ("folders:last", "../0.jpg", "image '../0.jpg' is in no class folder"),
        ],
    )
    def test_images_in_no_such_folder_are_refused_by_name(self, form, image, message):
        with pytest.raises(UsageError, match=f"labels '{form}': {message}"):
            folder_classes(form, [image, image])

    @settings(max_examples=200)
    @given(st.lists(st.sampled_from(SOME), min_size=2), st.sampled_from(FOLDER_FORMS))
    def test_images_are_judged_each_for_itself(self, ids, form):
        try:
            alone = [folder_classes(form, [one])[0] for one in ids]
        except UsageError as error:
            with pytest.raises(UsageError, match=re.escape(str(error))):
                folder_classes(form, ids)
        else:
            assert len(set(alone)) == 1 or folder_classes(form, ids) == alone

    def test_one_class_for_all_is_refused_where_the_other_form_gives_more(self):
        below = ["images/cat/0.jpg", "images/dog/1.jpg"]
        message = r"all 2 images would be of the class 'images'; pass 'folders:last', the folder .*gives 2 classes"
        with pytest.raises(UsageError, match=message):
            folder_classes("folders", below)
        above = ["cat/images/0.jpg", "dog/images/1.jpg"]
        message = r"all 2 images would be of the class 'images'; pass 'folders', the first folder .*gives 2 classes"
        with pytest.raises(UsageError, match=message):
            folder_classes("folders:last", above)
        assert folder_classes("folders", ["cat/0.jpg", "cat/1.jpg"]) == ["cat", "cat"]
        assert folder_classes("folders:last", ["/a/cat/0.jpg", "/b/cat/1.jpg"]) == ["cat", "cat"]
        assert folder_classes("folders", ["cat/a/0.jpg"]) == ["cat"]
