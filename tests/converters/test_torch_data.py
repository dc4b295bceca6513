"""Datasets in files of torch.save."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.converters.torch_data import read_tensor_file
from bitswap_onnx.errors import DataError
from tests.builders import cnn, normal, save

X, Y = torch.tensor(normal(5, 1, 6, 6)), torch.tensor([3, 1, 0, 1, 2])


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (X, None),
        ((X, Y), [3, 1, 0, 1, 2]),
        ([X, Y.to(torch.uint8)], [3, 1, 0, 1, 2]),
        ({"x": X, "y": Y}, [3, 1, 0, 1, 2]),
        ({"x_test": X, "y_test": [3, 1, 0, 1, 2], "x_train": X[:1]}, [3, 1, 0, 1, 2]),
        ({"data": X.requires_grad_(), "targets": Y[:, None], "epoch": 3}, [[3], [1], [0], [1], [2]]),
        ({"images": X}, None),
    ],
)
def test_tensors(tmp_path: Path, content: Any, labels: Any) -> None:
    torch.save(content, tmp_path / "test.pt")
    stored = read_tensor_file(tmp_path / "test.pt")
    np.testing.assert_array_equal(stored.inputs, X.detach().numpy())
    assert stored.name == "test"
    assert (None if stored.labels is None else stored.labels.tolist()) == labels


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float64, torch.int32, torch.bfloat16])
def test_types_keep_their_values(tmp_path: Path, dtype: torch.dtype) -> None:
    x = (torch.arange(12).reshape(3, 4) * 20).to(dtype)
    torch.save(x.t(), tmp_path / "x.pt")
    found = read_tensor_file(tmp_path / "x.pt").inputs
    assert found.dtype == (np.float32 if dtype == torch.bfloat16 else getattr(np, str(dtype).removeprefix("torch.")))
    np.testing.assert_array_equal(found, x.t().double().numpy())


class Whole(torch.utils.data.TensorDataset):
    """Pickled as an object of its own class."""


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (Whole(X, Y), "found pickled objects, which could run code when loaded; save the tensors alone"),
        ({"model": {"a": X}}, "expected a tensor of inputs, a pair .*, found model; save with torch.save"),
        ((X, Y, Y), "found tuple"),
        (3, "found int"),
        ({"x": X, "y": "labels"}, "found x, y"),
        (X.to_sparse(), "expected plain tensors of numbers, found torch.float32, torch.sparse_coo"),
        (X.to(torch.complex64), "found torch.complex64"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any, complaint: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(DataError, match=complaint) as caught:
        read_tensor_file(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 and then nothing", b"\x80\x02}q\x00"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(DataError, match="expected a tensor of inputs, a pair"):
        read_tensor_file(tmp_path / "x.pt")


def test_a_model_runs_on_tensors(tmp_path: Path) -> None:
    model = save(cnn(), tmp_path / "cnn.onnx")
    torch.save((X.detach(), Y), tmp_path / "test.pt")
    np.savez(tmp_path / "test.npz", x=X.detach().numpy(), y=Y.numpy())
    of_tensors, of_arrays = (prepare(model, Settings(data=tmp_path / f"test.{kind}")).dataset for kind in ("pt", "npz"))
    assert of_tensors.content_hash() == of_arrays.content_hash()
