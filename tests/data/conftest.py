from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitswap_onnx.data.dataset import Dataset, load_dataset
from bitswap_onnx.data.preprocessing import Preprocessing
from tests.datasets import F32, Make


@pytest.fixture
def load(tmp_path: Path) -> Make:
    """Store ``x`` (and ``y``) as an .npz and load it for a model of ``shape``."""

    def load(
        x: NDArray[Any], shape: tuple[int, ...], dtype: Any = F32, y: NDArray[Any] | None = None, **options: Any
    ) -> Dataset:
        arrays: dict[str, Any] = {"x": x} if y is None else {"x": x, "y": y}
        np.savez(tmp_path / "some.npz", **arrays)
        names = Preprocessing.__dataclass_fields__
        preprocessing = Preprocessing(**{key: options.pop(key) for key in list(options) if key in names})
        path = tmp_path / "some.npz"
        return load_dataset(path, input_shape=shape, dtype=np.dtype(dtype), preprocessing=preprocessing, **options)

    return load
