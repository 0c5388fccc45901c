"""A Ray cluster of several nodes on this machine, in a process of its own: nodes come, and are lost without a word.

`python nodes.py` holds the cluster and obeys lines of JSON, so that the process of the tests keeps its own Ray.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

STORE_BYTES = 100 * 2**20
# Asked more often than by default whether they live, so that a lost node is noticed sooner; workers stay, as in
# cluster.yaml.
SYSTEM = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 200,
    "idle_worker_killing_time_threshold_ms": 30_000,
}


class Nodes:
    """The cluster as the tests see it: a head without processors, for drivers, and nodes that come and go."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._answer()

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
        """Every task and actor that was started: its name, and the resources that it asked for."""
        return self._ask("tasks")

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


def end_with_descendants(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all that Ray started from it: Ray itself takes half a minute to end in order."""
    ray_processes = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    for one in ray_processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(ray_processes, timeout=60)


@contextlib.contextmanager
def running_nodes() -> Iterator[Nodes]:
    """The head, in a folder of its own."""
    # Unix sockets lie in the folder, and their paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    # Nothing of the suite's own Ray.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, __file__],
        env={**environment, "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Nodes(process)
    finally:
        end_with_descendants(process)
        shutil.rmtree(folder, ignore_errors=True)


def hold() -> None:
    """Hold the cluster and obey, a line at a time, until there are no more."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
            "_system_config": SYSTEM,
        },
    )
    answer(cluster.address)
    nodes: dict[int, Any] = {}
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        if name == "add":
            node = cluster.add_node(object_store_memory=STORE_BYTES, **arguments[0])
            [raylet] = node.all_processes["raylet"]
            nodes[raylet.process.pid] = node
            answer(raylet.process.pid)
        elif name == "lose":
            cluster.remove_node(nodes.pop(arguments[0]), allow_graceful=False)
            answer(None)
        else:
            answer(started_tasks(cluster.address))


def answer(value: Any) -> None:
    sys.stdout.write(f"answer {json.dumps(value)}\n")
    sys.stdout.flush()


def started_tasks(address: str) -> list[dict[str, Any]]:
    """What the state API would tell, which needs a dashboard."""
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        stub = gcs_service_pb2_grpc.TaskInfoGcsServiceStub(channel)
        events = stub.GetTaskEvents(gcs_service_pb2.GetTaskEventsRequest()).events_by_task
    return [
        {
            "name": event.task_info.func_or_class_name,
            "resources": dict(event.task_info.required_resources),
        }
        for event in events
    ]


if __name__ == "__main__":
    hold()
