"""The real pipeline on a GPU, or planned for one, and on processors alone; in processes of their own, to be killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

TRY = os.environ.get("ELFS_RAY_GPU_TESTS") == "cpu"
"""Whether to run without a GPU: Ray is told of one, so that all is planned for it, and processors do its work."""
DEVICE = "cpu" if TRY else "cuda"
AVAILABLE = TRY or torch.cuda.is_available()
BUDGET, NUM_CLASSES, K = 48, 4, 10
MODEL = "resnet-small" if TRY else "resnet18"
TIMEOUT_SECONDS = 1200 if TRY else 300  # against hanging alone; processors may be few
# Nothing is left to `auto` that would differ between a GPU and processors, but for the arithmetic.
OPTIONS = {
    "embed.image_size": 96,
    "embed.batch_size": 64,
    "embed.checkpoint_rows": 128,
    "neighbors.k": K,
    "neighbors.search": "torch",
    "neighbors.query_rows": 128,
    "pseudo_labels.pca_dim": 0,
    "pseudo_labels.heads": 8,
    "pseudo_labels.hidden_dim": 256,
    "pseudo_labels.bottleneck_dim": 128,
    "pseudo_labels.batch_size": 64,
    "pseudo_labels.learning_rate": 0.001,
    "pseudo_labels.teacher_momentum": 0.98,
    "pseudo_labels.epochs": 32,
    "pseudo_labels.checkpoint_epochs": 4,
    "pseudo_labels.workers": 1,
    "proxy.model": MODEL,
    "proxy.image_size": 32,
    "proxy.batch_size": 64,
    "proxy.epochs": 12,
    "proxy.checkpoint_epochs": 1,
    "proxy.workers": 1,
    "beta_search.betas": [0.0, 0.2],
    "beta_search.seeds": 1,
    "beta_search.steps": 30,
    "evaluate.models": ["mlp", MODEL],
    "evaluate.seeds": 2,
    "evaluate.steps": 40,
    "report.thumbnails": 24,
    "report.map": "pca",
}
# A processor without instructions for half precision takes ten times as long with it.
_FLOAT32 = {f"{section}.dtype": "float32" for section in ("embed", "pseudo_labels", "proxy", "beta_search", "evaluate")}
ON_GPU = {"ray.num_gpus": 1, **(_FLOAT32 if TRY else {})}
ON_PROCESSORS = {"ray.num_gpus": 0, **_FLOAT32}


def start(
    images: Path, labels: Path, run_dir: Path, *more: str, on_processors: bool = False
) -> subprocess.Popen[bytes]:
    """The command line in a process of its own; `on_processors` hides the GPU from it and from Ray."""
    device_options = ON_PROCESSORS if on_processors else ON_GPU
    cpus = {"ray.mode": "always", "ray.num_cpus": max(2, min(8, os.cpu_count() or 1))}
    sets = [f"--set={name}={json.dumps(value)}" for name, value in {**OPTIONS, **cpus, **device_options}.items()]
    required = ["--input", str(images), "--budget", str(BUDGET), "--num-classes", str(NUM_CLASSES)]
    command = [sys.executable, "-m", "elfs_ray.cli", "run", *required, "--labels", str(labels), "--debug"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    if on_processors:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.Popen(
        [*command, "--out", str(run_dir), *sets, *more],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end, which must be a good one."""
    try:
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, errors.decode()


def kill(process: subprocess.Popen[bytes]) -> None:
    """End it without notice; what Ray started holds the pipe for a while."""
    process.kill()
    process.wait()
    process.stderr.close()
