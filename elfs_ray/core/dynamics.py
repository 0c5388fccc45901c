"""Training dynamics of a proxy classifier, accumulated as it trains: O(N) memory, whatever the number of epochs.

An accumulator is fed every batch of logits with the positions of its samples. Sums are updated in place, so that no
array of samples, classes and epochs is ever held. Symbols: N samples, b rows in a batch, C classes, T epochs,
p softmax probabilities, y the label in use, m = p_y - max of the other p (the margin).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

# Of the published program: weight of the youngest window, and what keeps logarithms finite.
TDDS_DECAY, TDDS_EPSILON = 0.9, 1e-8
# What a batch adds to, in the order of `update`.
_ADDED = ("aum", "aum_logit", "el2n", "target", "target_squared", "dual", "dyn_unc")
_COUNTS = ("forgetting", "correctness", "epochs_seen", "windows", "dual_windows")


@dataclass(frozen=True)
class Windows:
    """Epochs that the windowed scores look at.

    Attributes:
        el2n_epochs: EL2N sums over the first epochs (Paul et al., 2021; 10 as in the ELFS code).
        width: epochs in a window of DUAL, Dyn-Unc and TDDS.
        dual_epochs: DUAL looks at the first epochs only (Cho et al., 2025).
    """

    el2n_epochs: int = 10
    width: int = 10
    dual_epochs: int = 30


class DynamicsAccumulator:
    """Running sums for all scores of N samples, in double precision, on one device.

    Nothing is copied from that device before `finalize`, and no step waits for it. A sample that was never fed has
    zeros everywhere: the states of accumulators that were fed different samples add up to the state of all.
    TDDS alone needs the probabilities of the epoch before, N x C floats: it is recorded where `tdds_classes` says C.
    """

    def __init__(
        self,
        num_samples: int,
        windows: Windows = Windows(),
        *,
        tdds_classes: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.windows = windows
        zeros = partial(torch.zeros, device=device)
        # Side by side, so that a batch is added in one go.
        self._added = zeros(num_samples, len(_ADDED), dtype=torch.float64)
        self._counts = zeros(num_samples, len(_COUNTS), dtype=torch.int32)
        self._entropy = zeros(num_samples, dtype=torch.float64)
        self._was_correct = zeros(num_samples, dtype=torch.bool)
        # The target probability of the last epochs, column epoch modulo width.
        self._recent = zeros(num_samples, windows.width, dtype=torch.float32)
        self._with_tdds = tdds_classes > 0
        self._tdds = zeros(num_samples, dtype=torch.float64)
        self._previous = zeros(num_samples if self._with_tdds else 0, tdds_classes, dtype=torch.float32)
        self._changes = zeros(len(self._previous), windows.width - 1, dtype=torch.float32)

    def update(
        self, positions: Int64[Tensor, " b"], logits: Float[Tensor, "b C"], labels: Int64[Tensor, " b"], epoch: int
    ) -> None:
        """Take in one batch; each sample comes once in an epoch, and epochs come in order.

        Args:
            positions: of the samples, int64 [b], on the accumulator's device, as are all others.
            logits: float [b, C], before the optimizer step.
            labels: labels in use, int64 [b].
            epoch: counted from 0.
        """
        logits, column = logits.detach().float(), labels[:, None]
        log_probabilities = logits.log_softmax(dim=1)
        probabilities = log_probabilities.exp()
        target = probabilities.gather(1, column).squeeze(1)
        other_logit, other = logits.scatter(1, column, -torch.inf).max(dim=1)
        correct = logits.argmax(dim=1) == labels
        deviation, off_target = self._windows(positions, target, epoch)
        added = (
            target - probabilities.gather(1, other[:, None]).squeeze(1),
            logits.gather(1, column).squeeze(1) - other_logit,
            self._error_norm(probabilities, column, epoch),
            target,
            target.double().square(),
            off_target,
            deviation,
        )
        forgotten = self._was_correct[positions] & ~correct
        windows = epoch + 1 >= self.windows.width, self.windows.width <= epoch + 1 <= self.windows.dual_epochs
        once = [torch.full_like(labels, int(counted)) for counted in (True, *windows)]
        self._added.index_add_(0, positions, torch.stack([values.double() for values in added], dim=1))
        self._counts.index_add_(0, positions, torch.stack([forgotten, correct, *once], dim=1).int())
        self._entropy[positions] = -(probabilities * log_probabilities).sum(dim=1).double()
        self._was_correct[positions] = correct
        if self._with_tdds:
            self._update_tdds(positions, probabilities, epoch)

    def _error_norm(
        self, probabilities: Float[Tensor, "b C"], column: Int64[Tensor, "b 1"], epoch: int
    ) -> Float[Tensor, " b"]:
        """Distance of the probabilities from the label's corner, [b]; 0 after the epochs that count."""
        if epoch >= self.windows.el2n_epochs:
            return probabilities.new_zeros(len(probabilities))
        off_corner = torch.full_like(column, -1, dtype=probabilities.dtype)
        return probabilities.scatter_add(1, column, off_corner).norm(dim=1)

    def _windows(
        self, positions: Int64[Tensor, " b"], target: Float[Tensor, " b"], epoch: int
    ) -> tuple[Float64[Tensor, " b"], Float64[Tensor, " b"]]:
        """Deviation of p_y in the window that ends now, and DUAL's share of it; 0 where no window counts."""
        self._recent[positions, epoch % self.windows.width] = target
        nothing = torch.zeros_like(target, dtype=torch.float64)
        if epoch + 1 < self.windows.width:
            return nothing, nothing
        window = self._recent[positions].double()
        deviation = window.std(dim=1, correction=1)
        return deviation, deviation * (1 - window.mean(dim=1)) if epoch < self.windows.dual_epochs else nothing

    def _update_tdds(self, positions: Int64[Tensor, " b"], probabilities: Float[Tensor, "b C"], epoch: int) -> None:
        """Change of the probabilities since the epoch before, its deviation in the window, and their running sum."""
        if epoch > 0:
            before = self._previous[positions]
            ratio = (probabilities + TDDS_EPSILON).log() - (before + TDDS_EPSILON).log()
            self._changes[positions, (epoch - 1) % self._changes.shape[1]] = (probabilities * ratio).abs().sum(dim=1)
        self._previous[positions] = probabilities
        if epoch + 1 < self.windows.width:
            return
        window = self._changes[positions].double()
        deviation = (window - window.mean(dim=1, keepdim=True)).norm(dim=1)
        # The sum of 0.9 (0.1)^age over the windows, each time one younger.
        self._tdds[positions] = (1 - TDDS_DECAY) * self._tdds[positions] + TDDS_DECAY * deviation

    def keep(self, samples: Bool[Tensor, " N"]) -> None:
        """Forget all other samples than these, bool [N]: another accumulator goes on with them."""
        for values in self.state_dict().values():
            values[~samples] = 0

    def state_dict(self) -> dict[str, Tensor]:
        """The whole state, for a checkpoint; the tensors are not copied."""
        tensors = {
            "added": self._added,
            "counts": self._counts,
            "entropy": self._entropy,
            "was_correct": self._was_correct,
            "recent": self._recent,
        }
        tdds = {"tdds": self._tdds, "previous": self._previous, "changes": self._changes}
        return {**tensors, **tdds} if self._with_tdds else tensors

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        for name, values in self.state_dict().items():
            values.copy_(state[name])

    def finalize(self) -> dict[str, Shaped[np.ndarray, " N"]]:
        """Every score, one entry for each sample, [N].

        Keys: `aum` (sum of the margin of probabilities over epochs: ELFS, CCS), `aum_logit` (mean of the margin of
        logits: Pleiss et al., 2020), `forgetting` (correct -> wrong steps: Toneva et al., 2019) with `never_learned`,
        `correctness` (epochs in which the sample was right), `last_correct`, `el2n`, `entropy` (last epoch: Coleman et
        al., 2020), mean and deviation of p_y, `dual` (mean over windows of std (1 - mean) of p_y), `dyn_unc` (mean
        over windows of std: He et al., 2024), `epochs_seen`, and, where recorded, `tdds` (Zhang et al., 2024). Floats
        are float32.
        """
        sums = dict(zip(_ADDED, self._added.cpu().unbind(1), strict=True))
        counts = dict(zip(_COUNTS, self._counts.cpu().unbind(1), strict=True))
        seen = counts["epochs_seen"].clamp_min(1)
        mean = sums["target"] / seen
        variance = (sums["target_squared"] - seen * mean.square()).clamp_min(0) / (seen - 1).clamp_min(1)
        floats = {
            "aum": sums["aum"],
            "aum_logit": sums["aum_logit"] / seen,
            "el2n": sums["el2n"],
            "entropy": self._entropy.cpu(),
            "target_probability_mean": mean,
            "target_probability_std": variance.sqrt(),
            "dual": sums["dual"] / counts["dual_windows"].clamp_min(1),
            "dyn_unc": sums["dyn_unc"] / counts["windows"].clamp_min(1),
        }
        if self._with_tdds:
            floats["tdds"] = self._tdds.cpu()
        return {
            **{name: values.float().numpy() for name, values in floats.items()},
            **{name: counts[name].contiguous().numpy() for name in ("forgetting", "correctness", "epochs_seen")},
            "never_learned": (counts["correctness"] == 0).numpy(),
            "last_correct": self._was_correct.cpu().numpy().copy(),
        }
