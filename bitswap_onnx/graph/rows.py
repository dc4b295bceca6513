"""Find out whether the inputs of a batch see each other, by following `bitswap_onnx.graph.marks` through the model.

Inputs see each other where a value depends on several of them: a sum over the batch, a scale from the range of the
whole batch, a condition on such a value. Then an input's results change with the size and other inputs of its batch.
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
    """What runs of the model showed: the ``shapes`` of its values, and the elements (``numbers``) of small ones.

    ``more``: the shapes in a batch of one more input, None if the model takes no other batch size.
    """

    shapes: Mapping[str, tuple[int, ...]]
    more: Mapping[str, tuple[int, ...]] | None
    numbers: Mapping[str, NDArray[Any]]

    def grows(self, name: str) -> tuple[bool, ...]:
        """Return, per axis of a value, whether its length changes in a batch of one more input."""
        shape = self.shapes[name]
        if self.more is None or name not in self.more:
            return (False,) * len(shape)
        return tuple(size != more for size, more in zip(shape, self.more[name], strict=True))


def find_mixing(slicer: Slicer, measured: Measured) -> onnx.NodeProto | None:
    """Return the first node whose output has a row that depends on more than its own input; None if there is none.

    Such a row depends on another input, on the batch size or on its place in the batch. Only outputs that are the
    scores, or at which the model may be cut, count.
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
    """Raise ModelError for a model whose scores are random in every run, since faults could not be told from chance."""
    for i in sorted(_ancestors(slicer)):
        node = slicer.nodes[i]
        if node.op_type in RANDOM or (node.op_type == "Dropout" and _is_live(slicer, node)):
            raise ModelError(
                f"{slicer.model.name}: {node.op_type} {node_label(node)} draws at random in every run, expected a "
                "model that computes the same each time; export it for inference (in PyTorch after model.eval())"
            )


def _is_live(slicer: Slicer, node: onnx.NodeProto) -> bool:
    """Whether a Dropout node drops elements, as in training mode; True if its mode is not constant."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    if node.input[2] not in slicer.constants:
        return True
    try:
        return bool(constant_value(slicer, node.input[2]).array.any())
    except NotEvaluatedError:
        return False


def _is_wrong(slicer: Slicer, name: str, marks: Mapping[str, Marks], batch: int) -> bool:
    """Whether a value is the scores or a possible cut, and some row of it depends on more than its own input."""
    if name != slicer.output and not (name and slicer.has_rows(name)):
        return False
    value_marks = marks.get(name)
    if value_marks is None or not value_marks.ndim:
        return True
    rows = merged(value_marks, range(1, value_marks.ndim)).reshape(-1)
    return not ((rows == NOTHING).all() or np.array_equal(rows, np.arange(batch)))


def _has(marks: Mapping[str, Marks], name: str, mark: int) -> bool:
    return name in marks and bool((marks[name] == mark).any())


def _ancestors(slicer: Slicer) -> set[int]:
    """Return the nodes that the scores depend on."""
    ancestors: set[int] = set()
    pending = [slicer.output]
    while pending:
        maker = slicer.producer.get(pending.pop())
        if maker is not None and maker not in ancestors:
            ancestors.add(maker)
            pending += slicer.reads[maker]
    return ancestors


def _marks(slicer: Slicer, measured: Measured) -> dict[str, Marks]:
    """Return the marks of every value whose shape is known."""
    marks = {name: plain(len(tensor.dims)) for name, tensor in slicer.stored.items()}
    marks |= {name: plain(len(tensor.dims)) for name, tensor in slicer.sparse.items()}
    for name in slicer.inputs:
        shape = measured.shapes[name]
        marks[name] = np.arange(shape[0], dtype=np.int16).reshape(-1, *(1,) * (len(shape) - 1))
    opset = next((e.version for e in slicer.model.proto.opset_import if e.domain in ("", "ai.onnx")), 1)
    for i, node in enumerate(slicer.nodes):
        outputs = _by_rule(node, opset, marks, measured)
        if outputs is None:
            outputs = _unknown(node, slicer.reads[i], marks, measured)
        for name, output in zip((name for name in node.output if name), outputs, strict=False):
            marks[name] = _checked(compressed(output), measured.grows(name)) if name in measured.shapes else output
    return marks


def _by_rule(node: onnx.NodeProto, opset: int, marks: Mapping[str, Marks], measured: Measured) -> list[Marks] | None:
    """Return the marks of a node's outputs by the rule of its operator, None if no rule applies."""
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
        output_marks = ROW_RULES[known.rows](values)
    except Exception:  # a form of the operator that its rule does not cover: nothing is known of its rows
        return None
    fits = all(output.ndim == len(shape) for output, shape in zip(output_marks, values.out_shapes, strict=False))
    return output_marks if fits else None


def _is_fixed(marks: Marks | None) -> bool:
    """Whether a value depends on no input, at most on the number of inputs."""
    return marks is not None and bool(np.isin(marks, (NOTHING, COUNT)).all())


def _unknown(
    node: onnx.NodeProto, reads: Collection[str], marks: Mapping[str, Marks], measured: Measured
) -> list[Marks]:
    """Return the marks of outputs whose node has no rule: each element may depend on all that the node reads."""
    mark = int(whole_mark(marks.get(name, plain(0, SEVERAL_INPUTS)) for name in reads))
    mark = SEVERAL_INPUTS if mark >= 0 else mark
    return [plain(len(measured.shapes.get(name, ())), mark) for name in node.output if name]


def _checked(marks: Marks, grows: tuple[bool, ...]) -> Marks:
    """Return ``marks``, or `SEVERAL_INPUTS` if a value grows with the batch along an axis whose elements have one mark.

    Such an axis holds all inputs, but its marks name one of them, so they cannot be right.
    """
    names_inputs = bool((marks >= 0).any())
    is_alike = any(more and marks.shape[axis] == 1 for axis, more in enumerate(grows))
    return plain(marks.ndim, SEVERAL_INPUTS) if names_inputs and is_alike else marks


def without_constant_branches(slicer: Slicer) -> Model:
    """Return the model with each If whose condition is constant replaced by the branch that it takes."""
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
