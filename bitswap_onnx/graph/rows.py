"""Which values of a model have one row per input, and where its inputs see each other.

Inputs of a batch see each other where a value depends on several of them: a sum over the batch, a scale from the range of
the whole batch, a condition on such a value. Then the number of inputs in a batch, and which ones they are, change results.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.constants import NotEvaluatedError, constant_value
from bitswap_onnx.graph.marks import (
    COUNT,
    NOTHING,
    SEVERAL_INPUTS,
    MarkedValues,
    Marks,
    compressed,
    merged,
    plain,
    whole_mark,
)
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.nodes import node_label, subgraphs
from bitswap_onnx.graph.operators import RANDOM, operator
from bitswap_onnx.graph.row_rules import ROW_RULES
from bitswap_onnx.graph.slices import Slicer


@dataclass(frozen=True, eq=False)
class Measured:
    """What a run of the model showed: ``shapes`` of its values, the same for one input ``more``, small ``numbers``.

    ``more`` None: the model takes no other number of inputs.
    """

    shapes: Mapping[str, tuple[int, ...]]
    more: Mapping[str, tuple[int, ...]] | None
    numbers: Mapping[str, NDArray[Any]]

    def grows(self, name: str) -> tuple[bool, ...]:
        """Return, per axis, whether a value is longer there where there is one input more."""
        own = self.shapes[name]
        if self.more is None or name not in self.more:
            return (False,) * len(own)
        return tuple(one != other for one, other in zip(own, self.more[name], strict=True))


def find_mixing(slicer: Slicer, measured: Measured) -> onnx.NodeProto | None:
    """Return the first node after which a row of the scores, or of a possible cut, depends on more than its own input.

    That is on another input, on the batch size or on its place in the batch. None if there is no such node.
    """
    marks = _marks(slicer, measured)
    needed = _ancestors(slicer)
    batch = measured.shapes[slicer.inputs[0]][0]
    suspects = [i for i in sorted(needed) for name in slicer.nodes[i].output if _is_wrong(slicer, name, marks, batch)]
    if not suspects:
        return None
    several = [i for i in sorted(needed) if any(_has(marks, name, SEVERAL_INPUTS) for name in slicer.nodes[i].output)]
    return slicer.nodes[(several or suspects)[0]]


def refuse_random(slicer: Slicer) -> None:
    """Raise ModelError for a model whose scores are another draw in every run: no fault could be told from chance."""
    for i in sorted(_ancestors(slicer)):
        node = slicer.nodes[i]
        if node.op_type in RANDOM or (node.op_type == "Dropout" and _is_live(slicer, node)):
            raise ModelError(
                f"{slicer.model.name}: {node.op_type} {node_label(node)} draws at random in every run, expected a model "
                "that computes the same each time; export it for inference (in PyTorch after model.eval())"
            )


def _is_live(slicer: Slicer, node: onnx.NodeProto) -> bool:
    if len(node.input) < 3 or not node.input[2]:
        return False
    if node.input[2] not in slicer.constants:
        return True
    try:
        return bool(constant_value(slicer, node.input[2]).array.any())
    except NotEvaluatedError:
        return False


def _is_wrong(slicer: Slicer, name: str, marks: Mapping[str, Marks], batch: int) -> bool:
    """Whether rows of the scores, or of a value that the model may be cut at, are not each of its own input."""
    if name != slicer.output and not (name and slicer.has_rows(name)):
        return False
    own = marks.get(name)
    if own is None or not own.ndim:
        return True
    rows = merged(own, range(1, own.ndim)).reshape(-1)
    return not ((rows == NOTHING).all() or np.array_equal(rows, np.arange(batch)))


def _has(marks: Mapping[str, Marks], name: str, mark: int) -> bool:
    return name in marks and bool((marks[name] == mark).any())


def _ancestors(slicer: Slicer) -> set[int]:
    """Return the nodes that the scores depend on."""
    found: set[int] = set()
    pending = [slicer.output]
    while pending:
        maker = slicer.producer.get(pending.pop())
        if maker is not None and maker not in found:
            found.add(maker)
            pending += slicer.reads[maker]
    return found


def _marks(slicer: Slicer, measured: Measured) -> dict[str, Marks]:
    """Return the marks of every value whose shape is known."""
    marks = {name: plain(len(tensor.dims)) for name, tensor in slicer.stored.items()}
    for name in slicer.inputs:
        shape = measured.shapes[name]
        marks[name] = np.arange(shape[0], dtype=np.int16).reshape(-1, *(1,) * (len(shape) - 1))
    opset = next((e.version for e in slicer.model.proto.opset_import if e.domain in ("", "ai.onnx")), 1)
    for i, node in enumerate(slicer.nodes):
        found = _followed(node, opset, marks, measured)
        if found is None:
            found = _unknown(node, slicer.reads[i], marks, measured)
        for name, own in zip((name for name in node.output if name), found, strict=False):
            marks[name] = _checked(compressed(own), measured.grows(name)) if name in measured.shapes else own
    return marks


def _followed(node: onnx.NodeProto, opset: int, marks: Mapping[str, Marks], measured: Measured) -> list[Marks] | None:
    """Return the marks of a node's outputs by the rule of its operator, None where there is none or it does not apply."""
    known = operator(node.domain, node.op_type)
    outputs = [name for name in node.output if name]
    if known is None or any(True for _ in subgraphs(node)) or not measured.shapes.keys() >= set(outputs):
        return None
    values = MarkedValues(
        node=node,
        opset=opset,
        marks=[marks.get(name) if name else None for name in node.input],
        in_shapes=[measured.shapes.get(name) for name in node.input],
        out_shapes=[measured.shapes[name] for name in outputs],
        numbers=[measured.numbers.get(name) if _is_fixed(marks.get(name)) else None for name in node.input],
        grows=[measured.grows(name) if name in measured.shapes else () for name in node.input],
    )
    if any(name and values.marks[slot] is None for slot, name in enumerate(node.input)):
        return None
    try:
        found = ROW_RULES[known.rows](values)
    except Exception:  # a form of the operator that its rule does not follow: nothing is known of its rows
        return None
    fits = all(own.ndim == len(shape) for own, shape in zip(found, values.out_shapes, strict=False))
    return found if fits else None


