"""Every kind of input gives the same images, from a disk and from an object store."""

import io
import json
import pickle
import shutil
import tarfile
import uuid
from pathlib import Path

import pytest

from elfs_ray.artifacts import filesystems
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.data.images import inspect
from elfs_ray.data.sources import base, open_source
from elfs_ray.errors import RunError, UsageError
from elfs_ray.run.runner import run
from given_labels import read_labels
from kinds_of_input import (
    COUNT,
    IMAGES,
    KINDS,
    LABELS,
    NAMES,
    hugging_face_data,
    png,
    read_all,
    write_hugging_face,
    write_shards,
)


@pytest.fixture
def write(tmp_path):
    """Write the images in one kind of input."""

    def write(kind):
        (tmp_path / "input").mkdir()
        return str(KINDS[kind][0](tmp_path / "input"))

    return write


def members(path):
    with tarfile.open(path) as archive:
        return [(member, archive.extractfile(member).read()) for member in archive.getmembers()]


def write_tar(path, named):
    """Members in the given order; a `TarInfo` in place of the name for one that is no plain file."""
    with tarfile.open(path, "w") as archive:
        for name, data in named:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_gives_the_same_images(self, write, kind):
        source = pickle.loads(pickle.dumps(open_source(write(kind), chunk_rows=3)))
        assert source.count == COUNT
        assert max(chunk.rows for chunk in source.chunks) == 3
        rows = read_all(source)
        assert rows["sample_id"].to_pylist() == KINDS[kind][1]
        assert rows["position"].to_pylist() == list(range(COUNT))
        assert rows["error"].null_count == COUNT
        assert len(set(rows["uri"].to_pylist())) == COUNT
        order = sorted(range(COUNT), key=NAMES.__getitem__) if kind == "folder" else range(COUNT)
        expected = [inspect(IMAGES[number], max_pixels=100) for number in order]
        assert [inspect(data, max_pixels=100) for data in rows["image"].to_pylist()] == expected

    def test_large_images_are_few_in_a_chunk(self, write, kind, monkeypatch):
        monkeypatch.setattr(base, "CHUNK_BYTES", 3 * len(IMAGES[0]) - 1)
        source = open_source(write(kind))
        if kind not in ("csv", "tsv", "jsonl"):  # which do not say how large the files are
            assert max(chunk.rows for chunk in source.chunks) <= 2
        assert set(read_all(source)["image"].to_pylist()) == set(IMAGES)

    def test_labels(self, write, kind):
        location = write(kind)
        spec = {"folder": "folders", "webdataset": "column:cls"}.get(kind, "column:label")
        labels, classes = read_labels(spec, KINDS[kind][1], source=lambda: open_source(location))
        if kind == "folder":
            assert classes == ["a", "b"]
        else:
            assert [classes[label] for label in labels] == LABELS
        with pytest.raises(UsageError, match="lable"):
            read_labels("column:lable", KINDS[kind][1], source=lambda: open_source(location))

    def test_signature_follows_the_files(self, write, kind, tmp_path):
        location = write(kind)
        before = open_source(location).about.signature
        assert open_source(location).about.signature == before
        changed = next(path for path in sorted((tmp_path / "input").rglob("*")) if path.suffix in
                       (".parquet", ".csv", ".tsv", ".jsonl", ".tar", ".arrow", ".png"))  # fmt: skip
        if kind in ("csv", "tsv", "jsonl"):
            changed = next(path for path in (tmp_path / "input").iterdir() if path.is_file())
        with changed.open("ab") as file:
            file.write(b"\n")
        if kind not in ("parquet", "webdataset", "hugging face"):  # which do not open any more
            assert open_source(location).about.signature != before


