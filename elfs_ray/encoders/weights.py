"""Loading weights from a file, safely, into networks whose layers may be named with another prefix."""

import contextlib
import difflib
import logging
import pickle
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from elfs_ray.encoders.weights_files import file_digest, local_copy
from elfs_ray.errors import UsageError, one_line

T = TypeVar("T")
_WRAPPERS = ("state_dict", "model", "teacher", "model_state_dict", "model_state")
_PREFIXES = ("module.", "backbone.", "encoder.", "model.", "_orig_mod.")


def read_state_dict(path: str) -> dict[str, Tensor]:
    """Tensors by name from a `.safetensors` file or a PyTorch checkpoint, never running code from it.

    Raises:
        UsageError: no such file, not a checkpoint, or one that holds more than tensors.
    """
    file = local_copy(path)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UsageError(
            f"weights file {path} holds more than tensors and is not loaded, as it could run code; "
            "save its state_dict() alone with torch.save, or as .safetensors"
        ) from None
    except Exception as error:  # noqa: BLE001 - damaged files raise whatever their bytes lead to
        reason = one_line(error)
        raise UsageError(
            f"weights file {path} cannot be read ({reason}); pass a .pt, .pth or .safetensors file"
        ) from None
    return _unwrap(content, path)


def load_into(module: nn.Module, state: dict[str, Tensor], path: str, *, head: Iterable[str] = ()) -> str:
    """Load tensors into a network; returns a line that says where they came from.

    Args:
        module: the network.
        state: tensors by name.
        path: the file, for the error and the answer.
        head: name prefixes of layers that may be absent from either side, such as a classifier.

    Raises:
        UsageError: the tensors are not those of this network.
    """
    own = module.state_dict()
    prefixes = tuple(head)
    usable = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    needed = [name for name in own if not name.startswith(prefixes) and not name.endswith("num_batches_tracked")]
    missing = [name for name in needed if name not in usable]
    if missing:
        found = len(needed) - len(missing)
        raise UsageError(
            f"weights file {path} is not of this encoder: {found} of {len(needed)} tensors match, "
            f"{missing[0]!r} is missing or has another shape; pass the weights of this architecture"
        )
    module.load_state_dict(usable, strict=False)
    copy = local_copy(path)
    return f"{path} (sha256 {file_digest(copy, copy.stat().st_mtime_ns)})"


def downloading(name: str, build: Callable[[], T]) -> T:
    """Build a network whose weights may have to be downloaded, or are in the hub's cache.

    Raises:
        UsageError: the download failed; the message says how to pass a local file.
    """
    try:
        with _quick_hub():
            return build()
    except UsageError:
        raise
    except Exception as error:
        if not _is_download_error(error):
            raise
        raise UsageError(
            f"the weights of {name} could not be downloaded ({type(error).__name__}); "
            "pass a local file with --weights FILE"
        ) from None


@contextlib.contextmanager
def _quick_hub() -> Iterator[None]:
    """Without a network, look into the hub's cache only: its client would try again for most of a minute."""
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    logging.disable(logging.ERROR)
    try:
        constants.HF_HUB_OFFLINE = was_offline or not _reachable(constants.ENDPOINT)
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        logging.disable(logging.NOTSET)


def _reachable(url: str) -> bool:
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the hub's own https address
        urllib.request.urlopen(request, timeout=5).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True  # it answers
    except OSError:
        return False
    return True


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a mistyped model name, with the closest ones."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"see the models that {kind} lists"
    return UsageError(f"{kind} has no model {name!r}; {hint}")


def _unwrap(content: object, path: str) -> dict[str, Tensor]:
    while isinstance(content, dict):
        inner = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise UsageError(f"weights file {path} holds no tensors by name; save a state_dict() with torch.save")
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    while prefix := next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _is_download_error(error: BaseException) -> bool:
    """Whether an exception, or one behind it, comes from the network or from a model hub."""
    seen: BaseException | None = error
    while seen is not None:
        module = type(seen).__module__.split(".")[0]
        if isinstance(seen, (ConnectionError, TimeoutError, OSError)) or module in (
            "urllib", "requests", "httpx", "httpx2", "httpcore", "huggingface_hub",
        ):  # fmt: skip
            return True
        seen = seen.__cause__ or seen.__context__
    return False
