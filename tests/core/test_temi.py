"""TEMI against the authors' own program (tests/golden/README.md) and against cases worked by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from elfs_ray.core.temi import (
    TemiHeads,
    consensus,
    head_alignment,
    temi_loss,
    uniform_prior,
    update_teacher,
    warmup_schedule,
)

GOLDEN = Path(__file__).parent.parent / "golden"
PARAMETERS = {
    "hidden_weight": "mlp.0.weight",
    "hidden_bias": "mlp.0.bias",
    "bottleneck_weight": "mlp.2.weight",
    "bottleneck_bias": "mlp.2.bias",
    "last_direction": "last_layer.weight_v",
    "last_gain": "last_layer.weight_g",
}


def stacked(golden, prefix: str, num_heads: int, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """The published per-head parameters as our stacked ones."""
    return {
        ours: torch.stack([torch.from_numpy(golden[f"{prefix}heads.{head}.{theirs}"]) for head in range(num_heads)]).to(
            dtype
        )
        for ours, theirs in PARAMETERS.items()
    }


def heads_from(golden, prefix: str, num_heads: int, dtype: torch.dtype = torch.float64) -> TemiHeads:
    state = stacked(golden, prefix, num_heads, dtype)
    _, hidden_dim, input_dim = state["hidden_weight"].shape
    bottleneck_dim, num_classes = state["bottleneck_weight"].shape[1], state["last_direction"].shape[1]
    heads = TemiHeads(num_heads, input_dim, num_classes, hidden_dim, bottleneck_dim, generator=torch.Generator())
    heads.to(dtype).load_state_dict(state)
    return heads


def assert_close(actual: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    error = (actual.detach().to(torch.float64) - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"relative error {error:.1e}"


@pytest.mark.parametrize(("kind", "dtype", "tolerance"), [("f64", torch.float64, 1e-9), ("f32", torch.float32, 1e-4)])
class TestLoss:
    def test_loss_prior_and_gradient(self, kind, dtype, tolerance):
        golden = np.load(GOLDEN / "temi_loss_a.npz")
        student = torch.from_numpy(golden["student_logits"]).to(dtype).requires_grad_()
        teacher = torch.from_numpy(golden["teacher_logits"]).to(dtype)
        loss, prior = temi_loss(student, teacher, torch.from_numpy(golden["pk_before"]).to(dtype))
        loss.mean().backward()
        assert_close(loss, golden[f"{kind}__per_head_loss"], tolerance)
        assert_close(prior, golden[f"{kind}__pk_after"], tolerance)
        assert_close(student.grad, golden[f"{kind}__grad_student"], tolerance)

    def test_second_call_carries_the_prior(self, kind, dtype, tolerance):
        golden = np.load(GOLDEN / "temi_loss_a.npz")
        student = torch.from_numpy(golden["student_logits"]).to(dtype)
        teacher = torch.from_numpy(golden["teacher_logits"]).to(dtype)
        batch = student.shape[1] // 2
        _, prior = temi_loss(student, teacher, torch.from_numpy(golden["pk_before"]).to(dtype))
        loss, prior = temi_loss(student.roll(batch, 1), teacher.roll(batch // 2, 1), prior)
        assert_close(loss, golden[f"{kind}__call2_per_head_loss"], tolerance)
        assert_close(prior, golden[f"{kind}__call2_pk_after"], tolerance)


def test_every_beta():
    golden = np.load(GOLDEN / "temi_loss_a.npz")
    student, teacher, prior = (torch.from_numpy(golden[n]) for n in ("student_logits", "teacher_logits", "pk_before"))
    for beta, expected in zip(golden["betas"], golden["betas__per_head_loss"], strict=True):
        assert_close(temi_loss(student, teacher, prior, beta=float(beta))[0], expected, 1e-9)


def test_loss_of_one_pair_by_hand():
    """Two classes, one head, one pair, all logits 0, uniform prior.

    Every probability is 1/2, the prior stays 1/2, the weight is 1/4 + 1/4 = 1/2, and each direction gives
    -log(2 * (1/4)^0.6 / (1/2)) = -log(4 * 4^-0.6) = -0.4 log 4; times the weight: -0.2 log 4.
    """
    logits = torch.zeros(1, 2, 2, dtype=torch.float64)
    loss, prior = temi_loss(logits, logits, uniform_prior(1, 2).double())
    assert loss.item() == pytest.approx(-0.2 * math.log(4))
    assert prior.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(("kind", "dtype", "tolerance"), [("f64", torch.float64, 1e-9), ("f32", torch.float32, 1e-4)])
def test_heads_forward(kind, dtype, tolerance):
    golden = np.load(GOLDEN / "temi_head_a.npz")
    logits = heads_from(golden, "sd__", 4, dtype)(torch.from_numpy(golden["x"]).to(dtype))
    assert_close(logits, golden[f"{kind}__logits_all_heads"], tolerance)


def test_heads_gradients():
    golden = np.load(GOLDEN / "temi_head_a.npz")
    heads = heads_from(golden, "sd__", 4)
    inputs = torch.from_numpy(golden["x"]).requires_grad_()
    (heads(inputs) * torch.from_numpy(golden["vjp_cotangent"])).sum().backward()
    assert_close(inputs.grad, golden["grad__x"], 1e-9)
    for name, expected in stacked(golden, "grad__", 4).items():
        assert_close(getattr(heads, name).grad, expected.numpy(), 1e-9)


def test_initial_parameters_have_the_published_statistics():
    heads = TemiHeads(8, 64, 10, 128, 32, generator=torch.Generator().manual_seed(0))
    for weight in (heads.hidden_weight, heads.bottleneck_weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert abs(weight.mean().item()) < 1e-3
    bound = 1 / math.sqrt(32)
    assert heads.last_direction.abs().max().item() <= bound
    assert heads.last_direction.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert (heads.last_gain == 1).all()
    assert (heads.hidden_bias == 0).all()


def test_sixteen_training_steps():
    golden = np.load(GOLDEN / "temi_train_a.npz")
    num_heads, epochs, steps = int(golden["cfg_H"]), int(golden["cfg_epochs"]), len(golden["batches"])
    student, teacher = heads_from(golden, "init__", num_heads), heads_from(golden, "init__", num_heads)
    optimizer = torch.optim.AdamW(student.parameter_groups(0.0), lr=0.0)
    prior = uniform_prior(num_heads, int(golden["cfg_C"])).double()
    for step, views in enumerate(golden["batches"]):
        inputs = torch.from_numpy(views).double().flatten(0, 1)
        for group in optimizer.param_groups:
            group["lr"] = float(golden["lr_schedule"][step])
        optimizer.param_groups[0]["weight_decay"] = float(golden["wd_schedule"][step])
        with torch.no_grad():
            targets = teacher(inputs)
        loss, prior = temi_loss(student(inputs), targets, prior, beta=float(golden["cfg_beta"]))
        assert_close(loss, golden["per_head_loss_per_step"][step], 1e-9)
        assert_close(prior, golden["pk_per_step"][step], 1e-9)
        optimizer.zero_grad()
        loss.mean().backward()
        if step < steps // epochs:
            for parameter in student.last_layer():
                parameter.grad = None
        optimizer.step()
        update_teacher(teacher, student, float(golden["momentum_schedule"][step]))
    for network, prefix in ((student, "student_final__"), (teacher, "teacher_final__")):
        for name, expected in stacked(golden, prefix, num_heads).items():
            assert_close(getattr(network, name), expected.numpy(), 1e-9)


def test_warmup_is_the_published_one():
    golden = np.load(GOLDEN / "temi_train_a.npz")
    assert golden["lr_schedule"][0] == 0
    assert [warmup_schedule(step, 5) for step in range(7)] == [0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup_schedule(0, 0) == 1


def test_teacher_moves_by_a_share():
    teacher, student = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.constant_(teacher.weight, 1.0)
    torch.nn.init.constant_(student.weight, 2.0)
    update_teacher(teacher, student, 0.75)
    assert teacher.weight.item() == pytest.approx(1.25)


def test_alignment_undoes_a_renumbering(rng):
    reference = rng.integers(0, 5, 400)
    renumbering = np.array([3, 0, 4, 1, 2])
    alignment = head_alignment(np.stack([reference, renumbering[reference]]), reference=0, num_classes=5)
    assert alignment[0].tolist() == [0, 1, 2, 3, 4]
    assert (alignment[1][renumbering[reference]] == reference).all()


def test_consensus_by_hand():
    """Two heads, the second with clusters 0 and 1 swapped.

    Aligned probabilities of the one sample: (0.6, 0.4) and (0.1, 0.9); their mean (0.35, 0.65) says cluster 1, and
    only the second head agrees.
    """
    probabilities = torch.tensor([[[0.6, 0.4]], [[0.9, 0.1]]])
    alignment = torch.tensor([[0, 1], [1, 0]])
    label, confidence, agreement = consensus(probabilities, alignment, [0, 1])
    assert label.tolist() == [1]
    assert confidence.item() == pytest.approx(0.65)
    assert agreement.item() == pytest.approx(0.5)


def test_all_heads_at_once_are_the_heads_one_by_one():
    """What runs on a GPU and what runs on a CPU, values and gradients."""
    heads = TemiHeads(3, 8, 4, 16, 6, generator=torch.Generator().manual_seed(0)).double()
    views = torch.randn(10, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for forward in (heads._all_at_once, heads._head_by_head):
        heads.zero_grad()
        logits = forward(views)
        logits.square().sum().backward()
        results.append([logits, *(parameter.grad.clone() for parameter in heads.parameters())])
    for together, apart in zip(*results, strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)
