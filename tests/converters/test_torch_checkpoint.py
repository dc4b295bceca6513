"""Checkpoints: what is unwrapped, and what is refused without being run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitswap_onnx.converters.torch_checkpoint import load_state_dict_file
from bitswap_onnx.errors import ModelError

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.zeros(2)}
PARALLEL = {f"module.{name}": value for name, value in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        PARALLEL,
        {"state_dict": PARALLEL, "best_prec1": 92.6},
        {"model": STATE, "epoch": 3},
        {"net": PARALLEL, "acc": 95.0},
    ],
    ids=["plain", "parallel", "state_dict", "model", "net"],
)
def test_state_dicts(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    loaded = load_state_dict_file(tmp_path / "w.pt")
    assert list(loaded) == list(STATE)
    assert all(torch.equal(loaded[name], STATE[name]) for name in STATE)


def test_a_module_called_module_keeps_its_name(tmp_path: Path) -> None:
    torch.save({"module.weight": torch.ones(2), "head.weight": torch.ones(2)}, tmp_path / "w.pt")
    assert list(load_state_dict_file(tmp_path / "w.pt")) == ["module.weight", "head.weight"]


def write(path: Path, case: str) -> None:
    match case:
        case "pickled module":
            torch.save(nn.Linear(2, 2), path)
        case "list":
            torch.save([torch.ones(2)], path)
        case "numbers":
            torch.save({"epoch": 3}, path)
        case "empty state":
            torch.save({"state_dict": {}}, path)
        case "text":
            path.write_text("Injection,Layer,TensorIndex,Bit\n")
        case "empty":
            path.write_bytes(b"")
        case "cut":
            torch.save(STATE, path)
            path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "cannot read the checkpoint: No such file"),
        ("pickled module", r"could run code.*torch\.save\(model\.state_dict\(\)"),
        ("list", "expected a state dict .* found list"),
        ("numbers", "expected a state dict .* found int under 'epoch'"),
        ("empty state", "expected a state dict"),
        ("text", "not a PyTorch checkpoint"),
        ("empty", "not a PyTorch checkpoint"),
        ("cut", "not a PyTorch checkpoint"),
    ],
)
def test_refusals(case: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "w.pt", case)
    with pytest.raises(ModelError, match=message) as caught:
        load_state_dict_file(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
