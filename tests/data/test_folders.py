"""What a folder is, what of it is an input, and what is said of the rest: nothing is lost without a word."""

import io
import os
import socket
import tarfile
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config_loading import load_config
from elfs_ray.data.listing import list_folder
from elfs_ray.data.sources import open_input, open_source
from elfs_ray.errors import UsageError
from elfs_ray.run.runner import run
from kinds_of_input import IMAGES, png, read_all, write_hugging_face
from made_records import record_of
from small import Lines


def errors_of(location, **options):
    """Id -> why there are no bytes."""
    rows = read_all(open_source(str(location), **options))
    return dict(zip(rows["sample_id"].to_pylist(), rows["error"].to_pylist(), strict=True))


def told(location, **options):
    source = open_source(str(location), **options)
    return source.found.line(source.location)


def fill(folder, names):
    """Files of a folder: content as given, or the image of that number."""
    for name, content in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(content) if isinstance(content, int) else content)
    return folder


def write_shard(path, names=("1.png", "2.png")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = len(png(number))
            archive.addfile(member, io.BytesIO(png(number)))


def write_parquet(path, first=0, rows=3, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = [f"s{number}" for number in range(first, first + rows)]
    pq.write_table(pa.table({"id": ids, "image": [png(n) for n in range(first, first + rows)], **columns}), path)


class TestLinks:
    def test_a_file_that_a_link_names_is_read(self, tmp_path):
        fill(tmp_path / "in", {"real.png": 1})
        fill(tmp_path / "store", {"x": 2})
        (tmp_path / "in" / "link.png").symlink_to(tmp_path / "store" / "x")
        rows = read_all(open_source(str(tmp_path / "in")))
        assert rows["sample_id"].to_pylist() == ["link.png", "real.png"]
        assert rows["image"].to_pylist() == [png(2), png(1)]
        assert rows["uri"][0].as_py() == f"{tmp_path}/in/link.png"

    def test_a_dangling_one_is_an_input_with_a_reason(self, tmp_path):
        fill(tmp_path, {"a.png": 1})
        (tmp_path / "b.png").symlink_to("../annex/b.png")
        (tmp_path / "c.png").symlink_to("c.png")
        (tmp_path / "d.png").symlink_to("a.png/d.png")
        (tmp_path / "mount").symlink_to("not mounted")
        (tmp_path / "notes.txt").symlink_to("gone.txt")
        assert errors_of(tmp_path) == {
            "a.png": None,
            "b.png": "the link leads nowhere: ../annex/b.png is not there",
            "c.png": "the link leads round in a circle",
            "d.png": "the link leads nowhere: a.png/d.png is not there",
            "mount": "the link leads nowhere: not mounted is not there",
        }
        assert "passed over 1 .txt" in told(tmp_path)

    def test_one_that_leads_somewhere_again_changes_the_signature(self, tmp_path):
        fill(tmp_path, {"in/a.png": 1})
        (tmp_path / "in" / "b.png").symlink_to("../b.png")
        before = open_source(str(tmp_path / "in")).about.signature
        fill(tmp_path, {"b.png": 2})
        assert open_source(str(tmp_path / "in")).about.signature != before
        assert errors_of(tmp_path / "in") == {"a.png": None, "b.png": None}

    def test_loops_and_second_ways_add_nothing(self, tmp_path):
        fill(tmp_path / "in", {"a/1.png": 1, "c/2.png": 2})
        for name, target in {"a/all": "..", "b": "a", "c/self": ".", "up": "../..", "top": "/"}.items():
            (tmp_path / "in" / name).symlink_to(target)
        assert errors_of(tmp_path / "in") == {"a/1.png": None, "c/2.png": None}
        assert told(tmp_path / "in") == (
            "in/: 2 images read; passed over 5 links to folders that are listed anyway: 'a/all', 'b', 'c/self', ..."
        )

    def test_a_folder_elsewhere_is_entered_once(self, tmp_path):
        fill(tmp_path, {"in/1.png": 1, "other/2.png": 2, "other/deep/3.png": 3})
        (tmp_path / "other" / "back").symlink_to(tmp_path / "in")
        for name, target in {"y": "../other", "x": "../other", "z": "../other/deep"}.items():
            (tmp_path / "in" / name).symlink_to(target)
        assert list(errors_of(tmp_path / "in")) == ["1.png", "x/2.png", "x/deep/3.png"]

    def test_the_input_itself_may_be_a_link(self, tmp_path):
        fill(tmp_path, {"real/1.png": 1})
        (tmp_path / "in").symlink_to("real")
        assert errors_of(tmp_path / "in") == {"1.png": None}

    @settings(max_examples=30)
    @given(
        links=st.dictionaries(
            st.tuples(st.sampled_from(["", "a", "a/b", "c"]), st.sampled_from(["k", "l", "m"])),
            st.sampled_from([".", "a", "a/b", "c", "c/d", "gone", "../out", "..", "k", "c/l"]),
            max_size=6,
        )
    )
    def test_every_file_is_read_once_wherever_links_lead(self, tmp_path_factory, links):
        """Files that are there by their own path, all; those elsewhere, at most once; whatever the links."""
        base = tmp_path_factory.mktemp("links")
        own = {name: number for number, name in enumerate(["1.png", "a/2.png", "a/b/3.png", "c/d/4.png"])}
        fill(base / "in", own)
        fill(base, {"out/5.png": 5})
        for (folder, name), target in links.items():
            (base / "in" / folder / name).symlink_to(base / "in" / target)
        rows = read_all(open_source(str(base / "in")))
        whole = [row for row in rows.to_pylist() if row["error"] is None]
        read = [os.path.realpath(row["uri"]) for row in whole]
        assert len(read) == len(set(read))
        assert set(own) <= set(rows["sample_id"].to_pylist())
        paths = [f"{base}/in/{folder}/{name}" for folder, name in links]
        reached = any(os.path.realpath(path) == f"{base}/out" for path in paths)
        assert (f"{base}/out/5.png" in read) == reached
        dangling = {os.path.normpath(path) for path in paths if not os.path.exists(path)}
        assert {row["uri"] for row in rows.to_pylist() if row["error"]} == dangling


class TestNames:
    def test_any_name_is_read(self, tmp_path):
        names = ["a b.png", "~.png", "a#1.png", "a?b=c.png", "50%.png", "x%20y.png", "new\nline.png", "tab\t.png"]
        names += ["é.PNG", "e\u0301.png", "-.png", "a:b.png", "'\".png", "d.d/1.jpeg", "\\x.png", " .png"]
        fill(tmp_path, {name: number for number, name in enumerate(names)})
        rows = read_all(open_source(str(tmp_path)))
        assert rows["sample_id"].to_pylist() == sorted(names)
        assert rows["image"].to_pylist() == [png(names.index(name)) for name in sorted(names)]

    def test_one_that_is_not_utf8_is_told_and_collides_with_none(self, tmp_path):
        fill(tmp_path, {"a.png": 1, "caf\\xe9.png": 2, "caf\\\\xe9.png": 3})
        for name in (b"caf\xe9.png", b"caf\xe8.png", b"d\xff/1.png", b"\xe9.txt"):
            path = os.path.join(os.fsencode(tmp_path), name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(png(4))
        found = errors_of(tmp_path)
        assert len(found) == 6
        assert [name for name, error in found.items() if error is None] == ["a.png", "caf\\\\xe9.png", "caf\\xe9.png"]
        assert {name for name, error in found.items() if error == "its name is not UTF-8 text; rename it"} == {
            "caf\\\\\\\\xe9.png", "caf\\xe8.png", "d\\xff/1.png"
        }  # fmt: skip
        assert "passed over 1 .txt" in told(tmp_path)

    def test_the_input_itself(self):
        with pytest.raises(UsageError, match=r"xe9' is not UTF-8 text; rename it, or pass a link to it"):
            open_source("/caf\udce9")

    def test_hidden_and_special_files_are_counted_and_never_opened(self, tmp_path):
        fill(tmp_path, {"1.png": 1, ".DS_Store": b"x", ".git/2.png": 2, "__MACOSX/._1.png": b"x", "_SUCCESS": b"",
                        "@eaDir/1.png/thumb.jpg": 1, "_SUCCESS.png": 3, "_DSC1.png": 4})  # fmt: skip
        os.mkfifo(tmp_path / "pipe.png")
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(tmp_path / "sock"))
            assert told(tmp_path) == (
                f"{tmp_path.name}/: 3 images read; passed over 3 hidden folders, 2 hidden files, "
                "2 special files (pipes, sockets or devices): 'pipe.png', 'sock'"
            )
        assert list(errors_of(tmp_path)) == ["1.png", "_DSC1.png", "_SUCCESS.png"]

    def test_a_folder_that_may_not_be_read_is_refused(self, ordinary_user, tmp_path):
        fill(tmp_path, {"in/1.png": 1, "in/closed/2.png": 2})
        (tmp_path / "in" / "closed").chmod(0)
        with ordinary_user(), pytest.raises(UsageError) as caught:
            open_source(str(tmp_path / "in"))
        assert str(caught.value) == (
            f"{tmp_path}/in/closed cannot be listed (Permission denied), so that nobody can say which images it holds; "
            f"change its permissions, or move it out of {tmp_path}/in"
        )
        (tmp_path / "in" / "closed").chmod(0o700)

    def test_the_order_is_that_of_paths(self, tmp_path):
        names = ["a/1.png", "a-b/1.png", "a.png", "A/1.png", "a/b/1.png", "a0.png"]
        fill(tmp_path, {name: number for number, name in enumerate(names)})
        listed = list_folder(str(tmp_path), pafs.LocalFileSystem(), str(tmp_path)).entries
        assert [entry.path for entry in listed] == sorted(f"{tmp_path}/{name}" for name in names)


class TestKinds:
    def test_texts_beside_images(self, tmp_path):
        """As many tools write them; what no ending tells is an input, known texts are none."""
        fill(
            tmp_path,
            {f"{n}.{ending}": n if ending == "JPG" else b"x" for n in range(4) for ending in ("JPG", "txt", "json")},
        )
        fill(
            tmp_path,
            {"README": b"x", "LICENSE": b"x", "Thumbs.db": bytes(10**5), "metadata.csv": b"path\n", "1.jpg.xmp": b"x"},
        )
        assert told(tmp_path) == (
            f"{tmp_path.name}/: 4 images read; passed over 4 .json, 4 .txt, 1 .csv, 1 .db, 1 .xmp, "
            "2 files without an ending"
        )
        assert errors_of(tmp_path) == {f"{n}.JPG": None for n in range(4)}

    def test_files_of_unknown_kinds_are_inputs(self, tmp_path):
        fill(tmp_path, {"1.png": 1, "2": 2, "x.heic": b"x", "y.svg": b"<svg/>", "z.cr2": b"II*"})
        assert list(errors_of(tmp_path)) == ["1.png", "2", "x.heic", "y.svg", "z.cr2"]
        assert told(tmp_path) == f"{tmp_path.name}/: 1 image and 4 files of an unknown kind read"

    def test_a_store_whose_names_are_hashes(self, tmp_path):
        fill(tmp_path, {f"{number:032x}": png(number) + bytes(999) for number in range(7)})
        write_parquet(tmp_path / "index.parquet", rows=1)
        assert read_all(open_source(str(tmp_path)))["image"].to_pylist() == [png(n) + bytes(999) for n in range(7)]
        assert told(tmp_path) == f"{tmp_path.name}/: 7 files of an unknown kind read; passed over 1 .parquet"

    def test_tables_beside_texts(self, tmp_path):
        write_parquet(tmp_path / "a.PARQUET")
        write_parquet(tmp_path / "deep/b.parquet", first=3)
        write_parquet(tmp_path / "_temporary/0/c.parquet", first=9)
        fill(
            tmp_path,
            {"README.md": b"x", "_metadata": b"x", "_SUCCESS": b"", "NOTES": b"no image", "TODO": b"x", "IDEAS": b"x"},
        )
        assert list(errors_of(tmp_path)) == [f"s{number}" for number in range(6)]
        assert told(tmp_path) == (
            f"{tmp_path.name}/: 2 .parquet read; passed over 1 .md, 1 .parquet, "
            "4 files without an ending, 1 hidden file"
        )

    def test_what_stands_beside_shards_is_no_data(self, tmp_path):
        """As img2dataset writes it, here with tables that are larger than their shards."""
        for name in ("00000", "00001"):
            write_shard(tmp_path / f"{name}.tar", [f"{name}{number}.png" for number in range(2)])
            write_parquet(tmp_path / f"{name}.parquet", rows=90)
            fill(tmp_path, {f"{name}_stats.json": b"{}"})
        assert list(errors_of(tmp_path)) == ["000000", "000001", "000010", "000011"]
        assert told(tmp_path) == f"{tmp_path.name}/: 2 .tar read; passed over 2 .json, 2 .parquet"
        assert open_source(str(tmp_path), kind="parquet").count == 180

    def test_most_files_and_most_bytes_decide(self, tmp_path):
        fill(tmp_path, {f"{number}.png": number for number in range(3)})
        write_parquet(tmp_path / "t.parquet", rows=1)
        small, large = 3 * len(png(0)), (tmp_path / "t.parquet").stat().st_size
        assert small < large
        message = (
            f"{tmp_path} holds 3 images ({small} B) and 1 .parquet ({large / 1024:.0f} KiB); most files are not most "
            "bytes, so say which to read: --input-kind folder or parquet"
        )
        with pytest.raises(UsageError) as caught:
            open_source(str(tmp_path))
        assert str(caught.value) == message
        assert list(errors_of(tmp_path, kind="folder")) == ["0.png", "1.png", "2.png"]
        assert list(errors_of(tmp_path, kind="parquet")) == ["s0"]
        fill(tmp_path, {"3.png": png(3) + bytes(9000)})
        assert list(errors_of(tmp_path)) == ["0.png", "1.png", "2.png", "3.png"]

    def test_a_tie_in_files_is_settled_by_bytes(self, tmp_path):
        fill(tmp_path, {"1.png": 1})
        write_shard(tmp_path / "1.tar")
        assert told(tmp_path) == f"{tmp_path.name}/: 1 .tar read; passed over 1 .png"

    def test_compressed_shards_are_refused_by_name(self, tmp_path):
        write_shard(tmp_path / "1.tar")
        fill(tmp_path, {"2.tar.gz": b"x"})
        with pytest.raises(UsageError, match=rf"{tmp_path}/2\.tar\.gz is compressed, .* unpack it to \.tar$"):
            open_source(str(tmp_path))

    def test_most_of_a_folder_may_be_compressed(self, tmp_path):
        fill(tmp_path, {"preview.png": 1, "1.tgz": b"x", "2.tgz": b"x"})
        with pytest.raises(UsageError, match=rf"{tmp_path}/1\.tgz is compressed"):
            open_source(str(tmp_path))
        (tmp_path / "2.tgz").unlink()
        assert told(tmp_path) == f"{tmp_path.name}/: 1 image read; passed over 1 .tgz"

    def test_a_table_whose_log_says_what_counts(self, tmp_path):
        write_parquet(tmp_path / "part-0.parquet")
        fill(tmp_path, {"_delta_log/0.json": b"{}"})
        with pytest.raises(UsageError, match=r"is a Delta table, .* read all files with --input-kind parquet"):
            open_source(str(tmp_path))
        assert open_source(str(tmp_path), kind="parquet").count == 3

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["a.csv"], r"holds a table and no images; pass it: --input {folder}/a.csv"),
            (["b.jsonl", "a.tsv", "x.md"], r"holds 2 tables and no images; pass one of them: --input {folder}/a.tsv"),
            (["a.txt", "b.txt", "c.pdf", ".d"], "holds no images, only 2 .txt, 1 .pdf and 1 hidden file;"),
            ([], "holds no files; pass a folder with images"),
            (["a.tar.zst", "b.txt"], "{folder}/a.tar.zst is compressed, so that no image in it can be read alone"),
        ],
    )  # fmt: skip
    def test_folders_without_images_are_refused(self, tmp_path, names, message):
        fill(tmp_path, dict.fromkeys(names, b"x"))
        with pytest.raises(UsageError, match=message.format(folder=tmp_path)):
            open_source(str(tmp_path))

    @pytest.mark.parametrize("name", ["2.tar", "2.parquet"])
    def test_a_table_or_shard_that_is_not_there_is_refused(self, tmp_path, name):
        """Nobody knows how many images it held."""
        write_shard(tmp_path / "1.tar") if name.endswith("tar") else write_parquet(tmp_path / "1.parquet")
        (tmp_path / name).symlink_to("gone")
        with pytest.raises(UsageError, match=f"{name}: the link leads nowhere: gone is not there; restore it, or"):
            open_source(str(tmp_path))


