"""Matching against rules written out one sample at a time, on worlds so small that names collide all the time."""

import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elfs_ray.data.annotations import Annotations, Answer, Picture
from elfs_ray.errors import UsageError
from elfs_ray.exports.matching import match
from elfs_ray.exports.records import Exported, ExportRecord

IDS = ("1", "2", "a/1", "\u00e9", "e\u0301")
FOLDERS = ("", "a/", "b/", "b/a/")
NAMES = [f"{folder}{name}" for folder in FOLDERS for name in ("1", "2", "\u00e9", "e\u0301")]
PLACES = [*(f"/in/{name}" for name in NAMES), *NAMES[:4]]
FORMS = ("label-studio", "cvat", "coco", "fiftyone", "table", "symlinks")
LABELS = ("x", "y", "\u00e9", "e\u0301")


@st.composite
def records(draw, form):
    ids = draw(st.lists(st.sampled_from(IDS), min_size=1, unique=True))
    names, places = (st.lists(st.sampled_from(all_), min_size=5, max_size=5, unique=True) for all_ in (NAMES, PLACES))
    rows = zip(ids, draw(names), draw(places), strict=False)
    samples = tuple(Exported(one, index, name, place) for index, (one, name, place) in enumerate(rows))
    key = draw(st.sampled_from(["k1", "k2"]))
    return ExportRecord(f"{form}-{key}", key, form, "elfs/5", None, "", "", samples)


answers = st.builds(
    Answer,
    st.dictionaries(st.just("label"), st.lists(st.sampled_from(LABELS), min_size=1, max_size=2).map(tuple), max_size=1),
    skipped=st.sampled_from([False, False, False, True]),
    other=st.booleans(),
    ground_truth=st.sampled_from([False, False, False, True]),
)


@st.composite
def pictures(draw, found):
    """Mostly one of the export's, as a tool may have kept it; else anything."""
    samples = [(record, sample) for record in found for sample in record.samples]
    record, sample = draw(st.sampled_from(samples))
    names = [sample.place, sample.name, sample.place, sample.name, sample.file_name, None]
    anything = draw(st.integers(0, 4)) == 0
    return Picture(
        name=draw(st.sampled_from([*NAMES, *PLACES, "q"] if anything else names)),
        answers=tuple(draw(st.lists(answers, min_size=1, max_size=4))),
        sample_id=draw(st.sampled_from([*IDS, "q"] if anything else [None, None, sample.sample_id])),
        export=draw(st.sampled_from([None, "k1", "k2", "k3"] if anything else [None, record.key])),
        shown="nameless",
    )


def same(left, right, others):
    """Whether two names are one; in two forms of Unicode only where no other sample has the very form."""
    if left == right or left is None or right is None:
        return left == right and left is not None
    return left not in others and unicodedata.normalize("NFC", left) == unicodedata.normalize("NFC", right)


def may_be(picture, sample, form, samples):
    """Whether the name of a picture is one that the export gave a sample."""
    name = picture.name
    names, places = ({one.name for one in samples}, {one.place for one in samples})
    if form in ("label-studio", "fiftyone", "table"):
        return same(name, sample.place, places)
    if form in ("cvat", "symlinks"):
        return same(name, sample.name, names)
    if any(same(name, one.place, places) for one in samples):
        return same(name, sample.place, places)
    if name is None or "/" in name:
        return same(name, sample.name, names)
    bare = {one.name.split("/")[-1] for one in samples} | {one.place.split("/")[-1] for one in samples}
    return (
        same(name, sample.name, names)
        or same(name, sample.name.split("/")[-1], bare)
        or same(name, sample.place.split("/")[-1], bare)
    )


def which(picture, form, found):
    """The id of the sample that a picture is; None; or `refused`."""
    own = [record for record in found if record.key == picture.export]
    samples = [sample for record in own or found for sample in record.samples]
    ids = {one.sample_id for one in samples}
    called = {one.sample_id for one in samples if may_be(picture, one, form, samples)}
    by_id = {one for one in ids if same(picture.sample_id, one, ids)}
    if called and picture.sample_id is not None:
        called &= by_id
        if not called:
            return "refused"
    elif not called and (own or (picture.name is None and picture.export is None)):
        called = by_id
    return "refused" if len(called) > 1 else next(iter(called), None)


def label_of(given):
    """The label that most gave, if one has most; of those that are ground truth, if any is."""
    said = [
        (one.ground_truth, {unicodedata.normalize("NFC", label) for label in one.given["label"]})
        for one in given
        if "label" in one.given and not one.skipped
    ]
    if any(truth for truth, _ in said):
        said = [(truth, labels) for truth, labels in said if truth]
    votes = Counter(min(labels) for _, labels in said if len(labels) == 1)
    best = [label for label, count in votes.items() if count == max(votes.values())]
    return best[0] if len(best) == 1 else None


