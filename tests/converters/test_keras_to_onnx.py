"""The Keras exporter: variables bit for bit under their paths, scores, roles and layers, against Keras and ONNX Runtime."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from bitswap_onnx.converters.keras_setup import quiet
from bitswap_onnx.converters.keras_to_onnx import export_keras
from bitswap_onnx.converters.simplify import simplify
from bitswap_onnx.errors import BitswapError, ControlFailedError, MissingExtraError, ModelError
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.targets import Target, find_targets

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
keras: Any = pytest.importorskip("keras")

ROLES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "pointwise_kernel": "weight",
    "bias": "bias",
    "gamma": "bn_scale",
    "beta": "bn_bias",
    "moving_mean": "bn_mean",
    "moving_variance": "bn_var",
}
IMAGES = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)


def sequential() -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, strides=2, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(6),
            keras.layers.MaxPooling2D(),
            keras.layers.SeparableConv2D(6, 2),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(7, activation="softmax"),
        ]
    )


def functional() -> Any:
    """Grouped and depthwise convolutions, a layer that is called twice, batch-norm without its scale."""
    layers = keras.layers
    start = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(start)))
    twice = layers.Conv2D(4, 1, groups=2)
    x = layers.Concatenate()([x, twice(twice(x)), layers.DepthwiseConv2D(3, padding="same")(x)])
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization(scale=False)(x))
    return keras.Model(start, layers.Dense(4)(x))


def subclassed() -> Any:
    class Block(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = keras.layers.Conv2D(3, 3, padding="same")
            self.norm = keras.layers.BatchNormalization()

        def build(self, shape: Any) -> None:
            self.conv.build(shape)
            self.norm.build(shape)

        def call(self, x: Any, training: bool = False) -> Any:
            return x + keras.ops.relu(self.norm(self.conv(x), training=training))

    class Network(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.blocks = [Block(), Block()]
            self.drop = keras.layers.Dropout(0.5)
            self.pool = keras.layers.GlobalAveragePooling2D()
            self.head = keras.layers.Dense(5)

        def call(self, x: Any, training: bool = False) -> Any:
            for block in self.blocks:
                x = block(x, training=training)
            return self.head(self.drop(self.pool(x), training=training))

    network = Network()
    with quiet():
        network(IMAGES)
    return network


def tokens() -> Any:
    """Attention and a recurrent layer, whose cell runs in a loop."""
    start = keras.Input((4, 6))
    x = keras.layers.LayerNormalization()(start + keras.layers.MultiHeadAttention(2, 3)(start, start))
    return keras.Model(start, keras.layers.Dense(3)(keras.layers.LSTM(5)(x)))


def lived_in(model: Any) -> Any:
    """Give every variable other values than its first ones."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if variable.dtype == "float32":
            variable.assign(rng.uniform(0.1, 1, variable.shape).astype(np.float32))
    return model


def predicted(model: Any, inputs: NDArray[Any]) -> NDArray[Any]:
    with quiet():
        return np.asarray(model.predict(inputs, verbose=0))


def run(path: Path, inputs: NDArray[Any], *names: str) -> list[NDArray[Any]]:
    proto = onnx.load(path)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "output")
    session = ort.InferenceSession(proto.SerializeToString())
    return [np.asarray(value) for value in session.run(list(names) or None, {"input": inputs})]


def targets(path: Path) -> dict[str, Target]:
    return {target.tensor: target for target in find_targets(load_model(path))}


