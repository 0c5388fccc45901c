"""Classifiers trained on embeddings or images, and the loop that trains them: proxy, search of beta, evaluation.

Symbols: N samples, b rows in a batch, C classes, d embedding width.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

Transform = Callable[[Tensor, torch.Generator | None], Tensor]


class MlpClassifier(nn.Module):
    """Linear d -> hidden, ReLU, Linear -> C, over inputs centred and divided by one number for all features.

    Dividing each feature by its own deviation would blow up features that hardly vary: embeddings have many, and a
    training set of a few hundred rows estimates them badly.
    """

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, ""]

    def __init__(
        self, inputs: Float[Tensor, "N d"], num_classes: int, hidden_dim: int, *, generator: torch.Generator
    ) -> None:
        """Size the network for `inputs` [N, d], and take their mean and overall deviation."""
        super().__init__()
        mean = inputs.mean(dim=0)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", (inputs - mean).square().mean().sqrt().clamp_min(1e-6))
        self.hidden = _linear(inputs.shape[1], hidden_dim, generator)
        self.output = _linear(hidden_dim, num_classes, generator)

    def forward(self, inputs: Float[Tensor, "*b d"]) -> Float[Tensor, "*b C"]:
        """Logits [b, C] of inputs [b, d]."""
        logits: Tensor = self.output(self.hidden_values(inputs))
        return logits

    def hidden_values(self, inputs: Float[Tensor, "*b d"]) -> Float[Tensor, "*b hidden"]:
        """Inputs of the last layer [b, hidden] for inputs [b, d]."""
        return F.relu(self.hidden((inputs - self.mean) / self.scale))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm around a shortcut (He et al., 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, generator: torch.Generator) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3, stride, generator)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv(out_channels, out_channels, 3, 1, generator)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = _conv(in_channels, out_channels, 1, stride, generator)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, images: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        """Feature map of a feature map."""
        hidden = F.relu(self.norm1(self.conv1(images)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(images))


class ResNet18(nn.Module):
    """ResNet-18; images up to 64 pixels get the CIFAR stem (3 x 3, no pooling), larger ones the ImageNet stem."""

    def __init__(self, image_size: int, num_classes: int, *, generator: torch.Generator) -> None:
        super().__init__()
        small = image_size <= 64
        self.stem = nn.Sequential(
            _conv(3, 64, 3 if small else 7, 1 if small else 2, generator),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks, channels = [], 64
        for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks.append(ResidualBlock(channels, width, stride, generator))
            blocks.append(ResidualBlock(width, width, 1, generator))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.output = _linear(512, num_classes, generator)

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b C"]:
        """Logits [b, C] of normalised images [b, 3, s, s]."""
        logits: Tensor = self.output(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return logits


def augment(images: Float[Tensor, "b 3 s s"], generator: torch.Generator | None) -> Float[Tensor, "b 3 s s"]:
    """Random flip and shifted crop (padding of an eighth of the side), drawn for each image; no generator: unchanged.

    Args:
        images: [b, 3, s, s].
        generator: on the CPU; the draws do not depend on the device.
    """
    if generator is None:
        return images
    count, _, size, _ = images.shape
    margin = max(1, size // 8)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    offsets = torch.randint(0, 2 * margin + 1, (2, count, 1), generator=generator)
    rows = offsets[0] + torch.arange(size)
    columns = offsets[1] + torch.where(flip, torch.arange(size - 1, -1, -1), torch.arange(size))
    padded = F.pad(images, (margin, margin, margin, margin), mode="reflect")
    index = torch.arange(count, device=images.device)[:, None, None]
    rows, columns = rows.to(images.device), columns.to(images.device)
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def prepare_images(images: UInt8[Tensor, "b 3 s s"], generator: torch.Generator | None) -> Float[Tensor, "b 3 s s"]:
    """Augmented images in [-1, 1] from uint8 ones, [b, 3, s, s]."""
    return augment(images.float().div(127.5).sub(1), generator)


def epoch_batches(
    num_samples: int, batch_size: int, min_rows: int, generator: torch.Generator
) -> Iterator[Int64[Tensor, " b"]]:
    """Positions of each batch of an epoch in random order; a last batch under `min_rows` joins the one before."""
    order = torch.randperm(num_samples, generator=generator)
    starts = list(range(0, num_samples, batch_size))
    if len(starts) > 1 and num_samples - starts[-1] < min_rows:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], num_samples], strict=True):
        yield order[start:stop]


def sgd(model: nn.Module, learning_rate: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum, as the papers train proxies and evaluation models."""
    return torch.optim.SGD(
        model.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0
    )


def cosine_factor(step: float, total_steps: int) -> float:
    """Factor of the learning rate at a step: cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / total_steps))


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Float[Tensor, "b ..."],
    labels: Int64[Tensor, " b"],
    learning_rate: float,
    after_backward: Callable[[nn.Module], None] = lambda _: None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "b C"]:
    """One cross-entropy step; returns the logits [b, C] it was computed from.

    `after_backward` may change the gradients before the step, such as average them over workers. `dtype` is the
    arithmetic of the network; the loss is float32.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    with torch.autocast(inputs.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits: Tensor = model(inputs)
    if dtype != torch.float32:
        logits = logits.float()
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    after_backward(model)
    optimizer.step()
    return logits.detach()


def train_for_steps(
    model: nn.Module, inputs: Float[Tensor, "N ..."], labels: Int64[Tensor, " N"], *, steps: int, **options: Any
) -> None:
    """Train in place for a fixed number of steps, so that a larger coreset is not also a longer training.

    The options are those of `training_steps`.
    """
    for _ in training_steps(model, inputs, labels, steps=steps, **options):
        pass


def training_steps(
    model: nn.Module,
    inputs: Float[Tensor, "N ..."],
    labels: Int64[Tensor, " N"],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Iterator[int]:
    """Train in place, and give the number of steps done after each; who switches to evaluation switches back."""
    model.train()
    optimizer = sgd(model, learning_rate, momentum, weight_decay)
    step = 0
    while step < steps:
        for rows in epoch_batches(len(inputs), batch_size, 2, generator):
            train_step(model, optimizer, inputs[rows], labels[rows], learning_rate * cosine_factor(step, steps))
            step += 1
            yield step
            if step == steps:
                return


@torch.inference_mode()
def accuracy(
    model: nn.Module, inputs: Float[Tensor, "N ..."], labels: Int64[Tensor, " N"], batch_size: int = 4096
) -> float:
    """Share of samples whose most probable class is their label."""
    model.eval()
    batches = zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
    correct = sum(int((model(x).argmax(dim=1) == y).sum()) for x, y in batches)
    return correct / len(labels)


def _linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _conv(fan_in: int, fan_out: int, kernel: int, stride: int, generator: torch.Generator) -> nn.Conv2d:
    layer = nn.utils.skip_init(nn.Conv2d, fan_in, fan_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    return layer
