"""Workers that share batches, as processes that talk over gloo: together they do what one does with the whole batch."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from elfs_ray.core import data_parallel
from elfs_ray.core.augmentation import Draws, prepare_images
from elfs_ray.core.classifier import sgd, train_step
from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.networks import build_network
from forked import FORKS
from small import TIMEOUT_SECONDS

pytestmark = pytest.mark.slow
SAMPLES, CLASSES, SIDE = 30, 4, 32
# The second has a share for one worker alone.
BATCHES = [list(range(13)), [15, 18], [21, 14, 29, 20, 17, 25, 13]]


def train():
    """Steps on the batches, as the proxy takes them; returns the network's state and the dynamics."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (SAMPLES, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    network = build_network("resnet-small", pixels, CLASSES, 0, generator=generator)
    parallel = network
    if dist.is_initialized():
        data_parallel._share_batch_norm(network)
        parallel = DistributedDataParallel(network)
    # Without momentum and with small steps: what differs is then a gradient, not its echo.
    optimizer, dynamics = sgd(network, 0.01, 0.0, 5e-4), DynamicsAccumulator(SAMPLES)
    batches = [torch.tensor(batch) for batch in BATCHES]
    for batch, rows in zip(batches, data_parallel.owned_of_batches(batches), strict=True):
        inputs = prepare_images(pixels[rows], Draws(1, 0, rows))
        weight = data_parallel.share_weight(len(rows), len(batch))
        logits = train_step(parallel, optimizer, inputs, labels[rows], 0.01, weight=weight)
        dynamics.update(rows, logits, labels[rows], 0)
    return network.state_dict(), data_parallel.summed_on_first(dynamics.state_dict())


def worker(rank, folder, workers):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/rendezvous", workers)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=workers)
    state, dynamics = train()
    mean = data_parallel.average_over_workers(torch.tensor([float(rank)]), weight=rank)
    torch.save({"state": state, "dynamics": dynamics, "mean": mean}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def results(request, tmp_path_factory):
    """What each of the workers has in the end."""
    folder = tmp_path_factory.mktemp("workers")
    workers = [FORKS.Process(target=worker, args=(rank, str(folder), request.param)) for rank in range(request.param)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(TIMEOUT_SECONDS)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


def test_networks_are_those_of_one_worker(results):
    """Weights, and what batch norm remembers; the same in all workers."""
    expected, _ = train()
    for result in results:
        assert result["state"].keys() == expected.keys()
        for name, values in expected.items():
            torch.testing.assert_close(result["state"][name], values, rtol=1e-4, atol=1e-5, msg=name)


def test_dynamics_on_the_first_worker_are_those_of_one(results):
    _, expected = train()
    for name, values in expected.items():
        torch.testing.assert_close(results[0]["dynamics"][name], values, rtol=1e-4, atol=1e-4, msg=name)


def test_a_mean_over_workers_is_weighted(results):
    expected = sum(rank**2 for rank in range(len(results))) / len(results)
    assert [result["mean"].item() for result in results] == pytest.approx([expected] * len(results))


def test_one_worker_has_all():
    batches = [torch.tensor(batch) for batch in BATCHES]
    assert all(torch.equal(*pair) for pair in zip(batches, data_parallel.owned_of_batches(batches), strict=True))
    assert data_parallel.worker_share(7) == slice(0, 7, 1)
    assert data_parallel.share_weight(7, 7) == 1