@pytest.mark.parametrize("build", [sequential, functional, subclassed])
@pytest.mark.parametrize("opset", [17, 18])
def test_same_bits_same_scores_and_roles(build: Callable[[], Any], opset: int, tmp_path: Path) -> None:
    model = lived_in(build())
    path = tmp_path / "m.onnx"
    report = export_keras(model, path, opset=opset)
    native = {variable.path: np.asarray(variable.value) for variable in model.variables}
    used = {name for name, values in native.items() if values.dtype == np.float32}
    assert set(report.parameters) == used
    assert set(report.unused) == native.keys() - used
    proto = onnx.load(path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for name in used:
        assert stored[name].shape == native[name].shape
        assert stored[name].tobytes() == native[name].tobytes()
    found = targets(path)
    assert found.keys() == used
    for name, target in found.items():
        assert (target.layer, target.parameter) == tuple(name.rsplit("/", 1))
        assert target.role == ROLES[target.parameter]
    scores = predicted(model, IMAGES)
    assert np.allclose(run(path, IMAGES)[0], scores, rtol=1e-5, atol=1e-5 * np.abs(scores).max())
    shape = [dim.dim_param or dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 8, 8, 3]
    assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == ["input", "output"]
    assert proto.ir_version <= 13
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == opset


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_files(suffix: str, tmp_path: Path) -> None:
    model = lived_in(sequential())
    with quiet():
        model.save(tmp_path / f"m.{suffix}")
    report = export_keras(tmp_path / f"m.{suffix}", tmp_path / "m.onnx")
    assert len(report.parameters) == 11
    assert np.allclose(run(tmp_path / "m.onnx", IMAGES)[0], predicted(model, IMAGES), atol=1e-6)


def test_layers_lead_to_their_values(tmp_path: Path) -> None:
    model = lived_in(functional())
    report = export_keras(model, tmp_path / "m.onnx")
    entries = load_model(tmp_path / "m.onnx").metadata["modules"]
    assert report.vanished == ()
    for layer in model.layers[1:]:
        entry = entries[layer.path or layer.name]
        assert entry["type"] == type(layer).__name__
        names = entry.get("values", [entry["value"]])
        outputs = [node.outputs[0] for node in layer._inbound_nodes]
        orders = entry.get("permutations", {})
        values = [run(tmp_path / "m.onnx", IMAGES, name)[0] for name in names]
        values = [
            np.transpose(value, orders.get(name)) if name in orders else value
            for name, value in zip(names, values, strict=True)
        ]
        for value, native in zip(values, outputs, strict=True):
            assert np.allclose(value, predicted(keras.Model(model.inputs, native), IMAGES), rtol=1e-4, atol=1e-4)


def test_attention_and_recurrence(tmp_path: Path) -> None:
    model = lived_in(tokens())
    report = export_keras(model, tmp_path / "m.onnx")
    assert len(report.parameters) == 15
    x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    assert np.allclose(run(tmp_path / "m.onnx", x)[0], predicted(model, x), rtol=1e-4, atol=1e-5)
    layers = {target.layer for target in targets(tmp_path / "m.onnx").values()}
    assert {name.rpartition("/")[0] for name in report.parameters} == layers


def test_vanished_layers_and_metadata(tmp_path: Path) -> None:
    model = sequential()
    report = export_keras(model, tmp_path / "m.onnx")
    found = load_model(tmp_path / "m.onnx").metadata
    assert report.vanished == (model.layers[6].name,)
    assert (found["framework"], found["layout"], found["framework_version"]) == ("keras", "keras", keras.__version__)
    assert found["unused"] == list(report.unused)
    assert len(report.unused) == 1


def test_a_layer_answers_to_its_own_name(tmp_path: Path) -> None:
    model = sequential()
    export_keras(model, tmp_path / "m.onnx")
    conv = model.layers[0]
    target = targets(tmp_path / "m.onnx")[conv.kernel.path]
    assert target.names == ((f"{model.name}/{conv.name}", "kernel"), (conv.name, "kernel"))


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = subclassed()
    before = [np.asarray(variable.value) for variable in model.variables]
    export_keras(model, tmp_path / "m.onnx")
    assert all("call" not in vars(layer) for layer in model._flatten_layers())
    assert all(np.array_equal(a, b.value) for a, b in zip(before, model.variables, strict=True))


def never_called() -> Any:
    return keras.Sequential([keras.layers.Dense(2)])


def two_inputs() -> Any:
    a, b = keras.Input((2,)), keras.Input((2,))
    return keras.Model([a, b], keras.layers.Add()([a, b]))


def equal_names() -> Any:
    start = keras.Input((2,))
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="d")], name="s")
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="d")], name="s")
    outer = keras.Sequential([keras.Input((2,)), other], name="t")
    return keras.Model(start, outer(inner(start)))


def no_counterpart() -> Any:
    start = keras.Input((4,))
    return keras.Model(start, keras.ops.erfinv(start))


@pytest.mark.parametrize(
    ("build", "opset", "message"),
    [
        (never_called, 18, "call it once on an input, or pass `input_shape`"),
        (equal_names, 18, "two variables are called s/d/kernel"),
        (no_counterpart, 18, "no ONNX counterpart of TensorFlow's Erfinv"),
        (sequential, 20, "`opset`: expected 17 to 18, found 20"),
    ],
)
def test_refusals(build: Callable[[], Any], opset: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        export_keras(build(), tmp_path / "m.onnx", opset=opset)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "message"), [("text.h5", "Keras cannot load it"), ("absent.keras", "no such file")])
def test_other_files_are_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no model")
    with pytest.raises(ModelError, match=message):
        export_keras(tmp_path / name, tmp_path / "m.onnx")


