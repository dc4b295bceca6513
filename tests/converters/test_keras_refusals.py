"""What of Keras is refused: layers by name, and files with Python bytecode before any of it is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitswap_onnx.converters.keras_setup import load_keras_file, quiet
from bitswap_onnx.converters.keras_to_onnx import export_keras
from bitswap_onnx.errors import ModelError

pytest.importorskip("tensorflow")
keras: Any = pytest.importorskip("keras")


def nested_lambda() -> Any:
    layers = [keras.layers.Lambda(lambda x: x + 1, name="plus"), keras.layers.Dense(3)]
    start = keras.Input((4,))
    return keras.Model(start, keras.Sequential([keras.Input((4,)), *layers], name="inner")(start))


def shape_of_lambda() -> Any:
    layer = keras.layers.Lambda(keras.ops.relu, output_shape=lambda shape: shape, name="shaped")
    return keras.Sequential([keras.Input((4,)), layer])


def lambda_activation() -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=lambda x: x * 2, name="odd")])


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize(
    ("build", "problem", "remedy"),
    [
        (nested_lambda, "layer plus is a Lambda layer with Python bytecode", "a subclass of keras.layers.Layer"),
        (shape_of_lambda, "layer shaped is a Lambda layer", "`export_keras`"),
        (lambda_activation, r"layer odd \(Dense\) has a Python lambda", "a function of Keras by its name"),
    ],
)
def test_bytecode_in_a_file_is_refused_before_the_file_is_loaded(
    build: Callable[[], Any],
    problem: str,
    remedy: str,
    suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / f"code.{suffix}"
    with quiet():
        build().save(path)

    def load_model(*_: object, **__: object) -> None:
        raise AssertionError("the file was loaded")

    monkeypatch.setattr(keras.models, "load_model", load_model)
    with pytest.raises(ModelError, match=f"{problem}.*{remedy}"):
        export_keras(path, tmp_path / "m.onnx")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_lambda_layer_around_a_function_of_keras_is_loaded(tmp_path: Path) -> None:
    with quiet():
        keras.Sequential([keras.Input((4,)), keras.layers.Lambda(keras.ops.relu)]).save(tmp_path / "m.keras")
    assert load_keras_file(tmp_path / "m.keras").layers[0].function.__name__ == "relu"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: keras.Sequential([keras.Input((3, 2), batch_size=4), keras.layers.GRU(3, stateful=True, name="g")]),
            r"layer .*g \(GRU\) is stateful: .*; build it with stateful=False",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((6,), dtype="int64"), keras.layers.IntegerLookup(vocabulary=[1, 3, 5], name="numbers")]
            ),
            r"layer .*numbers \(IntegerLookup\) looks its inputs up in a hash table",
        ),
        (
            lambda: keras.Sequential([keras.Input((6,), dtype="int64"), keras.layers.Hashing(7, name="h")]),
            r"layer .*h \(Hashing\) looks its inputs up in a hash table",
        ),
    ],
)
def test_layers_are_refused_by_name(build: Callable[[], Any], message: str, tmp_path: Path) -> None:
    with quiet():
        model = build()
    with pytest.raises(ModelError, match=message):
        export_keras(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
