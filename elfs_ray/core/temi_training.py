"""Training of TEMI's heads on one device: student, teacher, prior, and the step that all of them take.

Symbols: H heads, B pairs of a worker's share of a batch, d input width, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elfs_ray.core.optimizers import AdamW
from elfs_ray.core.temi import LOSS_PARTS, LossParts, TemiHeads, temi_loss, uniform_prior, update_teacher


@dataclass(frozen=True)
class TemiOptions:
    """How heads are built and trained; names as in the paper (Adaloglou et al., BMVC 2023).

    Attributes:
        heads: H.
        num_classes: C.
        hidden_dim: width of the first layer.
        bottleneck_dim: width of the second.
        beta: exponent of the pointwise mutual information.
        student_temperature: divides the student's logits.
        teacher_temperature: divides the teacher's logits.
        teacher_momentum: share of the old teacher kept at each step.
        prior_momentum: share of the old class prior kept at each step.
        weight_decay: of AdamW, on matrices.
        dtype: arithmetic of the heads; the loss and all sums are float32.
    """

    heads: int
    num_classes: int
    hidden_dim: int = 512
    bottleneck_dim: int = 256
    beta: float = 0.6
    student_temperature: float = 0.1
    teacher_temperature: float = 0.1
    teacher_momentum: float = 0.996
    prior_momentum: float = 0.9
    weight_decay: float = 1e-4
    dtype: torch.dtype = torch.float32


class TemiTraining:
    """Student, teacher, optimizer and prior on one device.

    Attributes:
        teacher: the heads that give pseudo-labels.
        losses: of each head, summed over the steps since the epoch began, on this worker's share, [H].
    """

    def __init__(
        self,
        options: TemiOptions,
        input_dim: int,
        seed: int,
        device: torch.device,
        *,
        compiled: bool = False,
        parallel: Callable[[nn.Module], nn.Module] = lambda network: network,
    ) -> None:
        """Build the heads.

        Args:
            options: how.
            input_dim: d.
            seed: of the weights.
            device: where they train.
            compiled: fuse what lies between the products into few kernels; without a compiler all runs as it is.
            parallel: makes a network average its gradients over workers.
        """
        self._options = options
        sizes = options.heads, input_dim, options.num_classes, options.hidden_dim, options.bottleneck_dim
        self.student, self.teacher = (
            TemiHeads(*sizes, generator=torch.Generator().manual_seed(seed)).to(device) for _ in range(2)
        )
        self._loss_parts = LOSS_PARTS
        if compiled:
            self._compile()
        self._forward = parallel(self.student)
        self._optimizer = AdamW(self.student.parameter_groups(options.weight_decay), lr=0.0, fused=True)
        self.prior = uniform_prior(options.heads, options.num_classes).to(device)
        self.losses = torch.zeros(options.heads, device=device)

    def _compile(self) -> None:
        import torch._dynamo

        torch._dynamo.config.suppress_errors = True  # noqa: SLF001 - has no public name
        # For each size of a batch its own: there are two, because the last one takes in what is left over.
        fused = partial(torch.compile, dynamic=False)
        self.student.compile(dynamic=False)
        self.teacher.compile(dynamic=False)
        self._loss_parts = LossParts(*map(fused, LOSS_PARTS))

    def step(
        self,
        views: Float[Tensor, "views d"],
        learning_rate: float,
        *,
        last_layer_frozen: bool = False,
        weight: float = 1.0,
        average: Callable[[Float[Tensor, "H C"]], Float[Tensor, "H C"]] = lambda mean: mean,
    ) -> None:
        """Train on pairs; nothing in it waits for the device.

        Args:
            views: samples, then one neighbour of each, float [2B, d].
            learning_rate: of this step.
            last_layer_frozen: as in the first epoch.
            weight: what this worker's share counts for in the mean over the batch.
            average: the mean over workers of what each has of its share.
        """
        options = self._options
        if options.dtype == torch.float32:
            views = views.float()
        with torch.autocast(views.device.type, options.dtype, enabled=options.dtype != torch.float32):
            with torch.no_grad():
                teacher_logits = self.teacher(views)
            student_logits = self._forward(views)
        loss, self.prior = temi_loss(
            student_logits.float(),
            teacher_logits.float(),
            self.prior,
            beta=options.beta,
            student_temperature=options.student_temperature,
            teacher_temperature=options.teacher_temperature,
            prior_momentum=options.prior_momentum,
            all_reduce_mean=average,
            parts=self._loss_parts,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        (loss.mean() * weight).backward()
        if last_layer_frozen:
            for parameter in self.student.last_layer():
                parameter.grad = None
        self._optimizer.step()
        update_teacher(self.teacher, self.student, options.teacher_momentum)
        self.losses += loss.detach() * weight

    def state(self) -> dict[str, Any]:
        """For a checkpoint, between two epochs."""
        return {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "prior": self.prior,
            "losses": self.losses,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.prior.copy_(state["prior"])
        self.losses.copy_(state["losses"])

    @torch.inference_mode()
    def probabilities(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "H n C"]:
        """What the teacher's heads say of some embeddings."""
        logits = self.teacher.forward(embeddings.float())  # as it is: blocks have sizes of their own
        return (logits / self._options.teacher_temperature).softmax(dim=2)
