"""Where ONNX Runtime and a native run of a faulty model diverge: the first node whose values differ beyond rounding.

Values are compared at the layers that a converter recorded, in execution order. Between the last values that agree and
the first that differ, the ONNX reference (`onnx.reference`: node by node, nothing fused) replaces the native run, if
both give the same final value. A value lies inside a fused group if reading it changes ONNX Runtime's scores; it is
left out.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.converters.native import Native
from bitswap_onnx.graph.nodes import node_label
from bitswap_onnx.graph.receipts import ResolvedInjection
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.weights import rewrite
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.submodel import open_part

ValueArray = NDArray[Any]

#: Finite values differ beyond rounding if their difference exceeds this share of the largest value.
MAX_DIFFERENCE = 1e-3

_RUNTIME, _REFERENCE = "ONNX Runtime", "ONNX reference"
_NAMED_NODES = 3
_READ_AT_ONCE = 16


@dataclass(frozen=True)
class Divergence:
    """The first place, in execution order, where two runs of an injection diverge on one input.

    ``nodes``, as (operator, label), lie between the last values that agree and the first that differ; none if no such
    place is found. ``layer``: the framework's layer at whose output the values differ, empty if there is none.
    ``sides``: the value of each run in the first differing element. ``note``: remarks.
    """

    injection: str
    input: int
    nodes: tuple[tuple[str, str], ...] = ()
    layer: str = ""
    sides: tuple[tuple[str, float], ...] = ()
    note: str = ""

    @property
    def operators(self) -> str:
        """The operator where the runs diverge, or the first and the last of several."""
        return " to ".join(dict.fromkeys((self.nodes[0][0], self.nodes[-1][0])))

    @property
    def text(self) -> str:
        """One line for a report."""
        names = [f"{operator} {label}" for operator, label in self.nodes]
        if len(names) > _NAMED_NODES:
            names = [f"{names[0]} to {names[-1]}, {len(names)} nodes"]
        layer = f" (layer {self.layer})" if self.layer else ""
        sides = (
            ", ".join(f"{name} {value:.6g}" for name, value in self.sides).replace("nan", "NaN").replace("inf", "Inf")
        )
        texts = f"injection {self.injection}, input {self.input}", ", ".join(names) + layer, sides, self.note
        return ": ".join(filter(None, texts))


def differing_elements(ours: ValueArray, theirs: ValueArray) -> NDArray[np.bool_]:
    """Return which elements of two equally large arrays differ beyond rounding, (elements,); NaN equals NaN, Inf Inf."""
    a, b = (np.asarray(values, np.float64).reshape(-1) for values in (ours, theirs))
    finite = np.isfinite(a) & np.isfinite(b)
    scale = np.abs(np.concatenate([a[finite], b[finite]])).max(initial=0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        far = ~finite | (np.abs(a - b) > MAX_DIFFERENCE * scale)
    return np.asarray(far & (a != b) & ~(np.isnan(a) & np.isnan(b)))


def find_divergence(
    setup: Setup, injection: ResolvedInjection, native: Native, number: int, scores: tuple[Scores, Scores]
) -> Divergence:
    """Find where an injection's run of input ``number`` diverges from the native run.

    ``scores``: the scores of ONNX Runtime and of the native run for that input, (classes,) each.
    """
    row = setup.dataset.batch(number, number + 1)
    run = _Run(replace(setup.slicer, model=rewrite(setup.model, injection.edits.weights)), setup.numerics, row)
    layers = _layers(setup, injection, native, row, scores[1])
    gap = _gap(run, run.inputs, {setup.output: scores[1]} | {name: layer.left for name, layer in layers.items()})
    if gap is None or differing_elements(run.scores, scores[0]).any():
        return Divergence(injection.id, number, note="not seen when this input runs alone")
    layer, notes = layers.get(gap.value), [] if layers else [f"{native.name} shows no values of its layers"]
    if layer is not None:
        gap = _gap(run, gap.agreed, _entrance(setup, run, gap, layer) | {gap.value: layer.left}) or gap
        if layers.get(gap.value) is not layer:
            notes.append(f"before layer {layer.path}")
    reference = run.reference(gap)
    sides = {_RUNTIME: gap.ours, native.name: gap.theirs}
    if gap.value in reference and not differing_elements(reference[gap.value], gap.theirs).any():
        narrow = _gap(run, gap.agreed, reference) or gap
        sides = sides if narrow.value == gap.value else {_RUNTIME: narrow.ours}
        gap = narrow
        if len(run.computing(gap)) > 1 and gap.unread:
            notes.append(f"{_RUNTIME} computes them in one piece")
    if gap.value in reference:
        sides[_REFERENCE] = reference[gap.value]
    path = layer.path if layer is not None and f"before layer {layer.path}" not in notes else ""
    return Divergence(injection.id, number, run.computing(gap), path, _where_apart(sides, gap), "; ".join(notes))


@dataclass(frozen=True, eq=False)
class _Gap:
    """The first ``value`` that differs, with both sides, and ONNX Runtime's values of those before it that agree.

    ``unread``: values of the other side that were not compared, because they lie inside a fused group.
    """

    value: str
    ours: ValueArray
    theirs: ValueArray
    agreed: Mapping[str, ValueArray]
    unread: frozenset[str]


@dataclass(frozen=True, eq=False)
class _Layer:
    """The input and output of one call of a native layer, without the batch; outputs are in the file's layout.

    ``clean``: both in the clean run. ``entered`` and ``left``: input and output in the faulty run.
    """

    path: str
    clean: tuple[ValueArray | None, ValueArray]
    entered: ValueArray | None
    left: ValueArray


@dataclass(frozen=True, eq=False)
class _Run:
    """ONNX Runtime's run of one model on one input, a ``row`` (1, ...), in the batch shape of the campaign."""

    slicer: Slicer
    numerics: Numerics
    row: ValueArray

    @property
    def inputs(self) -> dict[str, ValueArray]:
        """The input, by its name, without the batch."""
        return {self.slicer.inputs[0]: self.row[0]}

    @cached_property
    def scores(self) -> ValueArray:
        """The scores of a run that reads no other value."""
        return self._read([])[self.slicer.output]

    def values(self, names: Iterable[str]) -> dict[str, ValueArray]:
        """Return the values whose reading leaves the scores unchanged, in execution order, without the batch."""
        known = {name for name in names if name == self.slicer.output or self.slicer.has_rows(name)}
        return self._kept(sorted(known & self.slicer.producer.keys(), key=self.slicer.producer.__getitem__))

    def _kept(self, names: list[str]) -> dict[str, ValueArray]:
        if len(names) <= _READ_AT_ONCE:
            values = self._read(names)
            if not differing_elements(values[self.slicer.output], self.scores).any():
                return {name: values[name] for name in names}
            if len(names) == 1:
                return {}
        half = len(names) // 2
        return self._kept(names[:half]) | self._kept(names[half:])

    def _read(self, names: Iterable[str]) -> dict[str, ValueArray]:
        part = open_part(self.slicer.extract(self.slicer.inputs, sorted({*names, self.slicer.output})), self.numerics)
        batch = np.repeat(self.row, self.numerics.batch_size, axis=0)
        outputs = part.run({self.slicer.inputs[0]: batch})
        return {name: values[0] for name, values in zip(part.outputs, outputs, strict=True)}

    def between(self, gap: _Gap) -> tuple[list[int], list[str]]:
        """Return the nodes that compute a gap's value from values that agree, in order, and the values that they read."""
        nodes: set[int] = set()
        feeds: dict[str, None] = {}
        pending = [gap.value]
        while pending:
            name = pending.pop()
            if name in gap.agreed:
                feeds[name] = None
            elif name not in self.slicer.constants and self.slicer.producer[name] not in nodes:
                nodes.add(self.slicer.producer[name])
                pending += self.slicer.reads[self.slicer.producer[name]]
        return sorted(nodes), list(feeds)

    def made(self, gap: _Gap) -> list[str]:
        """Return the values that are computed within a gap, its end included, and have one row per input."""
        names = (name for i in self.between(gap)[0] for name in self.slicer.nodes[i].output if name)
        return [name for name in names if name == gap.value or self.slicer.has_rows(name)]

    def computing(self, gap: _Gap) -> tuple[tuple[str, str], ...]:
        """Return (operator, label) of the nodes within a gap, without nodes that only compute shapes."""
        nodes = [self.slicer.nodes[i] for i in self.between(gap)[0]]
        shown = [node for node in nodes if any(name == gap.value or self._is_number(name) for name in node.output)]
        return tuple((node.op_type, node_label(node)) for node in shown)

    def _is_number(self, name: str) -> bool:
        dims = self.slicer.dims(name)
        return dims is None or (dims != () and not np.issubdtype(self.slicer.dtype(name), np.integer))

    def reference(self, gap: _Gap) -> dict[str, ValueArray]:
        """Return the ONNX reference's values within a gap, from values that agree; empty if it lacks an operator."""
        feeds, names = self.between(gap)[1], self.made(gap)
        (value,) = (v for v in self.slicer.model.proto.graph.input if v.name == self.slicer.inputs[0])
        count = value.type.tensor_type.shape.dim[0].dim_value or 1
        batch = {name: np.repeat(gap.agreed[name][np.newaxis], count, axis=0) for name in feeds}
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outputs = ReferenceEvaluator(self.slicer.extract(feeds, names).proto).run(names, batch)
        except Exception:  # the reference raises a different exception for every operator
            return {}
        return {name: values[0] for name, values in zip(names, outputs, strict=True)}


