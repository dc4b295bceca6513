"""Shape and type of inputs: what a source tells and what the user says, settled, refused and exported."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from bitswap_onnx.converters.native import torch_native
from bitswap_onnx.converters.torch_inputs import INPUT_DTYPES, InputForm, input_dtype_name, settle_input, torch_dtype
from bitswap_onnx.converters.torch_source import load_network
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.errors import BitswapError, ModelError
from bitswap_onnx.experiments.crosscheck.run import crosscheck
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import write_fault_list

IMAGE = InputForm((3, None, None), (3, 224, 224))
PROGRAM = InputForm((7,), (7,), "int64")


class TextClassifier(nn.Module):
    """Token ids (batch, length) → scores (batch, 3)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table = nn.Embedding(50, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.head(self.lstm(self.table(ids))[0].mean(1))
        return result


def token_ids(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 50, (count, 7))


def program(module: nn.Module, example: Tensor, path: Path) -> str:
    sizes = ({0: torch.export.Dim("batch")},)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The tensor attributes", UserWarning)  # of recurrent layers
        torch.export.save(torch.export.export(module.eval(), (example,), dynamic_shapes=sizes), path)
    return str(path)


@pytest.mark.parametrize(
    ("form", "shape", "dtype", "expected"),
    [
        (InputForm(), (3, 8, 8), None, ((3, 8, 8), None, "")),
        (InputForm(), (1, 3, 8, 8), "torch.long", ((1, 3, 8, 8), "int64", "if its first size is the batch, leave")),
        (IMAGE, None, None, ((3, 224, 224), None, "input shape 3,224,224, which the network's source gives")),
        (IMAGE, (3, 96, 64), "FLOAT", ((3, 96, 64), "float32", "")),
        (IMAGE, (5, 3, 96, 64), "half", ((3, 96, 64), "float16", "3,96,64: the first size of 5,3,96,64 is the batch")),
        (PROGRAM, None, None, ((7,), "int64", "input shape 7")),
        (PROGRAM, (1, 7), "int64", ((7,), "int64", "the first size of 1,7 is the batch")),
    ],
)
def test_settled(
    form: InputForm, shape: tuple[int, ...] | None, dtype: str | None, expected: tuple[tuple[int, ...], str | None, str]
) -> None:
    found, kind, notes = settle_input(form, shape, dtype)
    assert (found, kind, len(notes)) == (*expected[:2], bool(expected[2]))
    assert expected[2] in "".join(notes)


@pytest.mark.parametrize(
    ("form", "shape", "dtype", "message"),
    [
        (InputForm(), None, None, "`input_shape`: .* one input without the batch, like 3,32,32; .* does not give it"),
        (InputForm((3, None)), None, None, r"without the batch, 3,\? .*any size"),
        (IMAGE, (1, 96, 96), None, r"without the batch, 3,\?,\? .*; found 1,96,96"),
        (IMAGE, (2, 2, 3, 96, 96), None, "found 2,2,3,96,96"),
        (PROGRAM, (8,), None, "without the batch, 7; found 8"),
        (PROGRAM, None, "float32", "`input_dtype`: the network takes int64, found float32"),
        (PROGRAM, None, "complex64", "`input_dtype`: expected float32, .* found 'complex64'"),
    ],
)
def test_refused(form: InputForm, shape: tuple[int, ...] | None, dtype: str | None, message: str) -> None:
    with pytest.raises(BitswapError, match=message):
        settle_input(form, shape, dtype)


def test_names_of_types() -> None:
    for name in INPUT_DTYPES:
        assert str(torch_dtype(name)) == f"torch.{name}"
        onnx_name = onnx.TensorProto.DataType.Name(onnx.helper.np_dtype_to_tensor_dtype(onnx_type(name)))
        assert input_dtype_name(onnx_name) == input_dtype_name(f"torch.{name}") == name
    for name in ("long", "half", "double", "float", "int"):
        assert torch_dtype(name) is getattr(torch, name)


def onnx_type(name: str) -> np.dtype:
    return onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16) if name == "bfloat16" else np.dtype(name)


