"""Encoding when memory runs short, and on the smallest machine."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from elfs_ray.config import EmbedConfig, load_config
from elfs_ray.console import Reporter
from elfs_ray.encoders import Encoder, Preprocessing
from elfs_ray.engine import embed, embed_rows, session
from elfs_ray.engine.artifacts import read_vectors
from elfs_ray.engine.embed import AdaptiveForward
from elfs_ray.errors import RunError
from elfs_ray.pipeline import run
from elfs_ray.store import Store
from small import BUDGET, OPTIONS, TIMEOUT_SECONDS, command_line


class Greedy(nn.Module):
    """Means of the channels; more rows than fit raise what torch raises."""

    def __init__(self, fits):
        super().__init__()
        self.fits, self.sizes = fits, []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.mean(dim=(2, 3))


def forward(fits):
    module = Greedy(fits)
    encoder = Encoder("greedy", module, Preprocessing(4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), 3, "none")
    return module, AdaptiveForward(encoder, torch.device("cpu"), torch.float32, 16)


def test_batches_get_smaller_and_stay_small():
    pixels = torch.randint(256, (16, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    _, plain = forward(16)
    module, adaptive = forward(5)
    assert torch.allclose(adaptive(pixels), plain(pixels))
    assert module.sizes == [16, 8, 4, 4, 4, 4]
    adaptive(pixels)
    assert module.sizes[6:] == [4, 4, 4, 4]


def test_one_image_that_does_not_fit_says_what_to_do():
    _, adaptive = forward(0)
    with pytest.raises(RunError, match=r"no memory for one image of 4 pixels a side; use --set embed\.image_size"):
        adaptive(torch.zeros(16, 3, 4, 4, dtype=torch.uint8))


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
    how = Preprocessing(4, (0.0, 0.0, 0.0), (0.5, 0.5, 0.5))  # pixels from 0 to 2
    monkeypatch.setattr(embed, "load_encoder", lambda *_, **__: Encoder("s", Scaled(factor), how, 3, "none"))
    options = EmbedConfig(image_size=4, batch_size=4, dtype=dtype, compile=False)
    images = np.array(pixels, np.uint8)[:, :, None, None] * np.ones((4, 4), np.uint8)
    names = np.array([chr(ord("a") + row) for row in range(len(pixels))], dtype=object)
    batch = {"sample_id": names, "index": np.arange(len(pixels)), "pixels": images, "decode_seconds": np.zeros(3)}
    return embed._EncodeBatch(options, torch.get_num_threads(), Advanced())(batch)


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


@pytest.mark.slow
def test_one_processor_is_enough(undisturbed, small_input, tmp_path):
    """Reading, decoding and encoding wait for each other on it, but not for ever."""
    command = [*command_line(*small_input, tmp_path / "run"), "--until=embed", "--set=ray.num_cpus=1"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "elfs_ray.cli", *command]
    subprocess.run(command, env=environment, timeout=TIMEOUT_SECONDS, check=True)
    ours, theirs = (read_vectors(Store(str(run))) for run in (tmp_path / "run", undisturbed))
    # One thread adds in another order than two.
    np.testing.assert_allclose(ours, theirs, rtol=0.01, atol=0.01)


def test_one_execution_after_the_other(ray_session, small_run, small_input, tmp_path, monkeypatch):
    """Four parts, two at once: the second two fail, and are all that is left to do."""
    encode, executions = embed._encode, []

    def failing(*arguments):
        executions.append(arguments[-1].paths)
        if len(executions) == 2:
            raise RunError("lost")
        return encode(*arguments)

    monkeypatch.setattr(embed_rows, "PARTS_AT_ONCE", 2)
    monkeypatch.setattr(embed, "_encode", failing)
    config = load_config({"input": str(small_input[0]), "budgets": [BUDGET], "num_classes": 10, **OPTIONS})
    store = Store(str(tmp_path / "run"))
    with pytest.raises(RunError, match="lost"):
        run(config, store, Reporter(), until="embed")
    # It goes on where processors compute otherwise: rows of both machines must be alike.
    other = not session.has_bfloat16()
    monkeypatch.setattr(session, "has_bfloat16", lambda: other)
    run(config, store, Reporter(), until="embed")
    parts = store.part_paths("samples")
    assert executions == [parts[:2], parts[2:], parts[2:]]
    assert store.read_table("embeddings").equals(Store(str(small_run.run_dir)).read_table("embeddings"))
