"""Blocks that pick, pad, repeat and compare, for values of several ranks."""

from typing import Any

from tests.benchmarks.fuzz.builder import Builder, Value
from tests.benchmarks.fuzz.elementwise import Block


def padded(b: Builder, x: Value) -> Value:
    """Zeros, edges or mirrors around the last two axes."""
    if len(x.shape) != 3:
        return x
    channels, height, width = x.shape
    top, left, bottom, right = (int(p) for p in b.rng.integers(0, 2, 4))
    pads = b.integers(0, 0, top, left, 0, 0, bottom, right)
    shape = (channels, height + top + bottom, width + left + right)
    mode = b.one_of("constant", "edge", "reflect") if min(height, width) > 1 else "constant"
    return b.node("Pad", [x, pads], shape, mode=mode)


def sliced(b: Builder, x: Value) -> Value:
    """A part of the first axis behind the batch."""
    first = int(b.rng.integers(0, x.shape[0]))
    last = int(b.rng.integers(first + 1, x.shape[0] + 1))
    bounds = [b.integers(first), b.integers(last), b.integers(1)]
    return b.node("Slice", [x, *bounds], (last - first, *x.shape[1:]))


def gathered(b: Builder, x: Value) -> Value:
    """Channels or tokens in another order, some twice, some not at all."""
    picks = [int(i) for i in b.rng.integers(0, x.shape[0], int(b.rng.integers(1, 6)))]
    return b.node("Gather", [x, b.integers(*picks)], (len(picks), *x.shape[1:]), axis=1)


def there_and_back(b: Builder, x: Value) -> Value:
    """An axis comes and goes."""
    wider = b.node("Unsqueeze", [x, b.integers(1)], (1, *x.shape))
    return b.node("Squeeze", [b.node("Tanh", [wider], wider.shape), b.integers(1)], x.shape)


def resized(b: Builder, x: Value) -> Value:
    """Every pixel four times."""
    if len(x.shape) != 3 or x.elements > 120:
        return x
    scales = b.constant([1.0, 1.0, 2.0, 2.0], "float32")
    shape = (x.shape[0], 2 * x.shape[1], 2 * x.shape[2])
    coordinates: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return b.node("Resize", [x, "", scales], shape, mode="nearest", **coordinates)


def dropped(b: Builder, x: Value) -> Value:
    return b.node("Dropout", [x], x.shape)


def local_norm(b: Builder, x: Value) -> Value:
    """Channels see their neighbours."""
    return b.node("LRN", [x], x.shape, size=3, alpha=0.1) if len(x.shape) == 3 else x


def where_positive(b: Builder, x: Value) -> Value:
    chosen = b.node("Greater", [x, b.constant(0.1)], x.shape, rows=False)
    other = b.node(b.one_of("Neg", "Sin", "Relu"), [x], x.shape)
    return b.node("Where", [chosen, x, other], x.shape, rows=False)


def minus_largest(b: Builder, x: Value) -> Value:
    """Less the largest number over channels or tokens."""
    shape = (1, *x.shape[1:])
    if b.opset >= 18:
        largest = b.node("ReduceMax", [x, b.integers(1)], shape, keepdims=1)
    else:
        largest = b.node("ReduceMax", [x], shape, keepdims=1, axes=[1])
    return b.node("Sub", [x, largest], x.shape)


def mostly_dead(b: Builder, x: Value) -> Value:
    """Clean values behind it are nearly all zero; faulty ones need not be."""
    shifted = b.node("Add", [x, b.constant(b.one_of(-1.0, -2.0, -4.0))], x.shape)
    return b.node("Relu", [shifted], x.shape)


RESHAPING: tuple[Block, ...] = (
    *(padded, sliced, gathered, there_and_back, resized, dropped, local_norm, where_positive, minus_largest),
    mostly_dead,
)