def _is_fixed(marks: Marks | None) -> bool:
    """Whether a value depends on no input, only, at most, on how many there are."""
    return marks is not None and bool(np.isin(marks, (NOTHING, COUNT)).all())


def _unknown(
    node: onnx.NodeProto, reads: Collection[str], marks: Mapping[str, Marks], measured: Measured
) -> list[Marks]:
    """Return the marks of outputs of which nothing is known but what they may depend on."""
    mark = int(whole_mark(marks.get(name, plain(0, SEVERAL_INPUTS)) for name in reads))
    mark = SEVERAL_INPUTS if mark >= 0 else mark
    return [plain(len(measured.shapes.get(name, ())), mark) for name in node.output if name]


def _checked(marks: Marks, grows: tuple[bool, ...]) -> Marks:
    """Return marks of a value; one that is as long as there are inputs, where no row of its own is, sees all of them."""
    of_inputs = bool((marks >= 0).any())
    alike = any(more and marks.shape[axis] == 1 for axis, more in enumerate(grows))
    return plain(marks.ndim, SEVERAL_INPUTS) if of_inputs and alike else marks


def without_constant_branches(slicer: Slicer) -> Model:
    """Return the model with each If of a constant condition replaced by the branch that it takes."""
    proto = onnx.ModelProto()
    proto.CopyFrom(slicer.model.proto)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    for node in nodes:
        if node.op_type != "If" or node.input[0] not in slicer.constants:
            proto.graph.node.append(node)
            continue
        taken = "then_branch" if bool(constant_value(slicer, node.input[0]).array.reshape(-1)[0]) else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == taken)
        proto.graph.initializer.extend(branch.initializer)
        proto.graph.node.extend(branch.node)
        proto.graph.node.extend(
            onnx.helper.make_node("Identity", [inner.name], [outer])
            for inner, outer in zip(branch.output, node.output, strict=True)
        )
    return Model(proto, slicer.model.name, slicer.model.folder, sha256="")
