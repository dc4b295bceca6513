"""A seed → a random network with inputs and the settings it is run with."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx

from tests.benchmarks.fuzz.builder import Array, Builder, Parameter, Place, Value
from tests.benchmarks.fuzz.elementwise import MIXING, Block, activation
from tests.benchmarks.fuzz.images import IMAGE, trained_batch_norm
from tests.benchmarks.fuzz.reshaping import RESHAPING
from tests.benchmarks.fuzz.sequences import SEQUENCE, VECTOR, gemm, image_to_sequence, linear

#: Values of a network have this many elements at most, so that a run of it costs milliseconds.
_LARGEST = 700


@dataclass(frozen=True, eq=False)
class Network:
    """A model file's content, what runs through it and how; ``mixing``: inputs of a batch see each other."""

    number: int
    model: onnx.ModelProto
    inputs: Array
    batch_size: int
    layout: Literal["auto", "plain", "blocked"]
    fusion: Literal["framework", "deployed"]
    memory: int | None
    mixing: bool
    parameters: list[Parameter] = field(repr=False)
    places: list[Place] = field(repr=False)

    @property
    def takes_neurons(self) -> bool:
        """Whether the library runs neuron faults in these settings."""
        return self.layout == "plain" and self.fusion == "framework"

    @property
    def dtype(self) -> str:
        return str(self.inputs.dtype)


def make_network(seed: int, number: int, mixing: bool = False) -> Network:
    """Return the network that ``seed`` and ``number`` give; with ``mixing`` some may have inputs that see each other."""
    rng = np.random.default_rng((seed, number))
    half = rng.random() < 0.15
    b = Builder(rng, int(rng.integers(17, 21)), np.dtype(np.float16 if half else np.float32))
    x = Value("x", _input_shape(rng))
    scores = _body(b, x, mixing and b.chance(0.3))
    batch_size = int(b.one_of(1, 1, 2, 3, 4, 5, 6, 7, 7, 32))
    model = b.model(x, scores, batch_size if b.chance(0.5) and not b.has_mixing else "N")
    inputs = rng.standard_normal((_count(b, batch_size), *x.shape)).astype(b.dtype)
    layout, fusion = b.one_of("plain", "plain", "plain", "blocked", "blocked", "auto"), "framework"
    if b.chance(0.25):
        fusion = "deployed"
    memory = 200_000 if b.chance(0.15) else 256 << 20
    places = [Place("x", b.one_of("output", "input"), -1, 0, "x", x.shape, "x"), *b.places]
    settings: dict[str, Any] = {"layout": layout, "fusion": fusion, "memory": memory}
    return Network(
        number, model, inputs, batch_size, mixing=b.has_mixing, parameters=b.parameters, places=places, **settings
    )


def _input_shape(rng: np.random.Generator) -> tuple[int, ...]:
    kind = rng.random()
    if kind < 0.65:
        return int(rng.integers(1, 5)), int(rng.integers(3, 10)), int(rng.integers(3, 10))
    if kind < 0.92:
        return int(rng.integers(2, 7)), int(rng.integers(2, 9))
    return (int(rng.integers(3, 17)),)


def _count(b: Builder, batch_size: int) -> int:
    """Return how many inputs there are: mostly no multiple of the batch."""
    if batch_size == 1:
        return int(b.rng.integers(3, 9))
    if batch_size == 32:
        return int(b.one_of(20, 33, 40, 70))
    return batch_size * int(b.rng.integers(1, 4)) + int(b.rng.integers(0, batch_size))


def _body(b: Builder, x: Value, mixing: bool) -> Value:
    """Stack blocks, by the rank of what they get, and end in scores."""
    depth = int(b.rng.integers(2, 8))
    odd = int(b.rng.integers(depth)) if mixing else -1
    value = x
    for number in range(depth):
        value = _block(b, value, number == odd)
        if len(value.shape) == 3 and b.chance(0.06):
            value = image_to_sequence(b, value)
        elif len(value.shape) > 1 and b.chance(0.04):
            value = _flatten(b, value)
    return _scores(b, value)


def _block(b: Builder, value: Value, mixing: bool) -> Value:
    blocks: dict[int, tuple[Block, ...]] = {1: VECTOR, 2: SEQUENCE, 3: IMAGE}
    if mixing:
        choices = (*MIXING, trained_batch_norm) if len(value.shape) == 3 else MIXING
    else:
        choices = blocks[len(value.shape)] if value.elements <= _LARGEST else (activation,)
        choices = RESHAPING if b.chance(0.12) else choices
    block: Block = b.one_of(*choices)
    return block(b, value)


def _flatten(b: Builder, value: Value) -> Value:
    if b.chance(0.5):
        return b.node("Flatten", [value], (value.elements,), axis=1)
    return b.node("Reshape", [value, b.integers(b.one_of(0, -1), value.elements)], (value.elements,))


def _pooled(b: Builder, value: Value) -> Value:
    """Leave one number per channel, or per feature of a sequence."""
    if len(value.shape) == 3:
        pooled = b.node(b.one_of("GlobalAveragePool", "GlobalMaxPool"), [value], (value.shape[0], 1, 1))
        return _flatten(b, pooled)
    if b.opset >= 18:
        return b.node("ReduceMean", [value, b.integers(1)], value.shape[1:], keepdims=0)
    return b.node("ReduceMean", [value], value.shape[1:], keepdims=0, axes=[1])


def _scores(b: Builder, value: Value) -> Value:
    if len(value.shape) > 1:
        value = _pooled(b, value) if b.chance(0.4) else _flatten(b, value)
    classes = int(b.rng.integers(2, 7))
    if value.elements < 2 or value.elements > 8 or b.chance(0.85):
        value = gemm(b, value, classes) if b.chance(0.8) else linear(b, value, classes)
    return b.node("Softmax", [value], value.shape, axis=-1) if b.chance(0.15) else value
