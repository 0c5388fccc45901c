"""Encoding: the scale of vectors, JPEGs that are left to the encoders, and the smallest machine."""

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config import EmbedConfig
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.encoders.base import Encoder, Preprocessing
from elfs_ray.errors import RunError, UsageError
from elfs_ray.planning.auto_options import choose_embed
from elfs_ray.run.runner import run
from elfs_ray.stages import embed
from elfs_ray.stages.parts import embed_rows
from elfs_ray.stages.parts.embed_rows import Pixels, decode_batch, note_failed, read_failed
from elfs_ray.workers.on_ray import session
from photographs import jpeg, photograph
from small import BUDGET, OPTIONS


def as_png(*which):
    file = io.BytesIO()
    photograph(*which).save(file, "PNG")
    return file.getvalue()


class Scaled(nn.Module):
    """Means of the channels, times a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, images):
        return self.factor * images.mean(dim=(2, 3))


class Advanced:
    """Counts as a counter of progress does."""

    def __init__(self):
        self.rows = 0

    def advance(self, rows):
        self.rows += rows


def encode(monkeypatch, pixels, factor, dtype="float32"):
    """What a batch of images named a, b, ... becomes; their pixels are of one colour each."""
    normal = Preprocessing(4, (0.0, 0.0, 0.0), (0.5, 0.5, 0.5))  # pixels from 0 to 2
    monkeypatch.setattr(embed, "load_encoder", lambda *_, **__: Encoder("s", Scaled(factor), normal, 3, "none"))
    options = EmbedConfig(image_size=4, batch_size=4, dtype=dtype, compile=False)
    how = Pixels(4, 1.0, "bicubic", 100, "")
    images = np.array(pixels, np.uint8)[:, :, None, None] * np.ones((4, 4), np.uint8)
    names = np.array([chr(ord("a") + row) for row in range(len(pixels))], dtype=object)
    batch = {"sample_id": names, "index": np.arange(len(pixels)), "pixels": images, "decode_seconds": np.zeros(3)}
    return embed._EncodeBatch(options, how, torch.get_num_threads, Advanced(), [].append)(batch)


@pytest.mark.parametrize("factor", [1e-30, 1e-9, 1.0, 1e6, 1e30])
def test_the_scale_of_the_encoder_does_not_matter(monkeypatch, factor):
    """Half precision alone ends at 65,504, and at 6e-8."""
    found = encode(monkeypatch, [[255, 0, 0], [102, 136, 0], [51, 51, 51]], factor)
    expected = np.array([[1, 0, 0], [0.6, 0.8, 0], [3**-0.5] * 3])
    assert found["vector"].dtype == np.float16
    np.testing.assert_allclose(found["vector"].astype(float), expected, atol=5e-4)
    np.testing.assert_allclose(found["norm"], 2 * factor * np.array([1, 2 / 3, 0.2 * 3**0.5]), rtol=1e-5)


@pytest.mark.parametrize(
    ("factor", "dtype", "line"),
    [
        (3e38, "float32", "1 of 3 vectors is not finite, such as 'c'; 1 of 3 vectors is zero, such as 'b'; {}"),
        (0.0, "float32", "3 of 3 vectors are zero, such as 'a'; {}"),
        (0.0, "bfloat16", "3 of 3 vectors are zero, such as 'a'; {} or --set embed.dtype=float32"),
    ],
)
def test_the_image_itself_is_named(monkeypatch, factor, dtype, line):
    remedy = "leave these images out, or use another encoder"
    with pytest.raises(RunError) as caught:
        encode(monkeypatch, [[127, 0, 0], [0, 0, 0], [255, 255, 255]], factor, dtype)
    assert str(caught.value) == (
        f"the encoder gave a batch of images vectors that cosine cannot compare: {line.format(remedy)}"
    )


def test_what_only_reads_and_writes_starts_without_torch():
    """Each worker that imports it takes seconds more to start, and 700 MB."""
    modules = "elfs_ray.stages.ingest, elfs_ray.stages.embed_vectors, elfs_ray.stages.parts.embed_rows"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_execution_after_the_other(ray_session, small_run, small_input, tmp_path, monkeypatch):
    """Four ranges, two at once: the second two fail, and are all that is left to do."""
    encode, executions = embed._encode, []

    def failing(*arguments):
        executions.append(arguments[-1])
        if len(executions) == 2:
            raise RunError("lost")
        return encode(*arguments)

    monkeypatch.setattr(embed_rows, "READ_ROWS", 64)
    monkeypatch.setattr(embed_rows, "RANGES_AT_ONCE", 2)
    monkeypatch.setattr(embed, "_encode", failing)
    config = load_config({"input": str(small_input[0]), "budgets": [BUDGET], "num_classes": 10, **OPTIONS})
    store = RunFolder(str(tmp_path / "run"))
    with pytest.raises(RunError, match="lost"):
        run(config, store, Reporter(), until="embed")
    # It goes on where processors compute otherwise: rows of both machines must be alike.
    other = not session.has_bfloat16()
    monkeypatch.setattr(session, "has_bfloat16", lambda: other)
    run(config, store, Reporter(), until="embed")
    ranges = [(0, 64), (64, 128), (128, 192), (192, 240)]
    assert executions == [ranges[:2], ranges[2:], ranges[2:]]
    assert Table(store, "embeddings").read().equals(Table(RunFolder(str(small_run.run_dir)), "embeddings").read())


# Without its quantisation: the header is good, and no decoder makes a picture of it.
BROKEN = jpeg("china.jpg", 320, 200).replace(b"\xff\xdb", b"\xff\xfe")
FILES = {
    "a.jpg": jpeg("china.jpg", 320, 200, 6),
    "b.jpg": BROKEN,
    "c.png": as_png("flower.jpg", 300, 200),
    "d.jpg": jpeg("flower.jpg", 200, 310, 1, "L"),
    "e.jpg": jpeg("flower.jpg", 320, 200)[:-900],
    "f.jpg": jpeg("china.jpg", 320, 200),
    "g.jpg": jpeg("flower.jpg", 320, 200, 1, "CMYK"),
}
GOOD = ["a.jpg", "c.png", "d.jpg", "f.jpg", "g.jpg"]


class TestDecodingOnTheCard:
    """By a processor here, as a run does that began with a GPU and goes on without."""

    def batch(self, store, *, on_card, files=FILES):
        """Vectors of the files, their names, and how many were decoded by the encoder; and the reasons noted."""
        how = Pixels(64, 1.0, "bicubic", 10**6, "", on_card)
        table = pa.table({"sample_id": list(files), "index": range(7), "image": list(files.values())})
        rows = decode_batch(table, how, store, "work")
        if on_card:
            rows = {
                name: column.to_numpy(zero_copy_only=False)
                for name, column in zip(rows.column_names, rows, strict=True)
            }
        options = EmbedConfig(image_size=64, batch_size=8, dtype="float32")
        note = partial(note_failed, store=store, work="work")
        made = embed._EncodeBatch(options, how, torch.get_num_threads, Advanced(), note)(rows)
        return made, {one.sample_id: one.reason for one in read_failed(store, "work")}

    def test_as_with_pillow(self, tmp_path):
        ours, noted = self.batch(RunFolder(str(tmp_path / "card")), on_card=True)
        theirs, expected = self.batch(RunFolder(str(tmp_path / "pillow")), on_card=False)
        assert noted == expected
        assert sorted(noted) == ["b.jpg", "e.jpg"]
        assert ours["sample_id"].tolist() == theirs["sample_id"].tolist() == GOOD
        assert ours["on_card"].tolist() == [True, False, True, True, False]
        assert not theirs["on_card"].any()
        similarity = (ours["vector"].astype(float) * theirs["vector"].astype(float)).sum(axis=1)
        assert similarity.min() > 0.99
        np.testing.assert_array_equal(ours["vector"][[1, 4]], theirs["vector"][[1, 4]])  # Pillow's in both

    def test_a_card_that_cannot(self, tmp_path, monkeypatch):
        """Pillow does it all, to the bit as without a card."""
        monkeypatch.setattr(embed, "can_decode", lambda device: False)
        ours, noted = self.batch(RunFolder(str(tmp_path / "card")), on_card=True)
        theirs, expected = self.batch(RunFolder(str(tmp_path / "pillow")), on_card=False)
        assert noted == expected
        np.testing.assert_array_equal(ours["vector"], theirs["vector"])
        assert not ours["on_card"].any()

    def test_a_batch_of_nothing(self, tmp_path):
        broken = dict.fromkeys("abcdefg", BROKEN)
        made, noted = self.batch(RunFolder(str(tmp_path / "card")), on_card=True, files=broken)
        assert made["vector"].shape == (0, 1280)
        assert len(noted) == 7

    def test_a_whole_run(self, ray_session, tmp_path, monkeypatch):
        """With images that are damaged while it is on; beside the same run with Pillow."""
        folder, runs = tmp_path / "images", {}
        folder.mkdir()
        options = {"budgets": [2], "num_classes": 2, "embed.image_size": 64, "embed.batch_size": 2}
        options |= {"embed.encoder": "efficientnet-lite0", "ingest.max_bad_fraction": 0.5, "neighbors.k": 2}
        config = load_config({"input": str(folder), **options})

        class Damaging(Reporter):
            def line(_, text, **about):  # noqa: N805 - of the reporter; `self` is the test
                if about.get("state") == "begun" and about["unit"] == "embed":
                    (folder / "f.jpg").write_bytes(BROKEN)

        stream, on_card = embed._stream, {"cpu": 0, "gpu": 0}

        def counting(context, options, *arguments):
            for batch in stream(context, options, *arguments):
                on_card[options.decode] += batch["on_card"].sum()
                yield batch

        monkeypatch.setattr(embed, "_stream", counting)
        for decode in ("cpu", "gpu"):
            for name in GOOD:
                (folder / name).write_bytes(FILES[name])
            chosen = partial(
                lambda decode, *a, **k: choose_embed(*a, **k).model_copy(update={"decode": decode}), decode
            )
            monkeypatch.setattr(embed, "choose_embed", chosen)
            runs[decode] = RunFolder(str(tmp_path / decode))
            manifest = run(config, runs[decode], Damaging(), until="embed")
        ours, theirs = (Table(runs[decode], "embeddings").read() for decode in ("gpu", "cpu"))
        assert ours["sample_id"].to_pylist() == theirs["sample_id"].to_pylist() == ["a.jpg", "c.png", "d.jpg", "g.jpg"]
        tables = [Table(store, "quarantine") for store in runs.values()]
        noted = [table.read(columns=["sample_id", "reason"]).to_pylist() for table in tables]
        assert noted[0] == noted[1]
        assert [row["sample_id"] for row in noted[0]] == ["f.jpg"]
        assert manifest["records"]["embed"]["chosen"]["decode"] == "gpu"
        assert on_card == {"cpu": 0, "gpu": 2}  # of five files one is PNG, one CMYK, and one became damaged
        np.testing.assert_allclose(
            *(each["vector"].combine_chunks().flatten().to_numpy() for each in (ours, theirs)), atol=0.02
        )
        monkeypatch.undo()
        refused = load_config({"input": str(folder), **options, "embed.decode": "gpu"})
        with pytest.raises(UsageError, match=r"embed\.decode=gpu needs a GPU, .*; use --set embed\.decode=auto"):
            run(refused, RunFolder(str(tmp_path / "refused")), Reporter(), until="embed")

    @pytest.mark.parametrize(("gpus", "can", "where"), [(0, True, "cpu"), (2, False, "cpu"), (2, True, "gpu")])
    def test_auto(self, gpus, can, where):
        chosen = choose_embed(EmbedConfig(), 4, gpus, 100, 224, 64.0, image_dtype="float32", card_decodes=can)
        assert chosen.decode == where

    @pytest.mark.parametrize(("cpus", "images", "batch"), [(2, 300, 64), (16, 300, 128), (16, 9999, 64), (99, 9, 256)])
    def test_each_thread_of_an_encoder_has_a_pass(self, cpus, images, batch):
        chosen = choose_embed(EmbedConfig(), cpus, 0, images, 224, 64.0, image_dtype="float32")
        assert chosen.batch_size == batch


def test_two_threads_give_what_one_gives(tmp_path):
    """As Ray calls an encoder on a GPU; each batch keeps its rows and their order."""
    how, options = Pixels(32, 1.0, "bicubic", 10**6, ""), EmbedConfig(image_size=32, batch_size=4, dtype="float32")
    counter = Advanced()
    encoder = embed._EncodeBatch(options, how, torch.get_num_threads, counter, [].append)
    rng, batches = np.random.default_rng(0), []
    for first in range(0, 48, 4):
        keys = {"sample_id": np.array([f"{first + row}" for row in range(4)]), "index": np.arange(first, first + 4)}
        pixels = rng.integers(256, size=(4, 3, 32, 32), dtype=np.uint8)
        batches.append({**keys, "pixels": pixels, "decode_seconds": np.zeros(4)})
    one = [encoder(batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        two = list(pool.map(encoder, batches))
    assert counter.rows == 96
    for ours, theirs in zip(two, one, strict=True):
        np.testing.assert_array_equal(ours["index"], theirs["index"])
        np.testing.assert_allclose(ours["vector"].astype(float), theirs["vector"].astype(float), atol=2e-3)


class TestRates:
    def test_of_one_worker(self):
        """100 images in 4 s of two workers: each did 25 a second."""
        numbers = embed._rates(100, 0, dict(zip(embed_rows.TIMED, (4.0, 0.0, 0.5, 10.0), strict=True)))
        assert numbers == {
            "decoded_on_card": 0,
            "decode_seconds": 4.0,
            "decode_images_per_second": 25.0,
            "transfer_seconds": 0.5,
            "transfer_images_per_second": 200.0,
            "encode_seconds": 10.0,
            "encode_images_per_second": 10.0,
        }

    def test_the_card_decoded_a_part(self):
        numbers = embed._rates(100, 60, dict(zip(embed_rows.TIMED, (4.0, 2.0, 0.0, 10.0), strict=True)))
        assert numbers["card_decode_images_per_second"] == 30
        assert numbers["transfer_images_per_second"] == 0
