"""Checkpoints of PyTorch and safetensors files, read without running code from them."""

import os
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitswap_onnx.errors import MissingExtraError, ModelError, one_line

if TYPE_CHECKING:
    import torch

#: Words that mark an averaged copy of the weights in a key such as ``model_ema`` or ``ema.state_dict``.
_AVERAGED = {"ema", "swa"}

#: A file can hold a mapping that contains itself; no checkpoint nests its state dict deeper than this.
_DEPTH = 8

_PICKLED = (
    "expected a state dict, found pickled objects, which could run code when loaded; where the file was made, save "
    "it again with torch.save(model.state_dict(), 'weights.pt')"
)


class _TakesItems(type):
    """Makes a class equal to `dict`: PyTorch's restricted reader puts items only into objects whose class is `dict`."""

    def __eq__(cls, other: object) -> bool:
        return other is dict or cls is other

    __hash__ = type.__hash__


class _Placeholder(dict[Any, Any], metaclass=_TakesItems):
    """Stands for every object in a checkpoint that is neither a tensor nor plain data; each class gets a class of its own.

    It keeps the items of dictionaries of other classes, and ignores arguments and state.
    """

    def __new__(cls, *_: object) -> "_Placeholder":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass


def require_torch() -> None:
    """Raise MissingExtraError, with the command that installs it, where PyTorch is missing."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError("PyTorch is not installed; it comes with: pip install 'bitswap-onnx[torch]'") from None


@contextmanager
def restricted_unpickling() -> Iterator[None]:
    """Make every `torch.load` refuse content that could run code, whatever arguments it gets."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def load_state_dict_file(path: str | Path, key: str | None = None) -> dict[str, "torch.Tensor"]:
    """Return the one state dict in a checkpoint (see `find_state_dicts`), on the CPU.

    Removes DataParallel's prefix ``module.`` where all names have it.

    Raises ModelError for a file that cannot be read, and for one that holds no state dict or several,
    MissingExtraError without PyTorch.
    """
    found = find_state_dicts(path, key)
    if len(found) > 1:
        raise ModelError(f"{path}: several state dicts are in it ({listed(found)}); choose one with `key`")
    (content,) = found.values()
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}


def find_state_dicts(path: str | Path, key: str | None = None) -> dict[str, dict[str, "torch.Tensor"]]:
    """Return the state dicts in a checkpoint, on the CPU, by the dotted path of keys to each; at the top it is empty.

    A state dict is any mapping with tensors under names; its other entries are ignored. ``key`` limits the search to
    one path and what lies under it. Without it, averaged copies (EMA, SWA) are left out.

    Raises ModelError for a file that cannot be read, that holds no state dict, or that holds a pickled module, and
    MissingExtraError without PyTorch or safetensors.
    """
    path = Path(path)
    content = _read(path)
    found = dict(_search(content, ""))
    if not found:
        raise ModelError(f"{path}: {_no_state_dict(content)}")
    if key is not None:
        chosen = {place: tensors for place, tensors in found.items() if f"{place}.".startswith(f"{key}.")}
        if not chosen:
            raise ModelError(f"{path}: no state dict under `key` {key!r}; those in the file: {listed(found)}")
        return chosen
    plain = {place: tensors for place, tensors in found.items() if not _AVERAGED & set(re.split("[._]", place.lower()))}
    if not plain:
        raise ModelError(f"{path}: only averaged weights are in it ({listed(found)}); choose them with `key`")
    return plain


def listed(names: Mapping[str, object]) -> str:
    """Return the paths of state dicts, the first few, as text for a message."""
    shown = [repr(name) if name else "the top of the file" for name in names]
    return ", ".join(shown[:5]) + (f", ... {len(shown)} in all" if len(shown) > 5 else "")


def _search(content: Any, place: str, depth: int = 0) -> Iterator[tuple[str, dict[str, "torch.Tensor"]]]:
    import torch

    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    if tensors:
        yield place, tensors
    for name, value in named.items():
        yield from _search(value, f"{place}.{name}" if place else name, depth + 1)


def _no_state_dict(content: Any) -> str:
    values = list(content.values()) if isinstance(content, Mapping) else [content]
    if any(isinstance(value, _Placeholder) for value in [content, *values]):
        return f"{_PICKLED}; in the file: {_kinds(content)}"
    expected = "expected a state dict (names to tensors), found"
    if not isinstance(content, Mapping) or not content:
        return f"{expected} {type(content).__name__}"
    return f"{expected} {_kinds(content)}; save the state dict alone, or under 'state_dict'"


def _kinds(content: Any) -> str:
    """Return the types of the first entries in a checkpoint, with their keys, or its own type if it has none."""
    if not isinstance(content, Mapping) or not content:
        return type(content).__name__
    kinds = [f"{type(value).__name__} under {name!r}" for name, value in content.items()]
    return ", ".join(kinds[:3]) + (f" and {len(kinds) - 3} more" if len(kinds) > 3 else "")


def _read(path: Path) -> Any:
    require_torch()
    try:
        return _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the checkpoint: {error.strerror or one_line(error)}") from None


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise MissingExtraError(
            "safetensors is not installed; it comes with: pip install 'bitswap-onnx[torch]'"
        ) from None
    with path.open("rb"):  # the library's own errors of the system have no reason apart from the path
        pass
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file: {one_line(error)}") from None


def _read_pickle(path: Path) -> Any:
    import torch

    foreign = _foreign(path)
    try:
        with torch.serialization.safe_globals([(_stand_in(name), name) for name in foreign]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        has_objects = "GLOBAL" in str(error) or "Can only" in str(error)
        objects = f"{_PICKLED}; in the file: objects of {', '.join(sorted(foreign)[:3])}"
        other = "not a PyTorch checkpoint, or not with the pickle protocol of torch.save: it cannot be unpickled"
        reason = objects if has_objects else other
        raise ModelError(f"{path}: {reason}") from None
    except Exception as error:  # torch raises whatever a damaged file makes it stumble over
        raise ModelError(f"{path}: not a PyTorch checkpoint: {str(error).partition(chr(10))[0]}") from None


def _stand_in(name: str) -> type:
    """Return a class for the objects of the class ``name``, or for what the function ``name`` returns."""
    return _TakesItems(name.rpartition(".")[2], (_Placeholder,), {})


def _foreign(path: Path) -> list[str]:
    """Return the names of the classes and functions in a checkpoint that are not PyTorch's own data types."""
    import torch

    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except OSError:
        raise
    except Exception:  # of PyTorch before 1.6, or no checkpoint: `torch.load` judges it
        return []
