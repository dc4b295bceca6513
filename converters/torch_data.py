"""Inputs and labels of PyTorch: tensors, in memory or in a file of torch.save, datasets and data loaders."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.converters.torch_checkpoint import require_torch
from bitswap_onnx.data.in_memory import IN_MEMORY, inputs_and_labels, stored_elements
from bitswap_onnx.data.stored import StoredArray
from bitswap_onnx.errors import DataError

if TYPE_CHECKING:
    import torch

_EXPECTED = "expected a tensor of inputs, a pair (inputs, labels), or a dict with x and y"


def read_tensor_file(path: Path) -> StoredArray:
    """Return the inputs (N, ...) and the labels, if there are any, that a .pt or .pth file holds.

    Loads without running code from the file. Raises DataError for a file that holds anything else, MissingExtraError
    without PyTorch.
    """
    inputs, labels = _pair(_load(path), path)
    return StoredArray(path.stem, path, _array(inputs, path), None if labels is None else _array(labels, path))


def torch_array(values: Any) -> NDArray[Any]:
    """Return a tensor, on any device, or what numpy takes as an array."""
    import torch

    return _array(values.cpu(), IN_MEMORY) if isinstance(values, torch.Tensor) else np.asarray(values)


def read_torch_data(data: Any, most: int | None) -> StoredArray:
    """Return the first inputs, ``most`` of them (None: all), of a PyTorch dataset or of a data loader; raises DataError."""
    from torch.utils.data import DataLoader, IterableDataset, RandomSampler

    if not isinstance(data, DataLoader):
        rows = data if isinstance(data, IterableDataset) else (data[row] for row in range(len(data)))
        return stored_elements(rows, torch_array, batched=False, most=most)
    if isinstance(data.sampler, RandomSampler):
        raise DataError(
            f"{IN_MEMORY}: expected a DataLoader that keeps an order, found shuffle=True; give its dataset, or "
            "shuffle=False: outcomes belong to inputs by their place"
        )
    return stored_elements(data, torch_array, batched=data.batch_sampler is not None, most=most)


def _load(path: Path) -> Any:
    require_torch()
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Can only" in str(error):
            raise DataError(
                f"{path}: {_EXPECTED}, found pickled objects, which could run code when loaded; save the tensors alone: "
                "torch.save((x, y), 'data.pt')"
            ) from None
        raise DataError(f"{path}: {_EXPECTED}; the file cannot be unpickled") from None
    except Exception as error:  # torch raises whatever a damaged file makes it stumble over
        raise DataError(f"{path}: {_EXPECTED}; reading failed: {str(error).partition(chr(10))[0][:200]}") from None


def _pair(content: Any, path: Path) -> tuple[Any, Any]:
    import torch

    inputs, labels = inputs_and_labels(content)
    if isinstance(labels, list | tuple) and all(isinstance(label, int) for label in labels):
        labels = torch.tensor(labels)
    if not isinstance(inputs, torch.Tensor) or not isinstance(labels, torch.Tensor | None):
        named = ", ".join(map(str, content))[:80] if isinstance(content, Mapping) else type(content).__name__
        raise DataError(f"{path}: {_EXPECTED}, found {named}; save with torch.save((x, y), 'data.pt')")
    return inputs, labels


def _array(tensor: "torch.Tensor", path: Path | str) -> NDArray[Any]:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise DataError(
            f"{path}: expected plain tensors of numbers, found {tensor.dtype}, {tensor.layout}; save x.dense()"
        )
    tensor = tensor.detach()
    return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())  # float32 holds bfloat16