def _gap(run: _Run, agreed: Mapping[str, ValueArray], theirs: Mapping[str, ValueArray]) -> _Gap | None:
    """Compare ONNX Runtime with ``theirs`` in execution order; return the first gap behind ``agreed``, or None."""
    ours = run.values(theirs)
    agreed = dict(agreed)
    for name, values in ours.items():
        if differing_elements(values, theirs[name]).any():
            return _Gap(name, values, theirs[name], agreed, frozenset(theirs.keys() - ours.keys()))
        agreed[name] = values
    return None


def _entrance(setup: Setup, run: _Run, gap: _Gap, layer: _Layer) -> dict[str, ValueArray]:
    """Return the native run's faulty value at the layer's input, by name of the value within the gap.

    The value is found by its clean numbers. Keras's channels, which are last, can be first in the file.
    """
    clean, faulty = layer.clean[0], layer.entered
    if clean is None or faulty is None:
        return {}
    values = _Run(setup.slicer, setup.numerics, run.row).values(set(run.made(gap)) - {gap.value})
    for name, ours in reversed(values.items()):
        for first in (0, -1) if clean.ndim > 1 else (0,):
            turned = np.moveaxis(clean, first, 0)
            if ours.shape == turned.shape and not differing_elements(ours, turned).any():
                return {name: np.moveaxis(faulty, first, 0)}
    return {}