def test_a_model_whose_call_takes_no_training(tmp_path: Path) -> None:
    class Network(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.head = keras.layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.head(keras.ops.mean(x, axis=(1, 2)))

    model = Network()
    native = predicted(model, IMAGES)
    export_keras(model, tmp_path / "m.onnx")
    assert np.allclose(run(tmp_path / "m.onnx", IMAGES)[0], native, atol=1e-6)


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    a, b = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    both = keras.layers.Subtract(name="difference")([a, b])
    model = lived_in(keras.Model([a, b], [both, keras.layers.Dense(3, name="scores")(both)]))
    export_keras(model, tmp_path / "m.onnx")
    session = ort.InferenceSession(tmp_path / "m.onnx")
    assert [value.name for value in session.get_inputs()] == ["left", "right"]
    assert [value.name for value in session.get_outputs()] == ["difference", "scores"]
    left, right = np.random.default_rng(0).normal(size=(2, 5, 2)).astype(np.float32)
    with quiet():
        native = model.predict([left, right], verbose=0)
    for found, expected in zip(session.run(None, {"left": left, "right": right}), native, strict=True):
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


def normalizing(given: bool) -> Any:
    values = np.random.default_rng(0).normal(1, 3, (24, 6)).astype(np.float32)
    numbers = {"mean": [0.5] * 6, "variance": [2.0] * 6} if given else {}
    normalization = keras.layers.Normalization(**numbers, name="normalization")
    if not given:
        with quiet():
            normalization.adapt(values)
    layers = [normalization, keras.layers.Rescaling(0.25, 0.5, name="rescaling"), keras.layers.Dense(4, name="dense")]
    return keras.Sequential([keras.Input((6,)), *layers], name="s")


@pytest.mark.parametrize("given", [False, True])
def test_tensors_that_are_no_variables_are_targets(given: bool, tmp_path: Path) -> None:
    model = normalizing(given)
    export_keras(model, tmp_path / "m.onnx")
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    assert len(onnx.load(tmp_path / "m.onnx").graph.input) == 1
    assert np.allclose(run(tmp_path / "m.onnx", x)[0], predicted(model, x), atol=1e-5)
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    found = {target.tensor: target for target in targets(tmp_path / "m.onnx").values()}
    for layer, attributes in zip(model.layers, (("mean", "variance"), ("scale", "offset"), ()), strict=True):
        for attribute in attributes:
            target = found[f"{layer.path}/{attribute}"]
            assert (target.layer, target.parameter) == (layer.path, attribute)
            native = np.asarray(getattr(layer, attribute), np.float32)
            assert stored[target.tensor].tobytes() == native.tobytes()
    assert found[f"{model.layers[0].path}/mean"].shape == ((1, 6) if given else (6,))


def test_other_scores_than_those_of_keras_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: ir.Model, parameters: Any) -> Any:
        replaced = simplify(model, parameters)
        next(node for node in model.graph if node.op_type == "Relu").op_type = "Sigmoid"
        return replaced

    monkeypatch.setattr("bitswap_onnx.converters.keras_to_onnx.simplify", wrong)
    with pytest.raises(ControlFailedError, match="output output: differs from Keras by up to"):
        export_keras(lived_in(functional()), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_weight_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupting(model: ir.Model, parameters: Any) -> Any:
        replaced = simplify(model, parameters)
        value = next(iter(parameters.values()))
        elements = value.const_value.numpy().copy()
        elements.view(np.uint32).flat[3] ^= 1
        value.const_value = ir.tensor(elements, name=value.name)
        return replaced

    monkeypatch.setattr("bitswap_onnx.converters.keras_to_onnx.simplify", corrupting)
    with pytest.raises(ControlFailedError, match=r"kernel: .* 1 of \d+ elements changed"):
        export_keras(sequential(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["tensorflow", "keras", "tf2onnx.convert"])
def test_a_missing_extra_is_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"is not installed; .* pip install 'bitswap-onnx\[keras\]'"):
        export_keras(tmp_path / "m.keras", tmp_path / "m.onnx")


def test_another_backend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(BitswapError, match="Keras runs on jax here"):
        export_keras(tmp_path / "m.keras", tmp_path / "m.onnx")


def test_nothing_is_printed(tmp_path: Path) -> None:
    with quiet():
        sequential().save(tmp_path / "m.keras")
    code = "import sys; from bitswap_onnx.converters.keras_to_onnx import export_keras; export_keras(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(tmp_path / "m.keras"), str(tmp_path / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
