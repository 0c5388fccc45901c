"""Classifiers on embeddings and on images, for the proxy, the search of beta and the evaluation.

All take a batch and give logits. Their weights come from a `torch.Generator`.
Symbols: N samples, b rows in a batch, C classes, d embedding width, s pixels a side.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

# Up to this many pixels a side, a network keeps the resolution of the image in its first layers.
CIFAR_SIDE = 64


class EmbeddingClassifier(nn.Module):
    """Inputs centred and divided by one number for all features.

    Dividing each feature by its own deviation would blow up features that hardly vary: embeddings have many, and a
    training set of a few hundred rows estimates them badly.
    """

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, ""]

    def __init__(self, inputs: Float[Tensor, "N d"], width: int | None = None) -> None:
        super().__init__()
        mean = inputs.mean(dim=0)
        scale = (inputs - mean).square().mean().sqrt()
        if width is not None:
            scale = scale * (inputs.shape[1] / width) ** 0.5
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale.clamp_min(1e-6))

    def scaled(self, inputs: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Inputs as the first layer takes them."""
        return (inputs - self.mean) / self.scale

    @property
    def layers(self) -> tuple[nn.Linear, ...]:
        """From the inputs to the logits, with ReLU between them."""
        raise NotImplementedError


class LinearClassifier(EmbeddingClassifier):
    """Linear d -> C on scaled inputs: a linear probe."""

    def __init__(self, inputs: Float[Tensor, "N d"], num_classes: int, *, generator: torch.Generator) -> None:
        """Size the network for `inputs` [N, d], and take their mean and overall deviation."""
        super().__init__(inputs)
        self.output = _linear(inputs.shape[1], num_classes, generator)

    @property
    def layers(self) -> tuple[nn.Linear, ...]:
        """The only one."""
        return (self.output,)

    def forward(self, inputs: Float[Tensor, "*b d"]) -> Float[Tensor, "*b C"]:
        """Logits [b, C] of inputs [b, d]."""
        logits: Tensor = self.output(self.scaled(inputs))
        return logits


class MlpClassifier(EmbeddingClassifier):
    """Linear d -> hidden, ReLU, Linear -> C on scaled inputs."""

    def __init__(
        self,
        inputs: Float[Tensor, "N d"],
        num_classes: int,
        hidden_dim: int,
        *,
        generator: torch.Generator,
        width: int | None = None,
    ) -> None:
        """Size the network for `inputs` [N, d], and take their mean and overall deviation.

        Args:
            inputs: that it will be trained on.
            num_classes: width of the logits.
            hidden_dim: width of the hidden layer.
            generator: source of the weights.
            width: of the vectors whose principal components the inputs are: the network then learns as fast as one that
                sees all of them, since the rate at which the first layer learns follows the length of its inputs.
        """
        super().__init__(inputs, width)
        self.hidden = _linear(inputs.shape[1], hidden_dim, generator)
        if width is not None:
            self.hidden.weight.data *= (inputs.shape[1] / width) ** 0.5
        self.output = _linear(hidden_dim, num_classes, generator)

    @property
    def layers(self) -> tuple[nn.Linear, ...]:
        """The hidden one and the last."""
        return self.hidden, self.output

    def forward(self, inputs: Float[Tensor, "*b d"]) -> Float[Tensor, "*b C"]:
        """Logits [b, C] of inputs [b, d]."""
        logits: Tensor = self.output(self.hidden_values(inputs))
        return logits

    def hidden_values(self, inputs: Float[Tensor, "*b d"]) -> Float[Tensor, "*b hidden"]:
        """Inputs of the last layer [b, hidden] for inputs [b, d]."""
        return F.relu(self.hidden(self.scaled(inputs)))


