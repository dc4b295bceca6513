"""Both engines for one model, injections for them, and the comparison of all their scores."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitswap_onnx.faults.bits import FORMATS, to_bits
from bitswap_onnx.graph.edits import InjectionEdits, WeightEdit
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.stretches import ROWS
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.runtime.incremental import IncrementalEngine
from bitswap_onnx.runtime.reference import ReferenceEngine
from bitswap_onnx.runtime.session import Numerics, open_session
from tests.builders import normal

Engine = IncrementalEngine | ReferenceEngine
Path = tuple[str, ...]

PLAIN = Numerics(batch_size=4)
NUMERICS = [
    replace(PLAIN, fusion=fusion, layout=layout)  # type: ignore[arg-type]
    for fusion, layout in product(("framework", "deployed"), ("plain", "blocked"))
]


def engines(
    proto: onnx.ModelProto,
    numerics: Numerics = PLAIN,
    count: int = 7,
    inputs: NDArray[Any] | None = None,
    **options: Any,
) -> tuple[ReferenceEngine, IncrementalEngine]:
    """Both engines for one model over ``count`` random inputs, or the ``inputs`` given."""
    model = from_proto(proto)
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    x = normal(count, *shape, seed=9) if inputs is None else inputs
    output = proto.graph.output[0].name
    scores = open_session(model, numerics, output).run(x)
    chosen: dict[str, Any] = {"paths": dict.fromkeys(paths(proto), 100), "min_batches": 0} | options
    return (
        ReferenceEngine(model, numerics, output, x, scores),
        IncrementalEngine(model, numerics, output, x, scores, **chosen),
    )


def paths(proto: onnx.ModelProto) -> list[Path]:
    """Every target alone, and all together."""
    tensors = sorted(target.tensor for target in find_targets(from_proto(proto)))
    return [*((tensor,) for tensor in tensors), *([tuple(tensors)] if len(tensors) > 1 else [])]


def injections(engine: Engine, path: Path, seed: int = 0) -> list[InjectionEdits]:
    """Flips of random bits and of the top exponent bit, stuck bits, and several faults at once in several channels."""
    draw = np.random.default_rng(seed)
    found: list[InjectionEdits] = []
    for kind in ("flip", "flip", "flip", "top", "top", "stuck", "several", "many"):
        edits: dict[str, list[WeightEdit]] = {}
        for tensor in path:
            array = engine.model.tensor(tensor)
            fmt = FORMATS[array.dtype.name]
            faults = {"several": 3, "many": ROWS + 4}.get(kind, 1)
            elements = draw.integers(array.size, size=faults).tolist()
            bits = [fmt.width - 2 if kind == "top" else int(draw.integers(fmt.width)) for _ in elements]
            masks = [1 << bit for bit in bits]
            if kind == "stuck":  # at 1, in the top bit of the exponent: no change where it is set
                value = int(to_bits(np.ascontiguousarray(array).reshape(-1))[elements[0]])
                masks = [~value & 1 << fmt.width - 2]
            edits[tensor] = list(map(WeightEdit, elements, masks))
        found.append(InjectionEdits(edits))
    return found


def all_scores(
    engine: Engine, path: Path, edits: Sequence[InjectionEdits], first: int = 0, stop: int | None = None
) -> Any:
    """Return the scores of every injection over every input (injections, inputs, classes), each seen once."""
    stop = len(engine.inputs) if stop is None else stop
    scores = np.stack([engine.scores[first:stop]] * len(edits))
    seen = np.zeros(scores.shape[:2], int)
    for start, faulty in engine.run(path, edits, first, stop):
        for number, part in zip(faulty.numbers, faulty.parts, strict=True):
            scores[number, start - first + faulty.rows[part]] = faulty.scores[part]
            seen[number, start - first : start - first + faulty.inputs] += 1
    assert (seen == 1).all()
    return scores


def assert_equal(reference: ReferenceEngine, engine: IncrementalEngine, chosen: Sequence[Path]) -> None:
    """Both engines agree in every score of every path, and no fault changes nothing."""
    for path in chosen:
        edits = injections(engine, path)
        expected, found = all_scores(reference, path, edits), all_scores(engine, path, edits)
        where = f"{path} on {type(engine.lane(path)).__name__}"
        assert np.array_equal(found, expected, equal_nan=True), where
        numbers = ~np.isnan(expected) & (expected != 0)
        assert np.array_equal(to_bits(found)[numbers], to_bits(expected)[numbers]), where
        assert engine.control(path, 0, len(engine.inputs)) == len(engine.inputs), where


def lanes_of(engine: IncrementalEngine) -> dict[Path, type]:
    return {path: type(engine.lane(path)) for path in engine.paths}