class TestManifest:
    def test_files_that_are_not_there(self, tmp_path):
        (tmp_path / "m.csv").write_text('path,id\ngone.png,007\n"",008\n')
        rows = read_all(open_source(str(tmp_path / "m.csv")))
        assert rows["sample_id"].to_pylist() == ["007", "008"]
        assert "cannot be read" in rows["error"][0].as_py()
        assert rows["error"][1].as_py() == "the row names no file"

    def test_columns_can_be_named(self, tmp_path):
        (tmp_path / "one.png").write_bytes(png(1))
        (tmp_path / "m.csv").write_text(f"picture,key\none.png,x\n{tmp_path}/one.png,y\n")
        rows = read_all(open_source(str(tmp_path / "m.csv"), image_column="picture", id_column="key"))
        assert rows["sample_id"].to_pylist() == ["x", "y"]
        assert rows["image"].to_pylist() == [png(1)] * 2

    def test_files_of_any_size_are_few_in_a_chunk(self, tmp_path):
        (tmp_path / "m.csv").write_text("path\n" + "".join(f"{number}.png\n" for number in range(300)))
        assert [chunk.rows for chunk in open_source(str(tmp_path / "m.csv")).chunks] == [256, 44]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "cannot be read: Empty CSV"),
            ("path\n", "holds no rows"),
            ("n\n1\n", r"no column that looks like images \(columns: n\)"),
            ("path,path\na,b\n", "has 2 columns called 'path'; rename all but one"),
            ("path,id\na.png,\n", "column 'id' of .* holds nulls or empty texts"),
            ("path,id\na.png\n", "cannot be read: line 2 has 1 field, and the header 2"),
        ],
    )
    def test_wrong_ones_are_refused(self, tmp_path, text, message):
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(UsageError, match=message):
            open_source(str(tmp_path / "m.csv"))

    def test_ids_of_another_kind(self, tmp_path):
        (tmp_path / "m.jsonl").write_text('{"path": "a.png", "key": 1.5}\n')
        with pytest.raises(UsageError, match=r"ingest\.id_column=key: .* holds double there; ids are text"):
            open_source(str(tmp_path / "m.jsonl"), id_column="key")


