"""A Ray cluster of several nodes on this machine that wants a token: it takes jobs, and nodes come and are lost.

`python ray_cluster.py` holds the cluster and obeys lines of JSON, so that the process of the tests keeps its own Ray.
"""

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import requests
from ray.job_submission import JobSubmissionClient

STORE_BYTES = 100 * 2**20
MOST_TASKS = 10_000  # that Ray's dashboard lists
# Asked more often than by default whether they live, so that a lost node is noticed sooner; workers stay, as in
# cluster.yaml.
SYSTEM = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 200,
    "idle_worker_killing_time_threshold_ms": 30_000,
}


class Cluster:
    """The cluster as the tests see it: a head without processors, for drivers, and nodes that come and go."""

    def __init__(self, process: subprocess.Popen[str], environment: dict[str, str]) -> None:
        self._process = process
        self.environment = environment
        """Of a process that talks to the cluster, and to no other Ray."""
        self.address = self._answer()
        """Where the dashboard takes jobs."""
        self.header = {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
        """By which the cluster knows who asks; this process may hold the token of another one."""

    def client(self) -> JobSubmissionClient:
        """For jobs."""
        return JobSubmissionClient(self.address, headers=self.header)

    def add(self, **resources: int) -> int:
        """Start a node; returns the process that all of its workers are children of."""
        return self._ask("add", resources)

    def lose(self, node: int) -> None:
        """Kill every process of a node at once."""
        processes = psutil.Process(node).children(recursive=True)
        self._ask("lose", node)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def tasks(self) -> list[dict[str, Any]]:
        """Every task and actor that was started, as Ray describes it."""
        asked = {"detail": "1", "limit": MOST_TASKS}
        answer = requests.get(f"{self.address}/api/v0/tasks", params=asked, headers=self.header, timeout=60)
        return answer.json()["data"]["result"]["result"]

    def _ask(self, *request: Any) -> Any:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        # Ray itself may print.
        while line := self._process.stdout.readline():
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"the cluster ended with status {self._process.wait()}")


def workers(node: int, title: str) -> list[int]:
    """Processes of a node with this title."""
    found = []
    for child in psutil.Process(node).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.cmdline()[:1] and child.cmdline()[0].startswith(title):
                found.append(child.pid)
    return found


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """The head, in a folder of its own."""
    # Unix sockets lie in the folder, and their paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    environment = {
        # Nothing of the suite's own Ray; and a job has to find the package in what was sent.
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": uuid.uuid4().hex,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    process = subprocess.Popen(
        [sys.executable, __file__],
        env={**environment, "RAY_TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Cluster(process, environment)
    finally:
        _end_with_descendants(process)
        shutil.rmtree(folder, ignore_errors=True)


def _end_with_descendants(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all that Ray started from it: Ray itself takes half a minute to end in order."""
    ray_processes = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    for one in ray_processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(ray_processes, timeout=60)


def hold() -> None:
    """Hold the cluster and obey, a line at a time, until there are no more."""
    from ray.cluster_utils import Cluster as Nodes

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster = Nodes(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": port,
            "dashboard_agent_listen_port": 0,
            "_system_config": SYSTEM,
        },
    )
    _answer(f"http://127.0.0.1:{port}")
    nodes, numbers = dict[int, Any](), itertools.count()
    for line in sys.stdin:
        name, argument = json.loads(line)
        if name == "add":
            # Each its own copy of what jobs send, as on machines of their own.
            apart = f"runtime_resources_{next(numbers)}"
            node = cluster.add_node(object_store_memory=STORE_BYTES, runtime_env_dir_name=apart, **argument)
            [raylet] = node.all_processes["raylet"]
            nodes[raylet.process.pid] = node
            _answer(raylet.process.pid)
        else:
            cluster.remove_node(nodes.pop(argument), allow_graceful=False)
            _answer(None)


def _answer(value: Any) -> None:
    sys.stdout.write(f"answer {json.dumps(value)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    hold()
