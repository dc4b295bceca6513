"""Loads checkpoints into PyTorch networks: finds the state dict and the prefix of its names that fit the network."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bitswap_onnx.converters.torch_checkpoint import find_state_dicts, listed
from bitswap_onnx.errors import ModelError, amount

if TYPE_CHECKING:
    import torch
    from torch import nn

#: What training scripts, Lightning, DataParallel and torch.compile put before names, stacked in any order.
_PREFIXES = ("model.", "module.", "_orig_mod.", "net.")

_COUNTER = "num_batches_tracked"
_SHOWN = 3


@dataclass(frozen=True)
class _Fit:
    """A state dict seen from a network: ``tensors`` have the network's names, ``outside`` those without ``prefix``."""

    place: str
    prefix: str
    tensors: dict[str, "torch.Tensor"]
    outside: list[str]
    score: tuple[int, int]


def load_weights(module: "nn.Module", file: str | Path, key: str | None = None) -> tuple[str, ...]:
    """Load a checkpoint, which must hold every parameter with its shape, into ``module``; return notes for the user.

    Of the state dicts in the file, or of those under ``key`` (a dotted path), the one that has most of the network's names
    is taken. Before its names may stand ``model.``, ``module.``, ``_orig_mod.`` and ``net.``, in any order; tensors
    without the chosen prefix are left out. Where all its floats have another type than the network's, the network is
    converted, so that the bits stay the checkpoint's. The notes say what was left out and what was converted.

    Raises ModelError naming the first parameters that are missing, unexpected or different, and where several different
    state dicts fit.
    """
    expected = module.state_dict()
    found = find_state_dicts(file, key)
    fit = _best([_fit(place, tensors, expected) for place, tensors in found.items()], file)
    weights = fit.tensors | _tied(expected, fit.tensors)
    dtype = _other_float(weights, expected)
    if dtype is not None:
        expected = {name: value.to(dtype) if value.is_floating_point() else value for name, value in expected.items()}
    _check(fit, weights, expected, f"{file}: these are not the network's weights: ", found)
    notes = []
    if fit.outside:
        names = ", ".join(fit.outside[:_SHOWN]) + (", ..." if len(fit.outside) > _SHOWN else "")
        notes.append(
            f"left out of the checkpoint: {amount(len(fit.outside), 'tensor')} without {fit.prefix!r} ({names})"
        )
    if dtype is not None:
        module.to(dtype)
        notes.append(f"the checkpoint has {_name(dtype)} weights: the network is converted to {_name(dtype)}")
    counters = {name: tensor for name, tensor in expected.items() if name.endswith(_COUNTER)}
    module.load_state_dict(counters | weights)
    return tuple(notes)


def _fit(place: str, tensors: Mapping[str, "torch.Tensor"], expected: Mapping[str, "torch.Tensor"]) -> _Fit:
    """Return the view of a state dict under the shortest prefix that matches most of the network's names and shapes."""
    fits = []
    for prefix in sorted({prefix for name in tensors for prefix in _prefixes(name)}, key=len):
        inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        known = [name for name in inside if name in expected and not name.endswith(_COUNTER)]
        shaped = sum(inside[name].shape == expected[name].shape for name in known)
        outside = [name for name in tensors if not name.startswith(prefix)]
        fits.append(_Fit(place, prefix, inside, outside, (shaped, len(known))))
    return max(fits, key=lambda fit: fit.score)


def _prefixes(name: str) -> Iterator[str]:
    """Yield all stacks of known prefixes that ``name`` begins with, the empty one first."""
    yield ""
    start = 0
    while word := next((each for each in _PREFIXES if name.startswith(each, start)), ""):
        start += len(word)
        yield name[:start]


def _best(fits: list[_Fit], file: str | Path) -> _Fit:
    first, *others = sorted(fits, key=lambda fit: fit.score, reverse=True)
    rivals = [fit for fit in others if fit.score == first.score and not _same(fit.tensors, first.tensors)]
    if rivals and any(first.score):
        names = listed({fit.place: None for fit in (first, *rivals)})
        raise ModelError(f"{file}: several different state dicts fit the network ({names}); choose one with `key`")
    return first


def _same(one: Mapping[str, "torch.Tensor"], other: Mapping[str, "torch.Tensor"]) -> bool:
    """Return whether two state dicts have the same names, types, shapes and bits."""
    import torch

    return one.keys() == other.keys() and all(
        _kind(one[name]) == _kind(other[name])
        and torch.equal(*(each[name].contiguous().flatten().view(torch.uint8) for each in (one, other)))
        for name in one
    )


def _tied(expected: Mapping[str, "torch.Tensor"], weights: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """Return names that ``weights`` lack because the network stores them with another one, which safetensors leaves out."""
    places = {_place(expected[name]): tensor for name, tensor in weights.items() if name in expected}
    absent = {name: _place(tensor) for name, tensor in expected.items() if name not in weights and tensor.numel()}
    return {name: places[place] for name, place in absent.items() if place in places}


def _place(tensor: "torch.Tensor") -> tuple[object, ...]:
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _other_float(weights: Mapping[str, "torch.Tensor"], expected: Mapping[str, "torch.Tensor"]) -> "torch.dtype | None":
    """Return the type of all floats among ``weights`` if it is one type, and not the network's."""
    floats = {name: tensor for name, tensor in weights.items() if name in expected and tensor.is_floating_point()}
    dtypes = {tensor.dtype for tensor in floats.values()}
    if len(dtypes) != 1 or all(tensor.dtype == expected[name].dtype for name, tensor in floats.items()):
        return None
    return dtypes.pop()


def _check(
    fit: _Fit,
    weights: Mapping[str, "torch.Tensor"],
    expected: Mapping[str, "torch.Tensor"],
    message: str,
    found: Mapping[str, object],
) -> None:
    wrong = {
        "missing": [name for name in expected if name not in weights and not name.endswith(_COUNTER)],
        "unexpected": [fit.prefix + name for name in weights if name not in expected],
        "different": [
            f"{name} {_kind(tensor)} instead of {_kind(expected[name])}"
            for name, tensor in weights.items()
            if name in expected and _kind(tensor) != _kind(expected[name])
        ],
    }
    if any(wrong.values()):
        parts = [f"{len(names)} {label} ({', '.join(names[:_SHOWN])})" for label, names in wrong.items() if names]
        where = "" if list(found) == [""] else f"; read from {listed({fit.place: None})} of {listed(found)}"
        raise ModelError(f"{message}{'; '.join(parts)}{where}")


def _kind(tensor: "torch.Tensor") -> str:
    return f"{_name(tensor.dtype)}{list(tensor.shape)}"


def _name(dtype: "torch.dtype") -> str:
    return str(dtype).removeprefix("torch.")
