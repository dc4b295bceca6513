"""PyTorch checkpoints, read without running code from them."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitswap_onnx.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    import torch

#: Keys under which checkpoints hold a state dict.
_WRAPPERS = ("state_dict", "model", "net")


def require_torch() -> None:
    """Raise MissingExtraError, with the command that installs it, where PyTorch is missing."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError("PyTorch is not installed; it comes with: pip install 'bitswap-onnx[torch]'") from None


def load_state_dict_file(path: str | Path) -> dict[str, "torch.Tensor"]:
    """Return the state dict in a checkpoint, on the CPU.

    Unwraps the keys ``state_dict``, ``model`` and ``net``, and removes DataParallel's prefix ``module.`` from all names.

    Raises ModelError for a file that cannot be read, that holds no state dict, or that holds a pickled module, and
    MissingExtraError without PyTorch.
    """
    require_torch()
    import torch

    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the checkpoint: {error.strerror}") from None
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: {_unpicklable(error)}") from None
    except (RuntimeError, EOFError, ValueError) as error:
        raise ModelError(f"{path}: not a PyTorch checkpoint: {str(error).partition(chr(10))[0]}") from None
    return _state_dict(content, path)


def _unpicklable(error: pickle.UnpicklingError) -> str:
    if "GLOBAL" not in str(error):
        return "not a PyTorch checkpoint: it cannot be unpickled"
    return (
        "expected a state dict, found pickled objects, which could run code when loaded; where the file was made, save "
        "it again with torch.save(model.state_dict(), 'weights.pt')"
    )


def _state_dict(content: Any, path: Path) -> dict[str, "torch.Tensor"]:
    import torch

    content = _unwrap(content)
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path}: expected a state dict (names to tensors), found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"{path}: expected a state dict (names to tensors), found {type(value).__name__} under {name!r}; save "
                "the state dict alone, or under 'state_dict'"
            )
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _unwrap(content: Any) -> Any:
    if isinstance(content, Mapping):
        for key in _WRAPPERS:
            if isinstance(content.get(key), Mapping):
                return content[key]
    return content
