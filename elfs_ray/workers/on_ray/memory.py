"""Whether actors find the memory that they will need, asked before any of them starts."""

from typing import NamedTuple

import psutil
import ray

from elfs_ray.workers.hardware import Hardware


class Memory(NamedTuple):
    """Main memory to plan with, in bytes.

    Attributes:
        nodes: what Ray gives out on each node that is there, largest first.
        may_grow: the configuration counts on machines that an autoscaler has yet to start.
    """

    nodes: tuple[int, ...]
    may_grow: bool

    @property
    def total(self) -> int:
        """Of all nodes."""
        return sum(self.nodes)

    def holds(self, actors: int, bytes_each: int) -> bool:
        """Whether so many actors of this size find room, none of them split between nodes."""
        return self.may_grow or sum(node // max(1, bytes_each) for node in self.nodes) >= actors


def cluster_memory(hardware: Hardware) -> Memory:
    """What the connected cluster has; on one machine not more than is free there now."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = sorted((int(node["Resources"].get("memory", 0)) for node in alive), reverse=True)
    if len(alive) == 1 and alive[0]["NodeID"] == ray.get_runtime_context().get_node_id():
        nodes = [min(nodes[0], psutil.virtual_memory().available)]
    there = ray.cluster_resources()
    may_grow = hardware.cpus > there.get("CPU", 0) or hardware.gpus > there.get("GPU", 0)
    return Memory(tuple(nodes), may_grow)
