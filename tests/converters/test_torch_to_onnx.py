"""The PyTorch exporter: weights bit for bit, and where layers and modules went, against PyTorch and ONNX Runtime."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from bitswap_onnx.converters import bit_exact
from bitswap_onnx.converters.simplify import simplify as original_simplify
from bitswap_onnx.converters.torch_to_onnx import ExportedModel, export_torch
from bitswap_onnx.errors import BitswapError, ControlFailedError, MissingExtraError, ModelError
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.targets import find_targets
from tests.torch_networks import Clashing, Mixed, Tied, Transformer, lived_in, small_cnn


def run(path: Path, x: Tensor) -> NDArray[Any]:
    session = ort.InferenceSession(path)
    scores: NDArray[Any] = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    return scores


def metadata(path: Path) -> dict[str, Any]:
    return load_model(path).metadata


def initializers(path: Path) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (small_cnn, (3, 6, 6)),
        (Mixed, (3, 6, 6)),
        (Tied, (4,)),
        (Transformer, (4, 6)),
        (Clashing, (3,)),
        (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.GroupNorm(2, 4), nn.PReLU(4)), (2, 5, 5)),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), (4,)),
        (lambda: nn.Linear(4, 3).double(), (4,)),
    ],
    ids=["cnn", "mixed", "tied", "transformer", "clashing", "norms", "weight_norm", "double"],
)
@pytest.mark.parametrize("opset", [18, 20])
def test_same_bits_and_same_scores(
    build: Callable[[], nn.Module], shape: tuple[int, ...], opset: int, tmp_path: Path
) -> None:
    module = build()
    module = module if isinstance(module, Tied) else lived_in(module)
    path = tmp_path / "m.onnx"
    report = export_torch(module, shape, path, opset=opset)
    state = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    stored = initializers(path)
    assert set(report.parameters) == {name for name in state if name in stored}
    for name in report.parameters:
        assert stored[name].tobytes() == state[name].detach().numpy().tobytes()
        assert stored[name].shape == state[name].shape
    assert set(report.parameters) | set(report.unused) | set(report.tied) == set(state)
    x = torch.rand(3, *shape, dtype=next(module.parameters()).dtype)
    with torch.no_grad():
        assert np.allclose(run(path, x), module.eval()(x).numpy(), atol=1e-5)
    proto = onnx.load(path)
    assert (proto.opset_import[0].version, proto.ir_version <= 13) == (opset, True)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_batch_norm_stays_and_constants_go(tmp_path: Path) -> None:
    export_torch(small_cnn(), (3, 6, 6), tmp_path / "m.onnx")
    assert operators(tmp_path / "m.onnx") == ["Conv", "BatchNormalization", "Relu", "Reshape", "Gemm"]
    assert sorted(initializers(tmp_path / "m.onnx").keys() - small_cnn().state_dict().keys()) == ["view_shape"]
    assert len(onnx.load(tmp_path / "m.onnx").graph.node[0].input) == 2


def test_a_bias_of_zeros_stays(tmp_path: Path) -> None:
    module = small_cnn(bias=True)
    nn.init.zeros_(module.get_parameter("0.bias"))
    assert "0.bias" in export_torch(module, (3, 6, 6), tmp_path / "m.onnx").parameters


def test_linear_keeps_its_layout_at_any_rank(tmp_path: Path) -> None:
    export_torch(nn.Linear(4, 3), (4,), tmp_path / "two.onnx")
    export_torch(nn.Linear(4, 3), (5, 4), tmp_path / "three.onnx")
    assert operators(tmp_path / "two.onnx") == ["Gemm"]
    assert operators(tmp_path / "three.onnx") == ["Transpose", "MatMul", "Add"]
    for name in ("two", "three"):
        assert initializers(tmp_path / f"{name}.onnx")["weight"].shape == (3, 4)


def test_half_precision(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        module = nn.Linear(4, 3).to(dtype)
        export_torch(module, (4,), tmp_path / "m.onnx")
        assert initializers(tmp_path / "m.onnx")["weight"].tobytes() == bytes(
            module.weight.data.view(torch.uint8).numpy()
        )


def test_recurrent_weights_are_not_reordered(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.lstm(x)[0]
            return result

    module = Recurrent()
    report = export_torch(module, (4, 3), tmp_path / "m.onnx")
    assert len(report.parameters) == 4
    x = torch.rand(2, 4, 3)
    with torch.no_grad():
        assert np.allclose(run(tmp_path / "m.onnx", x), module(x).numpy(), atol=1e-6)


def test_tied_parameters_are_stored_once(tmp_path: Path) -> None:
    report = export_torch(Tied(), (4,), tmp_path / "m.onnx")
    assert report.tied == {"b.weight": "a.weight", "c.weight": "a.weight"}
    assert set(initializers(tmp_path / "m.onnx")) == {"a.weight", "a.bias", "b.bias", "c.bias"}
    found = metadata(tmp_path / "m.onnx")
    assert found["tied"] == report.tied
    assert found["parameters"]["a.weight"] == {
        "layer": "a",
        "parameter": "weight",
        "aliases": ["b.weight", "c.weight"],
    }
    target = next(target for target in find_targets(load_model(tmp_path / "m.onnx")) if target.tensor == "a.weight")
    assert target.names == (("a", "weight"), ("b", "weight"), ("c", "weight"))


def test_unused_parameters_are_named(tmp_path: Path) -> None:
    report = export_torch(Mixed(), (3, 6, 6), tmp_path / "m.onnx")
    assert set(report.unused) == {
        *("blocks.0.bn.num_batches_tracked", "blocks.1.bn.num_batches_tracked"),
        *("never.weight", "never.bias", "dead.weight", "dead.bias"),
    }
    assert metadata(tmp_path / "m.onnx")["unused"] == list(report.unused)
    assert not set(report.unused) & set(initializers(tmp_path / "m.onnx"))


def test_bare_parameters_keep_their_names(tmp_path: Path) -> None:
    export_torch(Transformer(), (4, 6), tmp_path / "m.onnx")
    entries = metadata(tmp_path / "m.onnx")["parameters"]
    assert entries["class_token"] == {"layer": "", "parameter": "class_token"}
    assert entries["encoder.pos_embedding"] == {"layer": "encoder", "parameter": "pos_embedding"}
    names = {(target.layer, target.parameter) for target in find_targets(load_model(tmp_path / "m.onnx"))}
    assert {("class_token", "class_token"), ("encoder", "pos_embedding")} <= names


def outputs_of_modules(module: nn.Module, x: Tensor) -> dict[str, list[Tensor]]:
    """Return the outputs of each module of the native network, call by call."""
    seen: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _, __, output: seen.setdefault(path, []).append(output.clone())

    handles = [child.register_forward_hook(keep(path)) for path, child in module.named_modules()]
    with torch.no_grad():
        module.eval()(x)
    for handle in handles:
        handle.remove()
    return seen


def test_modules_lead_to_their_values(tmp_path: Path) -> None:
    module = lived_in(Mixed())
    report = export_torch(module, (3, 6, 6), tmp_path / "m.onnx")
    found = metadata(tmp_path / "m.onnx")
    entries = {**found["modules"], **found["vanished"]}
    x = torch.randn(2, 3, 6, 6)
    expected = outputs_of_modules(module, x)
    assert entries.keys() == expected.keys() - {"dead"}
    assert set(report.vanished) == set(found["vanished"])
    assert set(report.vanished) == {"drop", "blocks.0.drop", "blocks.0.same", "blocks.1.drop", "blocks.1.same"}
    proto = onnx.load(tmp_path / "m.onnx")
    names = sorted({name for entry in entries.values() for name in entry.get("values", [entry["value"]])})
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "output")
    session = ort.InferenceSession(proto.SerializeToString())
    values = dict(zip(names, session.run(names, {"input": x.numpy()}), strict=True))
    for path, entry in entries.items():
        calls = entry.get("values", [entry["value"]])
        assert entry["type"] == type(module.get_submodule(path)).__name__
        assert len(calls) == len(expected[path])
        for name, native in zip(calls, expected[path], strict=True):
            assert np.allclose(values[name], native.numpy(), atol=1e-5), path


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    module = Mixed().train()
    module.blocks[0].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export_torch(module, (3, 6, 6), tmp_path / "m.onnx")
    assert module.training
    assert module.blocks[1].training
    assert not module.blocks[0].training
    assert all(not child._forward_hooks and not child._forward_pre_hooks for child in module.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_two_exports_are_equal_bytes_without_local_paths(tmp_path: Path) -> None:
    module = small_cnn()
    for name in ("a.onnx", "b.onnx"):
        export_torch(module, (3, 6, 6), tmp_path / name)
    content = (tmp_path / "a.onnx").read_bytes()
    assert content == (tmp_path / "b.onnx").read_bytes()
    assert str(Path(__file__).parent).encode() not in content
    assert b"pkg.torch" not in content


def test_metadata_says_where_the_model_comes_from(tmp_path: Path) -> None:
    export_torch(small_cnn(), (3, 6, 6), tmp_path / "m.onnx")
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    found = json.loads(properties["bitswap_onnx"])
    assert (found["version"], found["framework"], found["layout"]) == (1, "torch", "torch")
    assert found["framework_version"] == torch.__version__
    assert found["modules"]["0"] == {"type": "Conv2d", "value": "conv2d"}


def test_large_models_get_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bit_exact, "INLINE_LIMIT", 100)
    module = small_cnn().eval()
    export_torch(module, (3, 6, 6), tmp_path / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert load_model(tmp_path / "m.onnx").has_external_data
    x = torch.rand(2, 3, 6, 6)
    with torch.no_grad():
        assert np.allclose(run(tmp_path / "m.onnx", x), module(x).numpy(), atol=1e-6)


def flip_one_bit(model: ir.Model) -> None:
    value = model.graph.initializers["0.weight"]
    assert value.const_value is not None
    changed = value.const_value.numpy().copy()
    changed.view(np.uint32)[3, 2, 1, 0] ^= 1
    value.const_value = ir.tensor(changed, name=value.name)


def rename(model: ir.Model) -> None:
    model.graph.initializers["0.weight"].name = "val_0"


def transpose(model: ir.Model) -> None:
    value = model.graph.initializers["4.weight"]
    assert value.const_value is not None
    changed = np.ascontiguousarray(value.const_value.numpy().T)
    value.const_value = ir.tensor(changed, name=value.name)
    value.shape = ir.Shape(changed.shape)


def lose_a_name(model: ir.Model) -> None:
    for node in model.graph:
        node.outputs[0].name = "twice"


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (flip_one_bit, "0.weight.*1 of 108 elements changed"),
        (rename, "0.weight is missing"),
        (transpose, r"4.weight.*shape \(64, 5\) instead of \(5, 64\)"),
        (lose_a_name, "not a valid ONNX model"),
    ],
)
def test_a_corrupted_export_is_refused(
    corrupt: Callable[[ir.Model], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"what was there before")

    def simplify(model: ir.Model, parameters: dict[str, ir.Value]) -> dict[str, ir.Value]:
        replaced = original_simplify(model, parameters)
        corrupt(model)
        return replaced

    monkeypatch.setattr("bitswap_onnx.converters.torch_to_onnx.simplify", simplify)
    with pytest.raises(ControlFailedError, match=message) as caught:
        export_torch(small_cnn(), (3, 6, 6), path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_bytes() == b"what was there before"


def fixed_batch(tmp_path: Path) -> ExportedModel:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(2, 3).relu()

    return export_torch(Fixed(), (3,), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (fixed_batch, r"Fixed: PyTorch cannot export it for inputs \(batch, 3\): .*static shape of 2"),
        (lambda p: export_torch(nn.Linear(3, 3), (4,), p / "m.onnx"), r"Linear: .* \(batch, 4\): .*\[3, 3\]"),
        (lambda p: export_torch(nn.Linear(3, 3), (3,), p / "m.onnx", opset=17), "`opset`: expected 18 to 20, found 17"),
        (
            lambda p: export_torch(nn.Linear(3, 3), cast(Any, "3"), p / "m.onnx"),
            "`example_input`: .* positive sizes .* found '3'",
        ),
        (lambda p: export_torch(nn.Linear(3, 3), (0,), p / "m.onnx"), r"`example_input`: expected .*, found \(0,\)"),
        (lambda p: export_torch(nn.Linear(3, 3), (3,), p / "no" / "m.onnx"), "cannot write the model: No such file"),
    ],
)
def test_what_cannot_be_exported(attempt: Callable[[Path], ExportedModel], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        attempt(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(3, 3)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bitswap-onnx\[torch\]'") as caught:
        export_torch(module, (3,), tmp_path / "m.onnx")
    assert isinstance(caught.value, BitswapError)
