"""Image encoders by name.

| name | what |
|---|---|
| `efficientnet-lite0` | ImageNet weights from a registry package: works without a network |
| `efficientnet-lite1`, `efficientnet-lite2` | larger ones, from a package each, to be installed |
| `open_clip:MODEL/PRETRAINED` | CLIP and its like |
| `timm:NAME` | DINO, DINOv2 and every other model of timm |
| `torchvision:NAME` | classification models of torchvision |
| `hub:swav_resnet50` | SwAV's ResNet-50 |
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from elfs_ray.encoders.packaged import NATIVE_SIZES, packaged_weights
from elfs_ray.encoders.weights_files import find_weights, weights_signature
from elfs_ray.errors import UsageError

if TYPE_CHECKING:
    from elfs_ray.encoders.base import Encoder

__all__ = ["check_encoder", "load_encoder", "weights_signature"]

SWAV = "hub:swav_resnet50"
NAMES = (*NATIVE_SIZES, SWAV)
FAMILIES = ("open_clip", "timm", "torchvision")


def check_encoder(name: str, weights: str | None = None) -> None:
    """Refuse a wrong name or missing weights, without loading anything.

    Raises:
        UsageError: with the names there are, the path, or the package to install.
    """
    if weights is not None:
        find_weights(weights)
    if name in NATIVE_SIZES:
        if weights is None:
            packaged_weights(name)
    elif name != SWAV:
        family, model = _family(name)
        family.check(model, has_weights=weights is not None)


def load_encoder(name: str, *, weights: str | None = None, image_size: int | None = None) -> "Encoder":
    """Build an encoder with its weights, on the CPU, in evaluation mode.

    Args:
        name: as in the table above.
        weights: file instead of a download, at a local path or a URI.
        image_size: pixels a side; without, what the encoder was trained with.

    Raises:
        UsageError: a wrong name, weights that are missing, damaged or of another network, a failed download, or an
            image size that the encoder cannot take.
    """
    check_encoder(name, weights)
    if name == SWAV:
        from elfs_ray.encoders import torchvision_models

        return torchvision_models.build_swav(weights, image_size)
    if name in NATIVE_SIZES:
        from elfs_ray.encoders import efficientnet_lite

        return efficientnet_lite.build(name, weights, image_size)
    family, model = _family(name)
    encoder: Encoder = family.build(model, weights, image_size)
    return encoder


def _family(name: str) -> tuple[Any, str]:
    """The module that checks and builds the encoders of a library, and what that calls this one."""
    family, _, model = name.partition(":")
    if family not in FAMILIES or not model:
        forms = ", ".join([*NAMES, "open_clip:MODEL/PRETRAINED", "timm:NAME", "torchvision:NAME"])
        raise UsageError(f"unknown encoder {name!r}; choose one of {forms}")
    return import_module(f"elfs_ray.encoders.{family}_models"), model