class TestInputKind:
    def test_a_file_of_another_ending(self, tmp_path):
        write_parquet(tmp_path / "table.data")
        write_shard(tmp_path / "shard.0001")
        saved = write_hugging_face(tmp_path / "saved")
        (saved / "data-00000-of-00002.arrow").rename(tmp_path / "part")
        fill(tmp_path, {"1.png": 1, "list.txt": b"path\n1.png\n"})
        assert list(errors_of(tmp_path / "table.data", kind="parquet")) == ["s0", "s1", "s2"]
        assert list(errors_of(tmp_path / "shard.0001", kind="webdataset")) == ["1", "2"]
        assert read_all(open_source(str(tmp_path / "part"), kind="hugging-face"))["image"].to_pylist() == IMAGES[:4]
        assert errors_of(tmp_path / "list.txt", kind="table") == {"1.png": None}
        for name in ("table.data", "list.txt", "1.png"):
            with pytest.raises(UsageError, match=r"is neither a folder nor a \.parquet file"):
                open_source(str(tmp_path / name))
        with pytest.raises(UsageError, match=r"list.txt cannot be read as Parquet"):
            open_source(str(tmp_path / "list.txt"), kind="parquet")

    def test_the_table_of_a_folder(self, tmp_path):
        """As `imagefolder` has it."""
        fill(tmp_path, {"b.png": 1, "a.png": 2, "metadata.csv": b"file_name,label\nb.png,x\n"})
        assert errors_of(tmp_path, kind="table") == {"b.png": None}
        assert told(tmp_path, kind="table") == f"{tmp_path.name}/: 1 .csv read; passed over 2 .png"
        fill(tmp_path, {"other.csv": b"path\n"})
        with pytest.raises(
            UsageError, match=f"holds 2 tables; pass one of them, such as --input {tmp_path}/metadata.csv"
        ):
            open_source(str(tmp_path), kind="table")

    @pytest.mark.parametrize(
        ("kind", "told"),
        [("parquet", ".parquet"), ("webdataset", ".tar"), ("hugging-face", ".arrow"), ("table", ".csv, .tsv, .jsonl")],
    )
    def test_one_that_is_not_there(self, tmp_path, kind, told):
        fill(tmp_path, {"1.png": 1})
        with pytest.raises(UsageError, match=f"holds no {told}.* to read with --input-kind {kind}; leave it out"):
            open_source(str(tmp_path), kind=kind)

    def test_it_says_nothing_of_embeddings(self, tmp_path):
        vectors = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32()))
        write_parquet(tmp_path / "v.parquet", vector=vectors)
        values = {"embed.vectors": str(tmp_path / "v.parquet"), "num_classes": 2, "budgets": [1]}
        assert open_input(load_config(values), None).count == 3
        with pytest.raises(
            UsageError, match=r"ingest\.input_kind=parquet is for images, and there are only embeddings"
        ):
            open_input(load_config({**values, "ingest.input_kind": "parquet"}), None)

    def test_images_that_are_not_there(self, tmp_path):
        write_parquet(tmp_path / "t.parquet")
        with pytest.raises(UsageError, match="holds no images to read with --input-kind folder; leave it out"):
            open_source(str(tmp_path), kind="folder")


