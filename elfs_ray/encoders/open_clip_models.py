"""Image towers of open_clip: CLIP, SigLIP, DFN and others."""

from typing import Any

from torch import Tensor, nn

from elfs_ray.encoders.base import Encoder, Preprocessing
from elfs_ray.encoders.weights import downloading, load_into, read_state_dict, unknown_name
from elfs_ray.errors import UsageError


class _ImageTower(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.visual

    def forward(self, images: Tensor) -> Tensor:
        vectors: Tensor = self.visual(images)
        return vectors


def check(name: str, *, has_weights: bool) -> None:
    """Refuse a model, or pretrained weights, that open_clip does not have."""
    import open_clip

    model, _, pretrained = name.partition("/")
    if model not in open_clip.list_models():
        raise unknown_name("open_clip", model, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(model)
    if has_weights or pretrained in tags:
        return
    if not pretrained:
        raise UsageError(
            f"open_clip:{name} names no weights; write open_clip:{model}/PRETRAINED with one of {', '.join(tags)}"
        )
    raise unknown_name(f"open_clip model {model}", pretrained, tags)


def build(name: str, weights: str | None, image_size: int | None) -> Encoder:
    """Build `open_clip:MODEL/PRETRAINED`, the image tower alone, with its own preprocessing."""
    import open_clip
    from open_clip.model import resize_pos_embed

    model_name, _, pretrained = name.partition("/")
    options: dict[str, Any] = {"force_image_size": image_size} if image_size else {}

    def create() -> Any:
        return open_clip.create_model(
            model_name, pretrained=None if weights else pretrained, load_weights=not weights, **options
        )

    model = downloading(f"open_clip:{name}", create)
    tower = _ImageTower(model)
    source = f"open_clip {name}"
    if weights is not None:
        state = {k: v for k, v in read_state_dict(weights).items() if k.startswith("visual.")}
        resize_pos_embed(state, model)  # for another image size
        source = load_into(tower, state, weights)
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    preprocessing = Preprocessing(
        image_size or (size[0] if isinstance(size, (tuple, list)) else int(size)),
        tuple(config["mean"]),
        tuple(config["std"]),
        config.get("interpolation", "bicubic"),
    )
    return Encoder(
        f"open_clip:{name}", tower, preprocessing, open_clip.get_model_config(model_name)["embed_dim"], source
    )
