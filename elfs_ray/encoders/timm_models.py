"""Any image model of timm: DINO, DINOv2, SigLIP, ConvNeXt, ResNets and others."""

from typing import Any

from elfs_ray.encoders.base import Encoder, Preprocessing
from elfs_ray.encoders.weights import downloading, load_into, read_state_dict, unknown_name
from elfs_ray.errors import UsageError


def check(name: str, *, has_weights: bool) -> None:  # noqa: ARG001 - as the other families
    """Refuse a name that timm does not have."""
    import timm

    if not timm.is_model(name.split(".", maxsplit=1)[0]):
        raise unknown_name("timm", name, timm.list_models())


def build(name: str, weights: str | None, image_size: int | None) -> Encoder:
    """Build `timm:NAME` without its classifier, with the preprocessing that its weights were trained with."""
    import timm
    from timm.data import resolve_data_config  # type: ignore[attr-defined]

    module: Any = downloading(
        f"timm:{name}", lambda: timm.create_model(name, pretrained=weights is None, num_classes=0)
    )
    source = f"timm {name}"
    if weights is not None:
        source = load_into(module, read_state_dict(weights), weights, head=("head.", "fc.", "classifier."))
    config = resolve_data_config({}, model=module)
    native = int(config["input_size"][-1])
    if image_size not in (None, native) and hasattr(module, "set_input_size"):
        module.set_input_size(img_size=image_size)  # resamples the position embeddings
    elif image_size not in (None, native) and module.pretrained_cfg.get("fixed_input_size"):
        raise UsageError(f"timm:{name} takes {native} pixels only; leave out embed.image_size")
    preprocessing = Preprocessing(
        image_size or native,
        tuple(config["mean"]),
        tuple(config["std"]),
        config["interpolation"] if config["interpolation"] != "random" else "bicubic",
        float(config["crop_pct"]),
    )
    return Encoder(f"timm:{name}", module, preprocessing, int(module.num_features), source)
