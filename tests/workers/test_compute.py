"""What a worker sets before it computes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from elfs_ray.workers.compute import use_torch_threads


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_thread_keeps_its_number_when_others_set_theirs(count):
    """Also one that has given torch nothing to do yet, which torch would give the number that was set last."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(1) as worker, ThreadPoolExecutor(1) as other:
            worker.submit(use_torch_threads, count).result()
            other.submit(torch.set_num_threads, count + 1).result()
            assert worker.submit(torch.get_num_threads).result() == count
    finally:
        torch.set_num_threads(before)
