"""Units of work, and which records of them are stale."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfs_ray.artifacts.record import PREFIXES, Record, Records, Unit

words = st.text("abcdefgh_-0123456789", min_size=1, max_size=8).filter(lambda text: text not in PREFIXES)
units = st.builds(Unit, words, st.sampled_from(["", *PREFIXES])) | st.builds(
    Unit, words, st.sampled_from(["", *PREFIXES]), words, st.integers(1, 10**9)
)


def records(**contents):
    """A chain a <- b <- c, each resting on the content that `contents` gives for the one before: NAME=(own, seen)."""
    below, found = None, {}
    for name, (own, seen) in contents.items():
        rests_on = {below: seen} if below else {}
        found[Unit(name)] = Record(Unit(name), 1, own, own, rests_on)
        below = name
    return Records(found)


@given(units)
def test_a_unit_comes_back_from_its_text(unit):
    assert Unit.parse(str(unit)) == unit


@pytest.mark.parametrize("text", ["select/elfs", "select/elfs/many", "a/b/c/d", "select/elfs/05"])
def test_other_texts_name_no_unit(text):
    with pytest.raises(ValueError, match="no unit of work|invalid literal"):
        Unit.parse(text)


def test_artifacts_are_named_by_images_method_and_budget():
    assert Unit("embed", "test").artifact("embeddings") == "test/embeddings"
    assert Unit("select", method="elfs", budget=40).artifact("coresets") == "coresets/elfs/40"


def test_a_record_comes_back_from_json():
    record = Record(
        Unit("embed", "test"), 3, "f", "c", {"ingest": "x"}, ("test/embeddings",), rows={"e": 2}, seconds=1.5
    )
    assert Record.from_json(record.as_json()) == record


def test_nothing_is_stale_while_all_is_as_it_was():
    found = records(a=("1", None), b=("2", "1"), c=("3", "2"))
    assert not found.stale
    assert list(found.current) == [Unit("a"), Unit("b"), Unit("c")]


def test_what_rests_on_a_change_is_stale_and_so_is_all_above():
    found = records(a=("new", None), b=("2", "1"), c=("3", "2"))
    assert found.stale == {Unit("b"): "a has changed", Unit("c"): "a has changed"}
    assert list(found.current) == [Unit("a")]


def test_what_was_done_again_between_is_current():
    found = records(a=("new", None), b=("2", "new"), c=("3", "2"))
    assert not found.stale


def test_what_rests_on_nothing_that_is_there_is_stale():
    assert Records({Unit("b"): Record(Unit("b"), 1, "2", "2", {"a": "1"})}).stale == {Unit("b"): "a is gone"}