def test_every_entry_is_a_sample_or_has_a_reason(tmp_path):
    """Through ingest: what is listed, counted without the reader, is what the two artifacts hold."""
    fill(tmp_path / "in", {f"{number}.png": number for number in range(8)})
    fill(tmp_path / "in", {"odd": b"x", "7.txt": b"x", ".hidden.png": 1, "e\u0301.png": 9})
    (tmp_path / "in" / "gone.png").symlink_to("annex/gone.png")
    (tmp_path / "in" / "loop").symlink_to(".")
    with open(os.path.join(os.fsencode(tmp_path), b"in", b"caf\xe9.png"), "wb") as file:
        file.write(png(8))
    values = {"input": f"file://{tmp_path}/in", "budgets": [2], "num_classes": 2, "ingest.max_bad_fraction": 0.5}
    store, reporter = RunFolder(str(tmp_path / "run")), Lines()
    run(load_config(values), store, reporter, until="ingest")
    samples, quarantine = Table(store, "samples").read(), Table(store, "quarantine").read()
    assert samples["sample_id"].to_pylist() == [*(f"{n}.png" for n in range(8)), "e\u0301.png"]
    assert [Path(uri).read_bytes() for uri in samples["uri"].to_pylist()] == [png(n) for n in (*range(8), 9)]
    reasons = dict(zip(quarantine["sample_id"].to_pylist(), quarantine["reason"].to_pylist(), strict=True))
    assert reasons.keys() == {"caf\\xe9.png", "gone.png", "odd"}
    assert reasons["gone.png"] == "the link leads nowhere: annex/gone.png is not there"
    assert reasons["caf\\xe9.png"] == "its name is not UTF-8 text; rename it"
    inside = os.listdir(os.fsencode(tmp_path / "in"))
    assert samples.num_rows + quarantine.num_rows == len(inside) - len([b"7.txt", b".hidden.png", b"loop"])
    metrics = record_of(store, "listing").metrics
    assert metrics["passed_over"] == {".txt": 1, "hidden files": 1, "links to folders that are listed anyway": 1}
    assert metrics["inputs"] == record_of(store, "ingest").metrics["inputs"] == 12
    assert (
        "  in/: 11 images and 1 file of an unknown kind read; passed over 1 .txt, 1 hidden file, "
        "1 link to a folder that is listed anyway: 'loop'"
    ) in reporter.lines


def test_object_storage(object_storage, tmp_path):
    write_shard(tmp_path / "in" / "0.tar")
    write_parquet(tmp_path / "in" / "0.parquet", rows=50)
    fill(tmp_path / "in", {"0_stats.json": b"{}", ".x/1.png": 1, "__MACOSX/2.png": 2})
    below = f"photos/{uuid.uuid4().hex}"
    object_storage.upload(tmp_path / "in", below)
    location = object_storage.uri(below)
    rows = read_all(open_source(location))
    assert rows["image"].to_pylist() == [png(0), png(1)]
    assert told(location) == f"{below[7:]}/: 1 .tar read; passed over 1 .json, 1 .parquet, 2 hidden files"
    assert open_source(location, kind="parquet").count == 50
    with pytest.raises(UsageError, match=r"holds no \.csv, .* to read with --input-kind table"):
        open_source(location, kind="table")
    object_storage.put(b"path\n0.tar\n", f"{below}/list.csv")
    table = open_source(location, kind="table")
    assert read_all(table)["uri"].to_pylist() == [f"s3://{below}/0.tar"]
    assert read_all(table)["error"].to_pylist() == [None]
