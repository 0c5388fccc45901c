"""What stages plan with, and a cluster that is not there."""

import os
import pkgutil
import socket
import subprocess
import sys

import elfs_ray
from elfs_ray.config import RayConfig
from elfs_ray.workers.on_ray import session
from small import TIMEOUT_SECONDS


def test_nothing_is_touched_before_a_session_starts():
    """Neither stages nor the session import Ray, none of Ray's environment is set, and standard error stays open."""
    modules = [found.name for found in pkgutil.walk_packages(elfs_ray.__path__, "elfs_ray.")]
    wanted = [name for name in modules if ".on_ray." not in name and not name.endswith("__main__")]
    code = (
        f"import importlib, os, sys\nfor name in {[*wanted, session.__name__]}: importlib.import_module(name)\n"
        f"print('ray' in sys.modules, {set(session.ENVIRONMENT)} & os.environ.keys())\nprint('told', file=sys.stderr)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in session.ENVIRONMENT}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("False set()\n", "told\n")


def test_what_ray_has(ray_session):
    with session.ray_session(RayConfig()) as workers:
        assert workers.hardware == session.Hardware("cpu", 2, 0, session.has_bfloat16())


def test_what_an_autoscaling_cluster_may_start(ray_session):
    """Without workers such a cluster has no GPU, and would be planned for as one that will never have any."""
    with session.ray_session(RayConfig(num_cpus=32, num_gpus=4)) as workers:
        assert workers.hardware == session.Hardware("cuda", 32, 4, session.has_bfloat16())


def test_threads_of_a_worker_are_those_of_its_machine(ray_session):
    """Of a cluster of 128 processors one worker would take 128 on a machine that has two."""
    assert session.worker_threads(128, 1) == 2
    assert session.worker_threads(128, 128) == 1
    assert session.worker_threads(128, 2, on_this_machine=2) == 1
    assert session.worker_threads(1, 4) == 1


def test_no_cluster_at_an_address(small_input, tmp_path):
    """Ray itself would try for minutes; the variable counts as the option does."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    command = ["run", f"--input={small_input[0]}", "--budget=3", "--num-classes=2", f"--out={tmp_path / 'run'}"]
    ended = subprocess.run(
        [sys.executable, "-m", "elfs_ray.cli", *command],
        env={**os.environ, "RAY_ADDRESS": address}, capture_output=True, text=True, check=False,
        timeout=TIMEOUT_SECONDS,
    )  # fmt: skip
    assert ended.stderr == (
        f"elfs-ray: no Ray cluster answers at '{address}' (Connection refused); start one or leave out ray.address\n"
    )
    assert ended.returncode == 2