def test_token_ids(tmp_path: Path) -> None:
    module, path = TextClassifier(), tmp_path / "text.onnx"
    report = export_torch(module, (7,), path, input_dtype="int64")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    assert set(report.parameters) == set(module.state_dict())
    for name, value in module.state_dict().items():
        assert stored[name].tobytes() == value.numpy().tobytes()
    ids = token_ids(40)
    scores = ort.InferenceSession(path).run(None, {"input": ids})[0]
    with torch.no_grad():
        np.testing.assert_allclose(scores, module(torch.from_numpy(ids)).numpy(), atol=1e-6)


def test_a_campaign_on_token_ids_agrees_with_pytorch(tmp_path: Path) -> None:
    module, path = TextClassifier(), tmp_path / "text.onnx"
    export_torch(module, (7,), path, input_dtype="int32")  # the ids in the file have 64 bits
    np.savez(tmp_path / "text.npz", x=token_ids(40))
    faults = [
        Injection("table", (Fault("table", (int(token_ids(1)[0, 0]), 2), 29),)),
        Injection("lstm", (Fault("lstm", (3, 2), 29, parameter="weight_hh_l0"),)),
        Injection("head", (Fault("head", (1, 5), 29),)),
    ]
    write_fault_list(tmp_path / "faults.csv", faults)
    natives = [lambda model: torch_native(module)]
    (verdict,) = crosscheck(path, tmp_path / "faults.csv", natives=natives, run=tmp_path / "run", workers=1)
    verdict.check()
    assert verdict.clean.relative < 1e-5
    assert all(row.native["critical"] == row.runtime["critical"] for row in verdict.injections)
    assert sum(row.native["critical"] or 0 for row in verdict.injections) > 0


def test_programs_tell_their_input(tmp_path: Path) -> None:
    module = TextClassifier()
    network = load_network(program(module, torch.zeros(2, 7, dtype=torch.int64), tmp_path / "text.pt2"))
    assert (network.form, network.notes) == (PROGRAM, ())
    export_torch(network.module, (7,), tmp_path / "text.onnx", input_dtype="int64")
    ids = token_ids(5)
    scores = ort.InferenceSession(tmp_path / "text.onnx").run(None, {"input": ids})[0]
    np.testing.assert_allclose(scores, module(torch.from_numpy(ids)).detach().numpy(), atol=1e-6)


def test_half_weights_change_the_type_of_a_program(tmp_path: Path) -> None:
    module = nn.Linear(4, 3)
    source = program(module, torch.zeros(2, 4), tmp_path / "linear.pt2")
    assert load_network(source).form == InputForm((4,), (4,), "float32")
    torch.save(module.half().state_dict(), tmp_path / "half.pt")
    network = load_network(source, tmp_path / "half.pt")
    assert network.form == InputForm((4,), (4,), None)
    export_torch(network.module, (4,), tmp_path / "half.onnx")
    assert onnx.load(tmp_path / "half.onnx").graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize(
    ("build", "shape", "dtype", "message"),
    [
        (TextClassifier, (7,), None, "; it runs with `input_dtype` int64$"),
        (
            TextClassifier,
            (1, 7),
            None,
            r"; it runs with `input_shape` 7 \(.*without the batch\) and `input_dtype` int64$",
        ),
        (
            lambda: nn.Conv2d(3, 4, 3),
            (1, 3, 8, 8),
            None,
            r"; it runs with `input_shape` 3,8,8 \(.*without the batch\)$",
        ),
        (lambda: nn.Linear(3, 4), (3,), "int32", "; it runs with `input_dtype` float32$"),
        (lambda: nn.Linear(3, 4), (5,), None, r"\(batch, 5\): (?!.*it runs with)"),
    ],
)
def test_advice(
    build: Callable[[], nn.Module], shape: tuple[int, ...], dtype: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        export_torch(build(), shape, tmp_path / "m.onnx", input_dtype=dtype)
    assert not list(tmp_path.iterdir())
