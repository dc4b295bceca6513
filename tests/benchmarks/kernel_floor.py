"""The time of the kernels that exactness needs, estimated: what an engine that computes what faults change cannot save.

A fault changes its layer's output on some inputs, and for these the model behind it has to run; of the layer itself, a run
serves 16 faults, one per row. So a fault costs, per input, the share of changed outputs times the time of the part behind,
and 1/16 of the layer's time. A layer here includes what follows it element by element (batch-norm, Relu, the sum with a
shortcut). Times are those of one thread and batches of 32, the least of `ROUNDS`, for `WORKERS` workers.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.submodel import open_part
from tests.benchmarks.plain_loop import Flip, with_flip

BATCH, ROWS, WORKERS, ROUNDS = 32, 16, 2, 9
#: Faults per layer whose changed outputs are counted.
SAMPLED = 8
ELEMENTWISE = frozenset({"BatchNormalization", "Relu", "Clip", "Add", "Identity", "Dropout"})

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Layer:
    """The layer of a stored tensor: its first node, and the ``value`` behind it and all that follows element by element."""

    slicer: Slicer
    tensor: str

    @cached_property
    def start(self) -> int:
        (node,) = self.slicer.users(self.tensor)
        return node

    @cached_property
    def value(self) -> str:
        name: str = self.slicer.nodes[self.start].output[0]
        while len(readers := self.slicer.readers.get(name, ())) == 1:
            node = self.slicer.nodes[readers[0]]
            if node.op_type not in ELEMENTWISE:
                break
            name = node.output[0]
        return name

    @cached_property
    def behind(self) -> tuple[str, ...]:
        """The values that the part behind reads."""
        return self.slicer.cuts(self.slicer.cone([self.start]), self.value) or ()

    @cached_property
    def before(self) -> tuple[str, ...]:
        """The golden values that the layer reads: its input, and a shortcut."""
        inside = self.slicer.between(self.slicer.inputs, [self.value]) & self.slicer.cone([self.start])
        made = {name for node in inside for name in self.slicer.nodes[node].output}
        read = {name for node in inside for name in self.slicer.reads[node]}
        return tuple(sorted(read - made - self.slicer.constants))


@dataclass(frozen=True)
class Cost:
    """Seconds per input of a layer and of the part behind it, and the share of inputs whose output a fault changes."""

    layer: float
    suffix: float
    changed: float

    @property
    def per_inference(self) -> float:
        return (self.changed * self.suffix + self.layer / ROWS) / WORKERS


def floor_seconds(
    model: Model, numerics: Numerics, output: str, inputs: Array, injections: Sequence[Injection]
) -> float:
    """Return the mean floor of an inference over single flips in weights; ``inputs``: one or more batches to try."""
    slicer = Slicer(model, output, BATCH, inputs.shape[1:])
    tensors = {target.layer: target.tensor for target in find_targets(model) if target.role == "weight"}
    flips: dict[str, list[Flip]] = defaultdict(list)
    for injection in injections:
        (fault,) = injection.faults
        flips[tensors[fault.layer]].append(Flip(tensors[fault.layer], fault.index, fault.bit or 0))
    layers = {tensor: Layer(slicer, tensor) for tensor in flips}
    golden = golden_values(slicer, numerics, inputs, {n for one in layers.values() for n in (*one.before, *one.behind)})
    costs = {tensor: measure(layers[tensor], numerics, golden, flips[tensor]) for tensor in flips}
    return sum(len(flips[tensor]) * cost.per_inference for tensor, cost in costs.items()) / len(injections)


def golden_values(slicer: Slicer, numerics: Numerics, inputs: Array, names: set[str]) -> dict[str, Array]:
    """Return values of the clean model, a row per input."""
    (entry,) = slicer.inputs
    made = sorted(names - {entry})
    part = open_part(slicer.extract([entry], made), numerics)
    parts = [part.run({entry: inputs[first : first + BATCH]}) for first in range(0, len(inputs), BATCH)]
    found = zip(made, (np.concatenate(arrays) for arrays in zip(*parts, strict=True)), strict=True)
    return {entry: inputs, **dict(found)}


def measure(layer: Layer, numerics: Numerics, golden: Mapping[str, Array], flips: Sequence[Flip]) -> Cost:
    """Time a layer and the part behind it on golden values; count the outputs that some of the flips change."""
    slicer = layer.slicer
    part = slicer.extract(layer.before, [layer.value])
    clean = run_all(part, numerics, golden)
    sample = random.Random(0).sample(list(flips), min(SAMPLED, len(flips)))
    changed = [
        changed_rows(clean, run_all(replace(part, proto=with_flip(flip, part.proto)), numerics, golden))
        for flip in sample
    ]
    behind = 0.0
    if layer.value != slicer.output:
        behind = seconds_per_input(slicer.extract(layer.behind, [slicer.output]), numerics, golden)
    return Cost(seconds_per_input(part, numerics, golden), behind, float(np.mean(changed)))


def run_all(part: Model, numerics: Numerics, golden: Mapping[str, Array]) -> Array:
    """Return the one output of a part for all inputs."""
    loaded = open_part(part, numerics)
    feeds = {value.name: golden[value.name] for value in part.proto.graph.input}
    count = len(next(iter(feeds.values())))
    firsts = range(0, count, BATCH)
    return np.concatenate([loaded.run({n: a[first : first + BATCH] for n, a in feeds.items()})[0] for first in firsts])


def changed_rows(clean: Array, faulty: Array) -> float:
    """Return the share of rows that differ in a bit."""
    view = f"u{clean.dtype.itemsize}"
    return float(np.mean((clean.view(view) != faulty.view(view)).reshape(len(clean), -1).any(axis=1)))


def seconds_per_input(part: Model, numerics: Numerics, golden: Mapping[str, Array]) -> float:
    """Return the least time of one input in a batch of golden values."""
    loaded = open_part(part, numerics)
    feeds = {value.name: golden[value.name][:BATCH] for value in part.proto.graph.input}
    run = partial(loaded.run, feeds)
    run()
    return min(seconds(run) for _ in range(ROUNDS)) / BATCH


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