@dataclass(frozen=True)
class ResNetShape:
    """What makes one residual network another.

    Attributes:
        widths: channels of each stage; every stage but the first halves the resolution.
        depths: blocks of each stage.
        bottleneck: whether blocks are 1 x 1, 3 x 3, 1 x 1 with four times the channels at their ends.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    bottleneck: bool = False


RESNETS = {
    # 8 layers as in MLPerf Tiny (Banbury et al., 2021): 12.5 million multiply-adds at 32 pixels.
    "resnet-small": ResNetShape((16, 32, 64), (1, 1, 1)),
    "resnet18": ResNetShape((64, 128, 256, 512), (2, 2, 2, 2)),
    "resnet34": ResNetShape((64, 128, 256, 512), (3, 4, 6, 3)),
    "resnet50": ResNetShape((64, 128, 256, 512), (3, 4, 6, 3), bottleneck=True),
}
"""Residual networks by name (He et al., 2016, table 1)."""


class ResidualBlock(nn.Module):
    """Convolutions with batch norm around a shortcut (He et al., 2016, figure 5); a bottleneck strides in its 3 x 3."""

    def __init__(
        self, in_channels: int, width: int, stride: int, *, bottleneck: bool = False, generator: torch.Generator
    ) -> None:
        super().__init__()
        out_channels = 4 * width if bottleneck else width
        layers = [(1, width, 1), (3, width, stride), (1, out_channels, 1)] if bottleneck else []
        layers = layers or [(3, width, stride), (3, width, 1)]
        modules: list[nn.Module] = []
        channels = in_channels
        for kernel, outputs, step in layers:
            modules += [_conv(channels, outputs, kernel, step, generator), nn.BatchNorm2d(outputs), nn.ReLU()]
            channels = outputs
        self.layers = nn.Sequential(*modules[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = _conv(in_channels, out_channels, 1, stride, generator)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, images: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        """Feature map of a feature map."""
        return F.relu(self.layers(images) + self.shortcut(images))


class ResNet(nn.Module):
    """A residual network; small images get the CIFAR stem (3 x 3, no pooling), larger ones the ImageNet stem.

    The small network strides in its stem instead, so that it works on 32 x 32 whatever the image.
    """

    def __init__(self, name: str, image_size: int, num_classes: int, *, generator: torch.Generator) -> None:
        """Build the network of `RESNETS` that `name` says, for images [b, 3, s, s]."""
        super().__init__()
        shape = RESNETS[name]
        width = channels = shape.widths[0]
        if name == "resnet-small":
            stem: list[nn.Module] = [_conv(3, width, 3, max(1, image_size // 32), generator)]
        elif image_size <= CIFAR_SIDE:
            stem = [_conv(3, width, 3, 1, generator)]
        else:
            stem = [_conv(3, width, 7, 2, generator)]
        stem += [nn.BatchNorm2d(width), nn.ReLU()]
        if name != "resnet-small" and image_size > CIFAR_SIDE:
            stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        self.stem = nn.Sequential(*stem)
        blocks = []
        for stage, (width, depth) in enumerate(zip(shape.widths, shape.depths, strict=True)):
            for number in range(depth):
                stride = 2 if stage and not number else 1
                blocks.append(ResidualBlock(channels, width, stride, bottleneck=shape.bottleneck, generator=generator))
                channels = 4 * width if shape.bottleneck else width
        self.blocks = nn.Sequential(*blocks)
        self.output = _linear(channels, num_classes, generator)

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b C"]:
        """Logits [b, C] of normalised images [b, 3, s, s]."""
        logits: Tensor = self.output(self.features(images))
        return logits

    def features(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Inputs of the last layer [b, d]."""
        features: Tensor = self.blocks(self.stem(images)).mean(dim=(2, 3))
        return features


def build_network(
    name: str,
    inputs: Shaped[Tensor, "N ..."],
    num_classes: int,
    hidden_dim: int,
    *,
    generator: torch.Generator,
    width: int | None = None,
) -> nn.Module:
    """A network by name, for such inputs.

    Args:
        name: `linear` or `mlp`, on embeddings [N, d]; or one of `RESNETS`, on images [N, 3, s, s].
        inputs: that it will be trained on; the scaling of embeddings comes from them.
        num_classes: width of the logits.
        hidden_dim: mlp: width of its hidden layer.
        generator: source of the weights.
        width: mlp: of the vectors whose principal components the inputs are, if they are such.
    """
    if name == "linear":
        return LinearClassifier(inputs, num_classes, generator=generator)
    if name == "mlp":
        return MlpClassifier(inputs, num_classes, hidden_dim, generator=generator, width=width)
    network = ResNet(name, inputs.shape[-1], num_classes, generator=generator)
    return network.to(memory_format=torch.channels_last)


# Weights are drawn from a generator, once. (`nn.utils.skip_init` imports torch's symbolic shapes, for half a second.)
class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Leave them as they are."""


class _Conv2d(nn.Conv2d):
    def reset_parameters(self) -> None:
        """Leave them as they are."""


def _linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    layer = _Linear(fan_in, fan_out)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _conv(fan_in: int, fan_out: int, kernel: int, stride: int, generator: torch.Generator) -> nn.Conv2d:
    layer = _Conv2d(fan_in, fan_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    return layer