def _layers(
    setup: Setup, injection: ResolvedInjection, native: Native, row: ValueArray, scores: Scores
) -> dict[str, _Layer]:
    """Return the native layers by the ONNX value of their output.

    Layers whose clean values differ are left out; all are, if reading layers changes the native scores.
    """
    if native.layers is None:
        return {}
    _, clean = native.layers(None, row)
    faulty_scores, faulty = native.layers(injection, row)
    if differing_elements(faulty_scores, scores).any():
        return {}
    layers: dict[str, _Layer] = {}
    for path, entry in sorted(setup.model.metadata.get("modules", {}).items(), key=lambda item: len(item[0])):
        names = entry.get("values", [entry["value"]])
        if path and len(names) == len(clean.get(path, ())) == len(faulty.get(path, ())):
            for name, before, after in zip(names, clean[path], faulty[path], strict=True):
                order = np.argsort(entry.get("permutations", {}).get(name, range(before[1].ndim)))
                left = before[1].transpose(order)[0], after[1].transpose(order)[0]
                entered = tuple(None if values is None else values[0] for values in (before[0], after[0]))
                # A longer path replaces a shorter one: the innermost layer that ends at this value stays.
                layers[name] = _Layer(path, (entered[0], left[0]), entered[1], left[1])
    ours = _Run(setup.slicer, setup.numerics, row).values(layers)
    return {
        name: layers[name]
        for name, values in ours.items()
        if values.shape == layers[name].left.shape and not differing_elements(values, layers[name].clean[1]).any()
    }


def _where_apart(sides: Mapping[str, ValueArray], gap: _Gap) -> tuple[tuple[str, float], ...]:
    """Return each side's value in the first differing element, if possible one with NaN or Inf."""
    apart = differing_elements(gap.ours, gap.theirs)
    nonfinite = apart & ~(np.isfinite(gap.ours) & np.isfinite(gap.theirs)).reshape(-1)
    element = int(np.argmax(nonfinite if nonfinite.any() else apart))
    return tuple((name, float(values.reshape(-1)[element])) for name, values in sides.items())
