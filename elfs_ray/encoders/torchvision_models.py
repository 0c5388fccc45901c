"""Classification models of torchvision, and SwAV's ResNet-50."""

from typing import Any

import torch
from torch import nn

from elfs_ray.encoders.base import Encoder, Preprocessing
from elfs_ray.encoders.weights import downloading, load_into, read_state_dict, unknown_name
from elfs_ray.errors import UsageError, one_line

_HEADS = ("fc", "classifier", "head", "heads")
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SWAV_REPOSITORY = "facebookresearch/swav:main"
_SWAV_HEADS = ("projection_head.", "prototypes.")


def check(name: str, *, has_weights: bool) -> None:  # noqa: ARG001 - as the other families
    """Refuse a name that torchvision does not have."""
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise unknown_name("torchvision", name, names)


def build(name: str, weights: str | None, image_size: int | None) -> Encoder:
    """Build `torchvision:NAME` without its classifier, with the preprocessing of its default weights."""
    from torchvision import models

    default = models.get_model_weights(name).DEFAULT
    if weights is None:
        module = downloading(f"torchvision:{name}", lambda: models.get_model(name, weights=default))
        source = f"torchvision {default}"
    else:
        module = models.get_model(name, weights=None)
        head = tuple(f"{part}." for part in (*_HEADS, "AuxLogits", "aux1", "aux2"))
        source = load_into(module, read_state_dict(weights), weights, head=head)
    transform = default.transforms()
    native = int(transform.crop_size[0])
    preprocessing = Preprocessing(
        image_size or native,
        tuple(transform.mean),
        tuple(transform.std),
        transform.interpolation.value,
        native / int(transform.resize_size[0]),
    )
    _remove_head(name, module)
    return Encoder(
        f"torchvision:{name}", module, preprocessing, _output_width(name, module, preprocessing.size), source
    )


def build_swav(weights: str | None, image_size: int | None) -> Encoder:
    """Build `hub:swav_resnet50` (Caron et al., 2020): from the hub, or from a local SwAV checkpoint."""
    from torchvision import models

    if weights is None:
        module: Any = downloading(
            "hub:swav_resnet50",
            lambda: torch.hub.load(_SWAV_REPOSITORY, "resnet50", trust_repo=True, skip_validation=True),
        )
        source = f"torch hub {_SWAV_REPOSITORY}"
    else:
        module = models.resnet50(weights=None)
        state = {k: v for k, v in read_state_dict(weights).items() if not k.startswith(_SWAV_HEADS)}
        source = load_into(module, state, weights, head=("fc.",))
    module.fc = nn.Identity()
    preprocessing = Preprocessing(image_size or 224, _IMAGENET_MEAN, _IMAGENET_STD, "bilinear", 224 / 256)
    return Encoder("hub:swav_resnet50", module, preprocessing, 2048, source)


def _remove_head(name: str, module: nn.Module) -> None:
    """Replace the last linear layer, keeping what comes before it in the head (norm, pooling)."""
    head_name = next((part for part in _HEADS if hasattr(module, part)), None)
    if head_name is None:
        raise UsageError(f"torchvision:{name} has no classifier to remove; use a classification model")
    head = getattr(module, head_name)
    if isinstance(head, nn.Sequential):
        last = max(number for number, layer in enumerate(head) if isinstance(layer, (nn.Linear, nn.Conv2d)))
        head[last] = nn.Identity()
    else:
        setattr(module, head_name, nn.Identity())


@torch.inference_mode()
def _output_width(name: str, module: nn.Module, size: int) -> int:
    """Run one empty image through the network."""
    try:
        return int(module.eval()(torch.zeros(1, 3, size, size)).shape[-1])
    except (RuntimeError, AssertionError) as error:
        reason = one_line(error)
        raise UsageError(
            f"torchvision:{name} does not take {size} pixels ({reason}); leave out embed.image_size"
        ) from None
