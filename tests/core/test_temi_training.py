"""The training of TEMI's heads: compiled or not, in one share or several, the same steps."""

import pytest
import torch

from elfs_ray.core.temi_training import TemiOptions, TemiTraining

OPTIONS = TemiOptions(heads=3, num_classes=5, hidden_dim=16, bottleneck_dim=8)
DIM, PAIRS = 12, 8
CPU = torch.device("cpu")


def batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2 * pairs, DIM, generator=generator) for pairs in (PAIRS, PAIRS, PAIRS + 3)]


def trained(**options):
    training = TemiTraining(OPTIONS, DIM, 0, CPU, **options)
    for number, views in enumerate(batches()):
        training.step(views, 1e-3, last_layer_frozen=number == 0)
    return training


def assert_same(one, other):
    for first, second in zip(one.teacher.parameters(), other.teacher.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(one.losses, other.losses, rtol=1e-5, atol=1e-6)


@pytest.fixture
def forgotten():
    """Nothing compiled is left for, or by, other tests."""
    yield
    torch._dynamo.reset()
    torch._dynamo.config.suppress_errors = False


@pytest.mark.slow
@pytest.mark.usefixtures("forgotten")
def test_compiled_steps_are_the_same():
    assert_same(trained(), trained(compiled=True))


@pytest.mark.slow
@pytest.mark.usefixtures("forgotten")
def test_without_a_compiler_the_steps_are_taken_as_they_are(monkeypatch):
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    assert_same(trained(), trained(compiled=True))


def test_an_empty_share_changes_nothing_but_the_prior():
    training = TemiTraining(OPTIONS, DIM, 0, CPU)
    before = [weight.clone() for weight in training.student.parameters()]
    prior = torch.full((3, 5), 0.2)
    training.step(torch.empty(0, DIM), 0.0, weight=0.0, average=lambda mean: mean + prior)
    assert all(torch.equal(*pair) for pair in zip(before, training.student.parameters(), strict=True))
    torch.testing.assert_close(training.prior, prior)
    assert training.losses.tolist() == [0, 0, 0]


def test_shares_weighted_by_their_pairs_give_the_gradient_of_the_batch():
    [views, *_] = batches()
    whole = TemiTraining(OPTIONS, DIM, 0, CPU)
    whole.step(views, 0.0)
    total, mean = 0, {}
    pairs = [(0, 3), (3, 8)]
    # What all workers agree on: the mean of the teacher's probabilities over the batch.
    whole_mean = (whole.prior - 0.9 * 0.2) / 0.1
    for start, stop in pairs:
        share = TemiTraining(OPTIONS, DIM, 0, CPU)
        mine = torch.cat([views[start:stop], views[PAIRS + start : PAIRS + stop]])
        share.step(mine, 0.0, weight=(stop - start) * len(pairs) / PAIRS, average=lambda _: whole_mean)
        for name, weight in share.student.named_parameters():
            mean[name] = mean.get(name, 0) + weight.grad / len(pairs)
        total = total + share.losses / len(pairs)
    for name, weight in whole.student.named_parameters():
        torch.testing.assert_close(mean[name], weight.grad, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(total, whole.losses, rtol=1e-5, atol=1e-6)