@settings(max_examples=400)
@given(st.data(), st.sampled_from(FORMS))
def test_as_the_rules_say(data, form):
    found = data.draw(st.lists(records(form), min_size=1, max_size=2, unique_by=lambda record: record.key))
    file = Annotations("x", form, tuple(data.draw(st.lists(pictures(found), min_size=1, max_size=4))))
    ids = [which(picture, form, found) for picture in file.pictures]
    held = [one for one in ids if one is not None]
    twice = form in ("cvat", "coco", "fiftyone") and len(held) > len(set(held))
    questions = any(answer.given for picture in file.pictures for answer in picture.answers)
    if "refused" in ids or twice or not held or not questions:
        with pytest.raises(UsageError) as caught:
            match(file, found)
        assert "\n" not in str(caught.value)
        return
    matched = match(file, found)
    given = {one: [] for one in held}
    for picture, one in zip(file.pictures, ids, strict=True):
        if one is not None:
            given[one] += picture.answers
    expected = {one: label for one, all_ in given.items() if (label := label_of(all_)) is not None}
    assert matched.labels == expected
    assert matched.unknown == [str(picture) for picture, one in zip(file.pictures, ids, strict=True) if one is None]
    assert not matched.labels.keys() & matched.without.keys()
    assert given.keys() <= matched.labels.keys() | matched.without.keys()
    exported = {sample.sample_id for record in found for sample in record.samples}
    assert matched.without.keys() <= exported
    assert {one for one, why in matched.without.items() if why == "not in the file"}.isdisjoint(given)
    assert sum(matched.answers.values()) == sum(len(picture.answers) for picture in file.pictures)
    assert matched.answers.get("unknown", 0) == sum(
        len(picture.answers) for picture, one in zip(file.pictures, ids, strict=True) if one is None
    )


def record(*samples, key="k", form="coco", when="2026-01-01"):
    exported = tuple(Exported(one, index, name, place) for index, (one, name, place) in enumerate(samples))
    return ExportRecord(f"{form}-{key}", key, form, "elfs/2", None, "", when, exported)


def coco(*names):
    return Annotations("x", "coco", tuple(Picture(name, (Answer({"label": (f"of {name}",)}),)) for name in names))


TWO = record(("p", "a/1.jpg", "/in/a/1.jpg"), ("q", "2.jpg", "/in/2.jpg"))


@pytest.mark.parametrize(
    ("name", "sample_id"),
    [
        ("/in/a/1.jpg", "p"),
        ("a/1.jpg", "p"),
        ("1.jpg", "p"),
        ("2.jpg", "q"),
        ("b/a/1.jpg", None),
        ("/other/in/a/1.jpg", None),
        ("in/a/1.jpg", None),
        ("a\\1.jpg", None),
        ("1.JPG", None),
        ("11.jpg", None),
        ("/1.jpg", None),
    ],
)
def test_names_of_coco(name, sample_id):
    found = match(coco(name, "/in/2.jpg" if sample_id != "q" else "/in/a/1.jpg"), [TWO])
    other = "p" if sample_id == "q" else "q"
    assert found.labels.keys() == {other, sample_id} - {None}
    assert found.labels.get(sample_id) == (None if sample_id is None else f"of {name}")
    assert found.unknown == ([] if sample_id else [repr(name)])


@pytest.mark.parametrize("form", FORMS)
def test_after_a_prefix_stand_whole_names(form):
    """The way out where a tool has moved the pictures; what lies elsewhere is another image, whatever its end."""
    names = ("srv/a/1.jpg", "srv/1.jpg", "a/1.jpg", "/in/2.jpg", "srv/2.jpg")
    pictures = tuple(Picture(name, (Answer({"label": (f"of {name}",)}),)) for name in names)
    found = match(Annotations("x", form, pictures), [TWO], prefix="srv/")
    assert found.labels == {"p": "of srv/a/1.jpg", "q": "of srv/2.jpg"}
    assert found.unknown == ["'srv/1.jpg'", "'a/1.jpg'", "'/in/2.jpg'"]


def test_names_of_another_tool_do_not_count():
    """Unless nothing was exported for the tool of the file."""
    links = record(("q", "1", "/out/1"), form="symlinks")
    found = Annotations("x", "cvat", (Picture("1", (Answer({"label": ("x",)}),)),))
    assert match(found, [record(("p", "1", "/1"), form="cvat"), links]).labels == {"p": "x"}
    assert match(found, [links]).labels == {"q": "x"}


def test_a_bare_name_may_be_a_whole_one_or_all_that_is_left():
    both = record(("p", "a/1.jpg", "/in/a/1.jpg"), ("q", "1.jpg", "/in/1.jpg"))
    with pytest.raises(UsageError, match=r"name '1.jpg', which may be 'p' or 'q'; give the tool the names"):
        match(coco("1.jpg"), [both])


def test_escapes_of_a_url_that_a_tool_cut():
    found = match(coco("a%20b.jpg"), [record(("p", "x/a b.jpg", "https://host/x/a%20b.jpg"))])
    assert found.labels == {"p": "of a%20b.jpg"}


def test_which_images_are_expected():
    """Those of the newest export that has all pictures of the file."""
    small = record(("p", "1", "/1"), key="s", when="2026-01-01")
    large = record(("p", "1", "/1"), ("q", "2", "/2"), key="l", when="2026-01-02")
    assert match(coco("/1"), [small, large]).without == {"q": "not in the file"}
    assert match(coco("/1"), [large, small]).without == {}
    assert match(coco("/1", "/2"), [large, small]).without == {}


def test_the_line_of_a_user():
    exported = record(*((f"{n}.jpg", f"{n}.jpg", f"/in/{n}.jpg") for n in range(60)), form="label-studio")
    tasks = [Picture(f"/in/{n}.jpg", (Answer({"label": ("x",)}, skipped=n < 2),)) for n in range(60)]
    found = Annotations("x", "label-studio", (*tasks, Picture("other/1.jpg", (Answer({}),))))
    assert match(found, [exported]).summary("done.csv") == (
        "58 labels in done.csv; 2 of 60 images have none (skipped: '0.jpg', '1.jpg'); "
        "1 unknown image passed over: 'other/1.jpg'"
    )
