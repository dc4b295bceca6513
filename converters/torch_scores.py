"""Scores as files of PyTorch."""

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def save_tensor(array: NDArray[np.float32], file: IO[Any]) -> None:
    """Write an array as a tensor, which ``torch.load(weights_only=True)`` reads."""
    import torch

    torch.save(torch.from_numpy(np.ascontiguousarray(array)), file)