class TestShards:
    def test_the_key_is_enough_where_it_is_unique(self, tmp_path):
        for name in ("x.tar", "deep/y.tar"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            write_tar(tmp_path / name, [("./001.jpg", png(1)), ("002.seg.png", png(2)), ("002.JPEG", png(3))])
        rows = read_all(open_source(str(tmp_path)))
        assert rows["sample_id"].to_pylist() == ["deep/y/001", "deep/y/002", "x/001", "x/002"]
        assert rows["image"].to_pylist() == [png(1), png(3)] * 2
        assert rows["uri"][3].as_py() == f"{tmp_path}/x.tar#002"
        assert read_all(open_source(str(tmp_path / "x.tar")))["sample_id"].to_pylist() == ["001", "002"]
        masks = read_all(open_source(str(tmp_path / "x.tar"), image_column="seg.png"))
        assert masks["image"].to_pylist() == [None, png(2)]

    def test_what_is_no_image_is_a_reason(self, tmp_path, monkeypatch):
        monkeypatch.setattr("elfs_ray.data.sources.webdataset.LARGEST_IMAGE", 3000)
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        named = [("good.png", png(1)), ("empty.png", b""), ("words.txt", b"x"), (link, b""), ("huge.png", bytes(4000)),
                 ("._hidden.png", b"x"), (".git/a.png", b"x"), ("noending", b"x")]  # fmt: skip
        rows = read_all(open_source(write_tar(tmp_path / "a.tar", named)))
        assert dict(zip(rows["sample_id"].to_pylist(), rows["error"].to_pylist(), strict=True)) == {
            "good": None,
            "empty": "the image is empty (0 bytes)",
            "words": "no member of the sample is an image",
            "link": "the member is a link or special, not a plain file",
            "huge": "the member has 4,000 bytes",
        }

    def test_hidden_members_are_counted(self, tmp_path):
        """As a Mac packs them; a sample may stand in any folder."""
        named = [("x/1.jpg", png(1)), ("__MACOSX/x/._1.jpg", b"x"), ("x/._1.jpg", b"x"), ("LICENSE", b"x"),
                 ("../up.jpg", png(2)), ("././here.jpg", png(3)), ("caf\udce9.jpg", png(4)),
                 ("words.txt", b"x")]  # fmt: skip
        write_tar(tmp_path / "a.TAR", named)
        write_tar(tmp_path / "b.tar", [])
        source = open_source(str(tmp_path))
        rows = read_all(source)
        assert rows["sample_id"].to_pylist() == ["x/1", "../up", "here", "caf\\xe9", "words"]
        assert rows["image"].to_pylist() == [png(1), png(2), png(3), png(4), None]
        assert source.found.passed_over == {
            "hidden members": 2, "members without an ending": 1, "shards without samples": 1
        }  # fmt: skip

    def test_equal_keys_are_told_apart_by_their_shards(self, tmp_path):
        for name in ("a.TAR", "deep/a.tar"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            write_tar(tmp_path / name, [("1.jpg", png(1))])
        assert read_all(open_source(str(tmp_path)))["sample_id"].to_pylist() == ["a/1", "deep/a/1"]

    @pytest.mark.parametrize("ending", ["jpe", "jfif", "j2k", "qoi", "dib", "pbm"])
    def test_every_kind_of_image_is_looked_for(self, tmp_path, ending):
        location = write_tar(tmp_path / "a.tar", [(f"1.{ending.upper()}", png(1)), ("1.txt", b"x")])
        assert read_all(open_source(location))["image"].to_pylist() == [png(1)]

    def test_joined_archives_are_refused(self, tmp_path):
        """`tar` itself stops at the end of the first: the images of the second would be lost."""
        parts = [write_tar(tmp_path / f"{number}.tar", [(f"{number}.jpg", png(number))]) for number in range(2)]
        joined = tmp_path / "joined.tar"
        joined.write_bytes(b"".join(Path(part).read_bytes() for part in parts))
        with pytest.raises(UsageError, match=r"after member 1 \(more follows its end, as where archives were joined\)"):
            open_source(str(joined))
        padded = tmp_path / "padded.tar"
        padded.write_bytes(Path(parts[0]).read_bytes() + bytes(2**21))
        assert open_source(str(padded)).count == 1

    def test_labels_in_json(self, tmp_path):
        location = write_shards(tmp_path / "shards")
        labels, classes = read_labels("column:kind", ["a/0", "b/1"], source=lambda: open_source(str(location)))
        assert (labels.tolist(), classes) == ([0, 1], ["cats", "dogs"])

    def test_a_damaged_member_is_set_aside(self, tmp_path):
        shard = write_shards(tmp_path / "shards") / "shard-00.tar"
        named = [(member.name, data[:-60] if member.name == "b/1.png" else data) for member, data in members(shard)]
        write_tar(shard, named)
        values = {"input": str(tmp_path / "shards"), "budgets": [2], "num_classes": 2, "ingest.max_bad_fraction": 0.2}
        store = RunFolder(str(tmp_path / "run"))
        run(load_config(values), store, Reporter(), until="ingest")
        [bad] = Table(store, "quarantine").read().to_pylist()
        assert (bad["sample_id"], bad["uri"]) == ("b/1", f"{shard}#b/1")
        assert "the image is " in bad["reason"]
        samples = Table(store, "samples").read()
        assert samples["sample_id"].to_pylist() == ["a/0", "a/2", "b/3", "a/4", "b/5", "a/6"]
        assert samples["image"].to_pylist() == [data for number, data in enumerate(IMAGES) if number != 1]

    def test_two_images_of_one_name(self, tmp_path):
        write_tar(tmp_path / "a.tar", [("1.png", png(1)), ("1.png", png(2))])
        values = {"input": str(tmp_path / "a.tar"), "budgets": [1], "num_classes": 2}
        with pytest.raises(UsageError) as caught:
            run(load_config(values), RunFolder(str(tmp_path / "run")), Reporter(), until="ingest")
        assert str(caught.value) == (
            f"sample id 'a/1' stands 2 times in {tmp_path}/a.tar (1 ids are repeated); ids must be unique: "
            "fix them, or name another column of a table with --set ingest.id_column=NAME"
        )

    def test_wrong_ones_are_refused(self, tmp_path):
        for name in ("a.tar.gz", "b.tar"):
            (tmp_path / name).write_bytes(b"\x1f\x8b" * 600)
        with pytest.raises(UsageError, match="is compressed, so that no image in it can be read alone; unpack"):
            open_source(str(tmp_path / "a.tar.gz"))
        with pytest.raises(UsageError, match="is damaged or cut off, or no plain tar archive, at its start"):
            open_source(str(tmp_path / "b.tar"))
        words = write_tar(tmp_path / "c.tar", [("1.txt", b"x"), ("1.cls", b"2")])
        with pytest.raises(UsageError, match=r"no member that ends in .jpg, .* \(endings: cls, txt\); name that"):
            open_source(words)
        with pytest.raises(UsageError, match=r"keys are the ids; leave ingest\.id_column out"):
            open_source(words, id_column="id")

    @pytest.mark.parametrize(
        ("damage", "told"),
        [
            (lambda data: data[:5000], "after member 2"),
            (lambda data: data[:3072] + b"x" * 512 + data[3584:], "after member 1"),
        ],
    )
    def test_a_damaged_shard_is_refused(self, tmp_path, damage, told):
        shard = write_shards(tmp_path / "shards") / "shard-01.tar"
        shard.write_bytes(damage(shard.read_bytes()))
        with pytest.raises(UsageError, match=f"shard-01.tar is damaged or cut off.*{told}.*leave it out"):
            open_source(str(tmp_path / "shards"))


class TestHuggingFace:
    def test_splits_are_named(self, tmp_path):
        import datasets

        data = hugging_face_data()
        datasets.DatasetDict(train=data, test=data).save_to_disk(tmp_path / "data")
        message = f"DatasetDict with the splits train, test; pass one of them, such as --input {tmp_path}/data/train"
        with pytest.raises(UsageError, match=message):
            open_source(str(tmp_path / "data"))
        assert open_source(str(tmp_path / "data" / "test")).count == COUNT

    def test_an_image_may_name_a_file(self, tmp_path):
        import datasets

        (tmp_path / "one.png").write_bytes(png(1))
        images = [{"bytes": None, "path": str(tmp_path / "one.png")}, {"bytes": None, "path": None}]
        plain = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
        data = datasets.Dataset.from_dict({"image": images, "id": ["x", "y"]}).cast_column("image", plain)
        data.save_to_disk(tmp_path / "data")
        rows = read_all(open_source(str(tmp_path / "data")))
        assert rows["sample_id"].to_pylist() == ["x", "y"]
        assert rows["image"].to_pylist() == [png(1), None]
        assert rows["error"].to_pylist() == [None, "the row holds neither the bytes of an image nor a path"]
        assert rows["uri"].to_pylist() == [str(tmp_path / "one.png"), f"{tmp_path}/data/data-00000-of-00001.arrow#1"]

    def test_rows_are_numbered_in_their_file(self, tmp_path):
        rows = read_all(open_source(str(write_hugging_face(tmp_path / "data"))))
        files = [f"{tmp_path}/data/data-0000{number}-of-00002.arrow" for number in range(2)]
        assert rows["uri"].to_pylist() == [f"{files[n // 4]}#{n % 4}" for n in range(COUNT)]

    def test_what_it_does_not_name_is_passed_over(self, tmp_path):
        """As `map` leaves its caches beside the data."""
        folder = write_hugging_face(tmp_path / "data")
        shutil.copy(folder / "data-00000-of-00002.arrow", folder / "cache-1.arrow")
        (folder / "README.md").write_text("x")
        source = open_source(str(folder))
        assert read_all(source)["image"].to_pylist() == IMAGES
        assert source.found.line(str(folder)) == "data/: 2 .arrow read; passed over 1 .arrow, 1 .md"

    def test_several_data_sets_are_refused(self, tmp_path):
        for name in ("train", "test"):
            write_hugging_face(tmp_path / "all" / name)
        message = f"holds 2 saved data sets; pass one of them, such as --input {tmp_path}/all/test"
        with pytest.raises(UsageError, match=message):
            open_source(str(tmp_path / "all"))

    def test_its_own_order_counts(self, tmp_path):
        hugging_face_data().save_to_disk(tmp_path / "data", num_shards=2)
        state = json.loads((tmp_path / "data" / "state.json").read_text())
        state["_data_files"].reverse()
        (tmp_path / "data" / "state.json").write_text(json.dumps(state))
        assert read_all(open_source(str(tmp_path / "data")))["image"].to_pylist() == IMAGES[4:] + IMAGES[:4]
        state["_data_files"][0]["filename"] = "gone.arrow"
        (tmp_path / "data" / "state.json").write_text(json.dumps(state))
        with pytest.raises(UsageError, match=r"names the file gone\.arrow, which is not there"):
            open_source(str(tmp_path / "data"))

    def test_the_hub_does_not_answer(self):
        """Offline by the environment, as on a machine without a network."""
        with pytest.raises(
            UsageError, match="hf://datasets/a/b/c cannot be opened: the Hugging Face Hub does not answer"
        ):
            open_source("hf://datasets/a/b/c")
        error = filesystems.NoAnswerError("the Hugging Face Hub does not answer")
        assert isinstance(filesystems.as_expected(error, "ingest", "run"), RunError)
        with pytest.raises(UsageError, match=r"hf://a/b names no data set; pass hf://datasets/OWNER/NAME"):
            open_source("hf://a/b")
        with pytest.raises(UsageError, match="can only be read; choose another --out"):
            filesystems.check_bucket("hf://datasets/a/b/run")
        filesystem, path = filesystems.resolve("hf://datasets/a/b@main/c/")
        assert path == "datasets/a/b@main/c"
        assert type(pickle.loads(pickle.dumps(filesystem))) is type(filesystem)


@pytest.mark.parametrize("kind", ["csv", "webdataset", "hugging face"])
def test_object_storage(object_storage, write, kind, tmp_path):
    location, below = write(kind), f"photos/{uuid.uuid4().hex}"
    object_storage.upload(tmp_path / "input", below)
    name = location.removeprefix(str(tmp_path / "input")).lstrip("/")
    uri = object_storage.uri(f"{below}/{name}".rstrip("/"))
    source = pickle.loads(pickle.dumps(open_source(uri, chunk_rows=3)))
    rows = read_all(source)
    assert rows["sample_id"].to_pylist() == KINDS[kind][1]
    assert rows["image"].to_pylist() == IMAGES
    assert rows["uri"][0].as_py().startswith(f"s3://{below}/")
    if kind != "csv":
        spec = "column:cls" if kind == "webdataset" else "column:label"
        labels, classes = read_labels(spec, KINDS[kind][1], source=lambda: open_source(uri))
        assert [classes[label] for label in labels] == LABELS
