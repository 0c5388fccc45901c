"""What stages plan with."""

from elfs_ray.config import RayConfig
from elfs_ray.engine import session


def test_what_ray_has(ray_session):
    with session.ray_session(RayConfig()) as hardware:
        assert hardware == session.Hardware("cpu", 2, 0, session.has_bfloat16())


def test_what_an_autoscaling_cluster_may_start(ray_session):
    """Without workers such a cluster has no GPU, and would be planned for as one that will never have any."""
    with session.ray_session(RayConfig(num_cpus=32, num_gpus=4)) as hardware:
        assert hardware == session.Hardware("cuda", 32, 4, session.has_bfloat16())
