"""What a worker sets before it computes."""

import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from elfs_ray.workers.threads import use_torch_threads


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no such setting")
def test_freed_memory_is_used_again():
    """In a process of its own: how it takes memory depends on all that it took before."""
    code = (
        "import resource\n"
        "from elfs_ray.workers.machine import keep_freed_memory\n"
        "if {keep}: keep_freed_memory()\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    [bytes([1]) * 8_000_000 for _ in range(8)]\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print([faults() for _ in range(4)][-1])\n"
    )
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", code.format(keep=keep)], check=True, capture_output=True).stdout)
        for keep in (False, True)
    )
    assert given_back > 1000
    assert kept < given_back / 10
