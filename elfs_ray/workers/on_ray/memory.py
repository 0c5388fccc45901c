"""The memory that actors may ask for."""

import psutil
import ray

from elfs_ray.workers.hardware import Hardware, Memory


def cluster_memory(hardware: Hardware) -> Memory:
    """What the connected cluster has; on one machine not more than is free there now."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = sorted((int(node["Resources"].get("memory", 0)) for node in alive), reverse=True)
    if len(alive) == 1 and alive[0]["NodeID"] == ray.get_runtime_context().get_node_id():
        nodes = [min(nodes[0], psutil.virtual_memory().available)]
    there = ray.cluster_resources()
    may_grow = hardware.cpus > there.get("CPU", 0) or hardware.gpus > there.get("GPU", 0)
    return Memory(tuple(nodes), may_grow)
