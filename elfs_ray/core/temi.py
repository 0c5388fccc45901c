"""TEMI deep clustering of embeddings (Adaloglou et al., BMVC 2023), all heads in one set of batched matrices.

Symbols: H heads, B pairs in a batch, N samples, d input width, C classes (clusters). Views are stacked along the batch:
rows 0..B-1 hold the samples, rows B..2B-1 one neighbour of each; `views` is 2B.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

# Hidden values of all heads that a CPU works on at once; measured, between 2 and 8 million.
CACHED_VALUES = 4_000_000


class TemiHeads(nn.Module):
    """H independent heads: Linear d -> hidden, GELU, Linear -> bottleneck, L2 norm, weight-normed Linear -> C.

    The parameters of all heads are stacked, so that optimizer and teacher update work on a few large tensors.
    """

    def __init__(
        self,
        num_heads: int,
        input_dim: int,
        num_classes: int,
        hidden_dim: int = 512,
        bottleneck_dim: int = 256,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()

        def matrix(*shape: int) -> nn.Parameter:
            return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02, a=-2, b=2, generator=generator))

        self.hidden_weight = matrix(num_heads, hidden_dim, input_dim)
        self.hidden_bias = nn.Parameter(torch.zeros(num_heads, hidden_dim))
        self.bottleneck_weight = matrix(num_heads, bottleneck_dim, hidden_dim)
        self.bottleneck_bias = nn.Parameter(torch.zeros(num_heads, bottleneck_dim))
        # The published head creates its last layer after the custom initialisation: PyTorch's default for Linear.
        bound = 1 / math.sqrt(bottleneck_dim)
        direction = torch.empty(num_heads, num_classes, bottleneck_dim).uniform_(-bound, bound, generator=generator)
        self.last_direction = nn.Parameter(direction)
        self.last_gain = nn.Parameter(torch.ones(num_heads, num_classes, 1))

    def forward(self, embeddings: Float[Tensor, "B d"]) -> Float[Tensor, "H B C"]:
        """Logits [H, B, C] of embeddings [B, d].

        All heads are one product a layer; but where their hidden values fit no cache of a CPU, each head goes through
        its layers on its own (docs/performance.md).
        """
        num_heads, hidden_dim, _ = self.hidden_weight.shape
        if embeddings.is_cuda or len(embeddings) * num_heads * hidden_dim <= CACHED_VALUES:
            return self._all_at_once(embeddings)
        return self._head_by_head(embeddings)

    def _head_by_head(self, embeddings: Float[Tensor, "B d"]) -> Float[Tensor, "H B C"]:
        last = self.last_gain * F.normalize(self.last_direction, dim=2, eps=0)
        layers = (self.hidden_weight, self.hidden_bias, self.bottleneck_weight, self.bottleneck_bias, last)
        logits = []
        for first, first_bias, second, second_bias, third in zip(*(layer.unbind(0) for layer in layers), strict=True):
            bottleneck = F.linear(F.gelu(F.linear(embeddings, first, first_bias)), second, second_bias)
            logits.append(F.linear(F.normalize(bottleneck, dim=1, eps=1e-12), third))
        return torch.stack(logits)

    def _all_at_once(self, embeddings: Float[Tensor, "B d"]) -> Float[Tensor, "H B C"]:
        num_heads, hidden_dim, input_dim = self.hidden_weight.shape
        hidden = F.linear(embeddings, self.hidden_weight.view(-1, input_dim), self.hidden_bias.view(-1))
        hidden = F.gelu(hidden).view(-1, num_heads, hidden_dim).transpose(0, 1)
        bottleneck = torch.baddbmm(self.bottleneck_bias.unsqueeze(1), hidden, self.bottleneck_weight.transpose(1, 2))
        last = self.last_gain * F.normalize(self.last_direction, dim=2, eps=0)
        return F.normalize(bottleneck, dim=2, eps=1e-12) @ last.transpose(1, 2)

    def last_layer(self) -> list[nn.Parameter]:
        """The parameters that stay frozen in the first epoch."""
        return [self.last_direction, self.last_gain]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """Optimizer groups: matrices (the gain among them, as published) decay, biases do not."""
        biases = [self.hidden_bias, self.bottleneck_bias]
        matrices = [self.hidden_weight, self.bottleneck_weight, self.last_direction, self.last_gain]
        return [{"params": matrices, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]


def uniform_prior(num_heads: int, num_classes: int) -> Float[Tensor, "{num_heads} {num_classes}"]:
    """The class prior [H, C] that training starts from."""
    return torch.full((num_heads, num_classes), 1 / num_classes)


@torch.no_grad()
def teacher_targets(
    logits: Float[Tensor, "H views C"], temperature: float
) -> tuple[Float[Tensor, "H views C"], Float[Tensor, "H C"]]:
    """Log probabilities of the teacher [H, 2B, C], and their mean over the batch as probabilities [H, C]."""
    targets = F.log_softmax(logits / temperature, dim=2)
    # Not a mean: a worker's share of a batch may be empty, and then is 0.
    return targets, targets.exp().sum(dim=1) / max(1, logits.shape[1])


def pair_loss(
    student_logits: Float[Tensor, "H views C"],
    targets: Float[Tensor, "H views C"],
    prior: Float[Tensor, "H C"],
    beta: float,
    temperature: float,
) -> Float[Tensor, " H"]:
    """Weighted pointwise mutual information of both views with the other's target, negative, its mean for each head.

    Args:
        student_logits: [H, 2B, C].
        targets: log probabilities of the teacher, [H, 2B, C].
        prior: [H, C].
        beta: exponent.
        temperature: divides the student's logits.
    """
    student = F.log_softmax(student_logits / temperature, dim=2)
    with torch.no_grad():
        first, second = targets.exp().chunk(2, dim=1)
        weight = (first * second).sum(dim=2).mean(dim=0)
    other_view = torch.cat(targets.chunk(2, dim=1)[::-1], dim=1)
    # log sum_c (ps pt)^beta / pk, in log space: small probabilities do not underflow.
    information = torch.logsumexp(beta * (student + other_view) - prior.log().unsqueeze(1), dim=2)
    return -(information * weight.repeat(2)).sum(dim=1) / max(1, len(weight) * 2)


class LossParts(NamedTuple):
    """The two computations of the loss; workers exchange the batch mean between them.

    Attributes:
        targets: `teacher_targets`.
        pairs: `pair_loss`.
    """

    targets: Callable[..., tuple[Tensor, Tensor]]
    pairs: Callable[..., Tensor]


LOSS_PARTS = LossParts(teacher_targets, pair_loss)


def temi_loss(
    student_logits: Float[Tensor, "H views C"],
    teacher_logits: Float[Tensor, "H views C"],
    prior: Float[Tensor, "H C"],
    *,
    beta: float = 0.6,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.1,
    prior_momentum: float = 0.9,
    all_reduce_mean: Callable[[Float[Tensor, "H C"]], Float[Tensor, "H C"]] = lambda mean: mean,
    parts: LossParts = LOSS_PARTS,
) -> tuple[Float[Tensor, " H"], Float[Tensor, "H C"]]:
    """Loss of each head on a batch of pairs, and the class prior updated with this batch.

    Args:
        student_logits: [H, 2B, C], both views.
        teacher_logits: [H, 2B, C]; no gradient flows through them.
        prior: running class prior pk, [H, C].
        beta: exponent of the pointwise mutual information.
        student_temperature: divides the student's logits.
        teacher_temperature: divides the teacher's logits.
        prior_momentum: share of the old prior kept.
        all_reduce_mean: averages the batch mean over data-parallel workers.
        parts: the computations before and after that, perhaps compiled.

    Returns:
        Loss of each head [H], and the new prior [H, C] (used in this loss: it is updated first, as published).
    """
    targets, batch_mean = parts.targets(teacher_logits, teacher_temperature)
    prior = prior_momentum * prior + (1 - prior_momentum) * all_reduce_mean(batch_mean)
    return parts.pairs(student_logits, targets, prior, beta, student_temperature), prior


def warmup_schedule(step: int, warmup_steps: int) -> float:
    """Factor of the base learning rate: linear from 0 over the warm-up (both ends included), then constant."""
    return 1.0 if step >= warmup_steps or warmup_steps <= 1 else step / (warmup_steps - 1)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Exponential moving average: teacher <- m teacher + (1 - m) student."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)


def head_alignment(
    assignments: Int64[np.ndarray, "H N"], reference: int, num_classes: int
) -> Int64[np.ndarray, "H {num_classes}"]:
    """Numbering of each head's clusters in terms of one head's: heads number their clusters independently.

    Args:
        assignments: cluster of each sample by each head, int64 [H, N].
        reference: the head whose numbering is kept.
        num_classes: C.

    Returns:
        int64 [H, C]: entry [h, c] is the reference cluster that cluster c of head h overlaps in a best one-to-one
        matching (Hungarian algorithm on the counts of samples in both).
    """
    from scipy.optimize import linear_sum_assignment

    aligned = np.empty((len(assignments), num_classes), dtype=np.int64)
    for head, clusters in enumerate(assignments):
        pairs = clusters * num_classes + assignments[reference]
        overlap = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
        rows, columns = linear_sum_assignment(overlap, maximize=True)
        aligned[head, rows] = columns
    return aligned


def consensus(
    probabilities: Float[Tensor, "H n C"], alignment: Int64[Tensor, "H C"], heads: Iterable[int]
) -> tuple[Int64[Tensor, " n"], Float32[Tensor, " n"], Float32[Tensor, " n"]]:
    """Pseudo-labels from the mean of aligned heads' probabilities.

    The mean over heads (ELFS, section 4.1) has a meaning only once all heads number their clusters alike.

    Args:
        probabilities: of each head, float [H, n, C], in the head's own numbering.
        alignment: from `head_alignment`, int64 [H, C], on the same device.
        heads: the heads whose mean decides.

    Returns:
        Label int64 [n], its mean probability float32 [n], and the share of all H heads that agree, float32 [n].
    """
    deciding = list(heads)
    mean = torch.zeros_like(probabilities[0], dtype=torch.float64)
    for head in deciding:
        mean.index_add_(1, alignment[head], probabilities[head].double())
    confidence, labels = (mean / len(deciding)).max(dim=1)
    votes = alignment.gather(1, probabilities.argmax(dim=2)) == labels
    return labels, confidence.float(), votes.float().mean(dim=0)
