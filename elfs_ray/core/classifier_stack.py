"""Several classifiers of one shape on embeddings, trained at once: each step is one product for all of them.

Trained one after another, small networks spend their time in the calls and not in the arithmetic.
Symbols: S networks, n training samples of each, b rows in a batch, d embedding width, C classes.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from elfs_ray.core.classifier import MOMENTUM, Recipe, cosine_factor, epoch_batches, generator_on, sgd, train_step
from elfs_ray.core.device_rows import DeviceRows, Room
from elfs_ray.core.networks import EmbeddingClassifier


class ClassifierStack(nn.Module):
    """Trains networks as `training_steps` trains each by itself; none of them sees the others.

    What networks learn in the first layer lies in the span of their training samples; outside of it weights only decay,
    all by one factor. Where samples are few beside the dimensions, the networks therefore train on coordinates in the
    span, and the factor is kept beside: the same training but for rounding, with n inputs in place of d.
    """

    def __init__(
        self,
        networks: Sequence[EmbeddingClassifier],
        inputs: DeviceRows,
        labels: Int64[Tensor, " N"],
        rows: Int64[Tensor, "S n"],
        recipe: Recipe,
        generators: Sequence[torch.Generator],
    ) -> None:
        """Take over the weights of the networks.

        Args:
            networks: of one shape, on the device; theirs become the trained weights when `write_back` is called.
            inputs: [N, d], of which the training samples are some.
            labels: int64 [N], on the device.
            rows: positions of each network's samples, on the device.
            recipe: how.
            generators: sources of the order of each network's samples.
        """
        super().__init__()
        self._networks, self._recipe = list(networks), recipe
        self._inputs, self._labels, self._rows = inputs, labels, rows
        self._orders = [generator_on(labels.device, generator) for generator in generators]
        layers = list(zip(*(network.layers for network in networks), strict=True))
        self.weights = nn.ParameterList(_stacked([layer.weight.T for layer in same]) for same in layers)
        self.biases = nn.ParameterList(_stacked([layer.bias[None] for layer in same]) for same in layers)
        self._mean = torch.stack([network.mean[None] for network in networks])
        self._scale = torch.stack([network.scale[None, None] for network in networks])
        self._scaled_before = False
        self._outside_span: _OutsideSpan | None = None
        if 2 * rows.shape[1] <= inputs.shape[1]:
            self._train_in_span()

    def forward(self, inputs: Float[Tensor, "r d"]) -> Float[Tensor, "r C"]:
        """Logits of each network for its own inputs; r = S b, one network after another."""
        values = inputs.view(len(self._networks), -1, inputs.shape[1])
        values = values if self._scaled_before else (values - self._mean) / self._scale
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = torch.baddbmm(bias, F.relu(values) if number else values, weight)
        return values.flatten(0, 1)

    def steps(self) -> Iterator[int]:
        """Train, and give the number of steps done after each; the networks stay behind until `write_back`."""
        recipe, members = self._recipe, float(len(self._networks))
        optimizer = sgd(self, recipe.learning_rate, MOMENTUM, recipe.weight_decay, fused=True)
        step = 0
        while step < recipe.steps:
            for places in self._epoch()[: recipe.steps - step]:
                rate = recipe.learning_rate * cosine_factor(step, recipe.steps)
                positions = self._rows.gather(1, places).flatten()
                [batch] = self._inputs.batches([positions])
                # The loss is a mean over all rows; each network is to have that over its own.
                train_step(self, optimizer, batch, self._labels[positions], rate, weight=members, dtype=recipe.dtype)
                if self._outside_span is not None:
                    self._outside_span.decay(rate, recipe.weight_decay)
                step += 1
                yield step

    @torch.no_grad()
    def write_back(self) -> None:
        """Give the networks the weights as they are now."""
        weights = [weight.detach() for weight in self.weights]
        if self._outside_span is not None:
            weights[0] = self._outside_span.whole(weights[0])
        for number, network in enumerate(self._networks):
            for layer, weight, bias in zip(network.layers, weights, self.biases, strict=True):
                layer.weight.copy_(weight[number].T)
                layer.bias.copy_(bias[number, 0])

    def _epoch(self) -> list[Int64[Tensor, "S b"]]:
        """Each batch of an epoch: places among the samples of each network, in an order of its own."""
        size, smallest = self._recipe.batch_size, 2
        batches = [epoch_batches(self._rows.shape[1], size, smallest, order) for order in self._orders]
        return [torch.stack(same) for same in zip(*batches, strict=True)]

    @torch.no_grad()
    def _train_in_span(self) -> None:
        """Replace inputs and first weights by their coordinates in the span of each network's scaled samples."""
        members, count = self._rows.shape
        samples = self._inputs.take(self._rows.flatten()).view(members, count, -1)
        samples = (samples.float() - self._mean) / self._scale
        self._outside_span = _OutsideSpan(torch.linalg.qr(samples.mT).Q, self.weights[0].detach())
        self.weights[0] = nn.Parameter(self._outside_span.coordinates.clone())
        self._inputs = DeviceRows((samples @ self._outside_span.basis).flatten(0, 1), Room(samples.device))
        self._labels = self._labels[self._rows.flatten()]
        self._rows = torch.arange(members * count, device=self._rows.device).view(members, count)
        self._scaled_before = True


class _OutsideSpan:
    """The part of the first weights that no sample reaches: SGD multiplies it by a number that is the same for all.

    Attributes:
        basis: orthonormal columns, float32 [S, d, n].
        coordinates: of the weights in the span, as they were at first, float32 [S, n, h].
    """

    def __init__(self, basis: Float[Tensor, "S d n"], weights: Float[Tensor, "S d h"]) -> None:
        self.basis = basis
        self.coordinates = basis.mT @ weights
        self._weights = weights - basis @ self.coordinates
        self._kept, self._velocity = 1.0, 0.0

    def decay(self, learning_rate: float, weight_decay: float) -> None:
        """One step of SGD with Nesterov momentum on weights whose loss has no gradient."""
        gradient = weight_decay * self._kept
        self._velocity = MOMENTUM * self._velocity + gradient
        self._kept -= learning_rate * (gradient + MOMENTUM * self._velocity)

    def whole(self, coordinates: Float[Tensor, "S n h"]) -> Float[Tensor, "S d h"]:
        """All of the weights, with these coordinates in the span."""
        return torch.baddbmm(self._weights, self.basis, coordinates, beta=self._kept)


def _stacked(tensors: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.stack([tensor.detach() for tensor in tensors]))
