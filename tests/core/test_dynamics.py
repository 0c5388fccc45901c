"""Training dynamics against the authors' own programs (tests/golden/README.md), and the properties of accumulation."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elfs_ray.core.dynamics import DynamicsAccumulator, Windows
from elfs_ray.core.scores import hardness
from elfs_ray.errors import UsageError

GOLDEN = Path(__file__).parent.parent / "golden"
BATCH = 256


def accumulate(logits, labels, orders, parts=1, **options):
    """Feed `logits` [T, N, C] epoch by epoch in the given orders, the samples split over `parts` accumulators."""
    accumulators = [DynamicsAccumulator(logits.shape[1], **options) for _ in range(parts)]
    for epoch, order in enumerate(orders):
        for start in range(0, len(order), BATCH):
            batch = torch.from_numpy(order[start : start + BATCH].astype(np.int64))
            for number, accumulator in enumerate(accumulators):
                mine = batch[batch % parts == number]
                if len(mine):
                    accumulator.update(mine, torch.from_numpy(logits[epoch])[mine], labels[mine], epoch)
    states = [accumulator.state_dict() for accumulator in accumulators]
    whole = DynamicsAccumulator(logits.shape[1], **options)
    whole.load_state_dict({name: torch.stack([state[name] for state in states]).sum(dim=0) for name in states[0]})
    return whole.finalize()


@pytest.fixture(scope="module")
def golden_dynamics():
    return np.load(GOLDEN / "dynamics_a.npz")


@pytest.fixture(scope="module")
def golden_dual():
    return np.load(GOLDEN / "dual_a.npz")


@pytest.fixture(scope="module")
def found(golden_dynamics):
    labels = torch.from_numpy(golden_dynamics["labels"])
    return accumulate(golden_dynamics["logits"], labels, golden_dynamics["order"])


@pytest.fixture(scope="module")
def found_dual(golden_dual):
    return accumulate(golden_dual["logits_by_sample"], torch.from_numpy(golden_dual["labels"]), golden_dual["order"])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("aum", "elfs_fp32__accumulated_margin"),
        ("aum", "ccs_fp32__accumulated_margin"),
        ("aum_logit", "aumpkg_fp32__aum"),
        ("el2n", "elfs_fp32__el2n"),
    ],
)
def test_sums_equal_the_published(golden_dynamics, found, ours, theirs):
    np.testing.assert_allclose(found[ours], golden_dynamics[theirs], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ours", "theirs"), [("forgetting", "forgetting"), ("last_correct", "last_correctness")])
def test_counts_equal_the_published(golden_dynamics, found, ours, theirs):
    np.testing.assert_array_equal(found[ours], golden_dynamics[f"elfs_fp32__{theirs}"])


def test_correctness_counts_right_epochs(golden_dynamics, found):
    right = golden_dynamics["logits"].argmax(axis=2) == golden_dynamics["labels"]
    np.testing.assert_array_equal(found["correctness"], right.sum(axis=0))
    np.testing.assert_array_equal(found["never_learned"], ~right.any(axis=0))


def test_dual_and_dyn_unc_equal_the_published_up_to_their_factor_of_ten(golden_dual, found_dual):
    np.testing.assert_allclose(10 * found_dual["dual"], golden_dual["cifar_dual_T30_score"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(10 * found_dual["dyn_unc"], golden_dual["cifar_dynunc_score"], rtol=1e-5, atol=1e-5)


def test_entropy_equals_the_published(golden_dual, found_dual):
    np.testing.assert_allclose(found_dual["entropy"], golden_dual["cifar_entropy_score"], rtol=1e-5, atol=1e-5)


def test_aum_accumulates_where_a_published_copy_keeps_the_last_epoch_only(golden_dual, found_dual):
    probabilities = torch.from_numpy(golden_dual["logits_by_sample"]).softmax(dim=2).numpy()
    labels = golden_dual["labels"]
    rows = np.arange(len(labels))
    target = probabilities[:, rows, labels]
    others = probabilities.copy()
    others[:, rows, labels] = -1
    margins = target - others.max(axis=2)
    np.testing.assert_allclose(found_dual["aum"], margins.sum(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(golden_dual["cifar_aum_score"], margins[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("epochs", "width"), [(30, 10), (20, 10), (10, 5)])
def test_tdds_slides_its_window_and_equals_the_published(golden_dual, epochs, width):
    logits, labels = golden_dual["logits_by_sample"][:epochs], torch.from_numpy(golden_dual["labels"])
    orders = golden_dual["order"][:epochs]
    found = accumulate(logits, labels, orders, windows=Windows(width=width), tdds_classes=10)["tdds"]
    prefix = f"tddsrepo_T{epochs}_J{width}"
    np.testing.assert_allclose(found, golden_dual[f"{prefix}_score"], rtol=1e-5, atol=1e-5)
    assert np.argsort(found, kind="stable").tolist() == golden_dual[f"{prefix}_mask"].tolist()


def test_tdds_is_not_held_unless_asked_for(found):
    assert "tdds" not in found
    with pytest.raises(UsageError, match=r"score 'tdds' is not among those recorded: .*aum.*; record it too"):
        hardness(found, "tdds")


@settings(max_examples=10)
@given(st.integers(1, 5), st.integers(0, 2**16))
def test_any_split_and_any_order_give_the_same_dynamics(parts, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(12, 40, 3)).astype(np.float32)
    labels = torch.from_numpy(rng.integers(3, size=40))
    straight = accumulate(logits, labels, [np.arange(40)] * 12, tdds_classes=3)
    shuffled = accumulate(logits, labels, [rng.permutation(40) for _ in range(12)], parts, tdds_classes=3)
    for name, values in straight.items():
        np.testing.assert_array_equal(values, shuffled[name], err_msg=name)


def test_resumes_from_a_checkpoint(golden_dynamics, found):
    logits, labels = torch.from_numpy(golden_dynamics["logits"]), torch.from_numpy(golden_dynamics["labels"])
    everyone = torch.arange(len(labels))
    before = DynamicsAccumulator(len(labels))
    for epoch in range(13):
        before.update(everyone, logits[epoch], labels, epoch)
    after = DynamicsAccumulator(len(labels))
    after.load_state_dict({name: values.clone() for name, values in before.state_dict().items()})
    for epoch in range(13, len(logits)):
        after.update(everyone, logits[epoch], labels, epoch)
    for name, values in after.finalize().items():
        np.testing.assert_array_equal(values, found[name], err_msg=name)


class TestHardness:
    DYNAMICS: ClassVar = {
        "aum": np.array([1.0, -2.0, 0.5]),
        "forgetting": np.array([2, 0, 0]),
        "never_learned": np.array([False, True, False]),
        "el2n": np.array([0.1, 0.9, 0.5]),
    }

    def test_small_margins_are_hard(self):
        assert hardness(self.DYNAMICS, "aum").tolist() == [-1.0, 2.0, -0.5]

    def test_never_learned_is_harder_than_any_forgotten(self):
        assert hardness(self.DYNAMICS, "forgetting").tolist() == [2, 3, 0]

    def test_error_norm_is_hardness(self):
        assert hardness(self.DYNAMICS, "el2n").tolist() == [0.1, 0.9, 0.5]

    def test_unknown_score_is_an_error(self):
        with pytest.raises(UsageError, match="score 'amu' is unknown; choose one of aum, aum_logit"):
            hardness(self.DYNAMICS, "amu")
