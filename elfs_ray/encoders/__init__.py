"""Image encoders by name.

| name | what |
|---|---|
| `efficientnet-lite0` | ImageNet weights from a registry package: works without a network |
| `open_clip:MODEL/PRETRAINED` | CLIP and its like |
| `timm:NAME` | DINO, DINOv2 and every other model of timm |
| `torchvision:NAME` | classification models of torchvision |
| `hub:swav_resnet50` | SwAV's ResNet-50 |
"""

import difflib

from elfs_ray.encoders.base import Encoder, Preprocessing
from elfs_ray.encoders.weights import find_weights, weights_signature
from elfs_ray.errors import UsageError

__all__ = ["Encoder", "Preprocessing", "check_encoder", "load_encoder", "weights_signature"]

NAMES = ("efficientnet-lite0", "hub:swav_resnet50")
FAMILIES = ("open_clip", "timm", "torchvision")


def check_encoder(name: str, weights: str | None = None) -> None:
    """Refuse a wrong name or a missing weights file, without loading anything.

    Raises:
        UsageError: with the closest name, or the path.
    """
    family, _, model = name.partition(":")
    if weights is not None:
        find_weights(weights)
    if name in NAMES:
        return
    if family not in FAMILIES or not model:
        close = difflib.get_close_matches(name, NAMES, n=1)
        forms = ", ".join([*NAMES, "open_clip:MODEL/PRETRAINED", "timm:NAME", "torchvision:NAME"])
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(f"unknown encoder {name!r}; {hint}choose one of {forms}")
    if family == "open_clip":
        from elfs_ray.encoders import open_clip_models

        open_clip_models.check(model, has_weights=weights is not None)
    elif family == "timm":
        from elfs_ray.encoders import timm_models

        timm_models.check(model)
    else:
        from elfs_ray.encoders import torchvision_models

        torchvision_models.check(model)


def load_encoder(name: str, *, weights: str | None = None, image_size: int | None = None) -> Encoder:
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
    family, _, model = name.partition(":")
    if name == "efficientnet-lite0":
        from elfs_ray.encoders import efficientnet_lite0

        return efficientnet_lite0.build(weights, image_size)
    if family == "open_clip":
        from elfs_ray.encoders import open_clip_models

        return open_clip_models.build(model, weights, image_size)
    if family == "timm":
        from elfs_ray.encoders import timm_models

        return timm_models.build(model, weights, image_size)
    from elfs_ray.encoders import torchvision_models

    if name == "hub:swav_resnet50":
        return torchvision_models.build_swav(weights, image_size)
    return torchvision_models.build(model, weights, image_size)
