"""Locations as users write them: each becomes one plain form, which opens what theirs would."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfs_ray.config_loading import load_config
from elfs_ray.data.columns import beside
from elfs_ray.errors import UsageError
from elfs_ray.locations import from_file_uri, plain_path, without_dots


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:///a/b%20c.jpg", "/a/b c.jpg"),
        ("file://localhost/a/b.jpg", "/a/b.jpg"),
        ("FILE:///a", "/a"),
        ("file:/a/b", "/a/b"),
        ("file:////a", "/a"),
        ("file:///caf%C3%A9.jpg", "/café.jpg"),
        ("file:///a?b#c%23.jpg", "/a?b#c#.jpg"),
        ("file:///100%.jpg", "/100%.jpg"),
        ("/a/b%20c.jpg", "/a/b%20c.jpg"),
        ("file:name.jpg", "file:name.jpg"),
        ("files/a.jpg", "files/a.jpg"),
        ("s3://b/a%20b", "s3://b/a%20b"),
    ],
)
def test_file_uris(text, path):
    assert from_file_uri(text) == path


@pytest.mark.parametrize("text", ["file://", "file:///", "file://localhost", "file://server/share/a.jpg"])
def test_file_uris_that_name_no_file_here(text):
    with pytest.raises(ValueError, match="write file:///PATH"):
        from_file_uri(text)


@pytest.mark.parametrize(
    ("text", "local", "remote"),
    [
        ("x.jpg", "/t/u/x.jpg", "s3://t/u/x.jpg"),
        ("./x.jpg", "/t/u/x.jpg", "s3://t/u/x.jpg"),
        ("img/../x.jpg", "/t/u/x.jpg", "s3://t/u/x.jpg"),
        ("../x.jpg", "/t/x.jpg", "s3://t/x.jpg"),
        ("../../../x.jpg", "/x.jpg", "s3://t/x.jpg"),
        ("a b%20.jpg", "/t/u/a b%20.jpg", "s3://t/u/a%20b%2520.jpg"),
        ("/a/../b//./c.jpg", "/b/c.jpg", "/b/c.jpg"),
        ("file:///a/../b%20c.jpg", "/b c.jpg", "/b c.jpg"),
        ("s3://k/a/../b c.jpg", "s3://k/b%20c.jpg", "s3://k/b%20c.jpg"),
        ("s3://k/b%20c.jpg?region=eu", "s3://k/b%20c.jpg?region=eu", "s3://k/b%20c.jpg?region=eu"),
        ("s3://k/../../b.jpg", "s3://k/b.jpg", "s3://k/b.jpg"),
        ("gs://k/./a/../b.jpg", "gs://k/b.jpg", "gs://k/b.jpg"),
        ("", "", ""),
        (None, "", ""),
    ],
)
def test_paths_in_tables(text, local, remote):
    assert beside("/t/u/table.csv", "/t/u/table.csv", text) == local
    assert beside("t/u/table.csv", "s3://t/u/table.csv?region=us", text) == remote


def test_up_from_a_link_is_up_from_where_it_leads(tmp_path):
    """As the system has it: `link/../x` is beside the folder that the link leads to."""
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "x").write_text("far")
    (tmp_path / "x").write_text("near")
    (tmp_path / "link").symlink_to("far/deep")
    assert plain_path(f"{tmp_path}/link/../x") == f"{tmp_path}/far/x"
    assert plain_path(f"{tmp_path}/link/x") == f"{tmp_path}/link/x"


@given(parts=st.lists(st.sampled_from(["a", "b", "l", "..", ".", ""]), max_size=8))
def test_a_plain_path_names_what_the_system_opens(tmp_path_factory, parts):
    root = tmp_path_factory.getbasetemp() / "tree"
    if not root.exists():
        for folder in ("a/a", "a/b", "b/a/b"):
            (root / folder).mkdir(parents=True)
        (root / "a" / "l").symlink_to("../b/a")
        (root / "l").symlink_to("a/b")
    path = "/".join([str(root), *parts])
    if os.path.exists(path):
        plain = plain_path(path)
        assert os.path.samefile(plain, path)
        assert not {"", ".", ".."} & set(plain.split("/")[1:])


@given(st.text(alphabet="ab./", max_size=12))
def test_dots_in_keys(key):
    plain = without_dots(key)
    assert not {".", ".."} & set(plain.split("/"))
    assert without_dots(plain) == plain
    if "." not in key:
        assert plain == key


def test_options_that_are_file_uris(tmp_path):
    names = ["input", "embed.weights", "embed.vectors", "select.labeled"]
    names += [f"evaluate.{name}" for name in ("labels", "test_input", "test_labels", "embeddings_of")]
    values = dict.fromkeys(names, f"file://{tmp_path}/a%20b")
    config = load_config({**values, "num_classes": 2, "budgets": [3]}).model_dump()
    for name in names:
        section, _, option = name.rpartition(".")
        assert (config[section] if section else config)[option] == f"{tmp_path}/a b"
    with pytest.raises(
        UsageError, match=r"option 'input' has the value 'file://server/a': .* another machine, 'server'"
    ):
        load_config({"input": "file://server/a", "num_classes": 2, "budgets": [3]})
