"""Encoding when memory runs short, and on the smallest machine."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from elfs_ray.config import load_config
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
