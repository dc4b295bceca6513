"""Faulty layers that carry one fault per output channel: many injections in one run, bit for bit.

An output channel of a convolution or Gemm depends on its own weights alone, and so does every value behind it until an
operator mixes channels. A *head* is such a stretch of the graph: it starts at the layer and ends where channels mix or
a value is read twice. `Head.build` makes of it a model of any number of rows, each of them some output channel with
faults of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.graph.channels import Operand, Step, channel_step, dense_step, parameter_axis
from bitswap_onnx.graph.edits import WeightEdits
from bitswap_onnx.graph.model import Model, attribute
from bitswap_onnx.graph.places import may_repack_channels
from bitswap_onnx.graph.slices import Slicer

#: Rows of a head: as many faults, one per row, share one run of a faulty layer.
ROWS = 16


@dataclass(frozen=True, slots=True)
class StretchRow:
    """One output channel of a head, with the edits that hit it (none: the clean channel)."""

    channel: int
    edits: WeightEdits


@dataclass(frozen=True, slots=True)
class Feed:
    """An input of a built head: ``name`` takes the golden ``value``, whole or a choice of its channels.

    ``axis`` None: whole. Otherwise output channel c reads the ``width`` channels from ``width * (c // share)`` on.
    """

    name: str
    value: str
    axis: int | None = None
    width: int = 1
    share: int = 1

    def channels(self, rows: Sequence[StretchRow]) -> NDArray[np.int64]:
        """Return which channels of the value the rows read, row after row."""
        groups = np.array([row.channel for row in rows]) // self.share
        return np.asarray((groups[:, None] * self.width + np.arange(self.width)).reshape(-1))


@dataclass(frozen=True, eq=False)
class Head:
    """A stretch of the graph that keeps channels apart: ``value`` comes out, its ``channels`` on ``axis``."""

    slicer: Slicer
    steps: tuple[Step, ...]
    start: int
    value: str
    axis: int
    channels: int
    feeds: tuple[Feed, ...]

    @cached_property
    def operands(self) -> dict[str, Operand]:
        """Stored tensor → the constant through which a fault in it acts: on one channel per element."""
        return {o.key: o for step in self.steps for o in step.operands if o.key}

    @property
    def loaded_bytes(self) -> int:
        """What the constants take that `build` draws from."""
        operands = [operand for step in self.steps for operand in step.operands]
        return sum(o.array.nbytes + (0 if o.place is None else o.place.nbytes) for o in operands)

    @property
    def trimmed(self) -> "Head | None":
        """The same head without the Transposes at its end, None if there are none: the runtime may move those about."""
        last = len(self.steps) - 1
        while last > 0 and self.steps[last].node.op_type == "Transpose":
            last -= 1
        if last == len(self.steps) - 1:
            return None
        step = self.steps[last]
        return replace(self, steps=self.steps[: last + 1], value=step.node.output[0], axis=step.axis)

    def channel(self, tensor: str, element: int) -> int:
        """Return the output channel that one stored element belongs to."""
        return int(self._index(self.operands[tensor], element)[self.operands[tensor].axis])

    def stays_finite(self, tensor: str, element: int, mask: int) -> bool:
        """Whether a stored element is a finite number after a fault."""
        operand = self.operands[tensor]
        bits = to_bits(operand.array[tuple(self._index(operand, element))].reshape(1)).copy()
        bits ^= bits.dtype.type(mask)
        with np.errstate(invalid="ignore"):  # of a signalling NaN
            return bool(np.isfinite(bits.view(operand.array.dtype).astype(np.float64)).all())

    def build(self, rows: Sequence[StretchRow]) -> Model:
        """Return the model that computes ``rows``: like the head, with ``len(rows)`` channels."""
        proto = self.slicer.extract((), ()).proto
        for position, step in enumerate(self.steps):
            node = proto.graph.node.add()
            node.CopyFrom(step.node)
            node.input[step.data] = node.input[step.data] if position else self.feeds[0].name
            for slot, (side, axis) in step.sides.items():
                node.input[slot] = _side_name(side, axis)
            arrays = dict(step.fixed)
            arrays |= {operand.slot: self._gather(operand, rows) for operand in step.operands}
            for slot, array in arrays.items():
                node.input[slot] = f"row::{position}.{slot}"
                proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), node.input[slot]))
            if node.op_type == "Conv" and step.mixes:
                next(a for a in node.attribute if a.name == "group").i = len(rows)
        for feed in self.feeds:
            count = len(rows) * feed.width
            proto.graph.input.append(self.slicer.declare(feed.value, feed.name, feed.axis, count))
        proto.graph.output.append(self.slicer.declare(self.value, self.value, self.axis, len(rows)))
        return Model(proto, self.slicer.model.name, self.slicer.model.folder, sha256="")

    def _gather(self, operand: Operand, rows: Sequence[StretchRow]) -> NDArray[Any]:
        """Return the rows' slices of a constant, their faults applied."""
        channels = [row.channel for row in rows]
        array = np.ascontiguousarray(operand.array.take(channels, operand.axis))
        if operand.key is None:
            return array
        bits = to_bits(array) if any(operand.key in row.edits for row in rows) else None
        for number, row in enumerate(rows):
            for element, mask in row.edits.get(operand.key, ()):
                assert bits is not None
                index = self._index(operand, element)
                assert index[operand.axis] == row.channel
                index[operand.axis] = number
                bits[tuple(index)] ^= bits.dtype.type(mask)
        return array

    @staticmethod
    def _index(operand: Operand, element: int) -> list[int]:
        flat = element if operand.place is None else int(operand.place[element])
        return [int(i) for i in np.unravel_index(flat, operand.array.shape)]


def find_head(slicer: Slicer, tensor: str) -> Head | None:
    """Return the head through which faults in one stored tensor act, or None where they reach more than a channel.

    A head begins as far up as channels stay apart and values are read once, at best at the convolution, Gemm or MatMul,
    so that what the runtime may fuse stays together.
    """
    user = _single_user(slicer, tensor)
    if user is None:
        return None
    for start in _starts(slicer, user, tensor):
        head = _grow(slicer, start)
        if head is not None and tensor in head.operands:
            return head
    return None


def _single_user(slicer: Slicer, tensor: str) -> int | None:
    """Return the one node that computes with a stored tensor, copies aside; None if there are several or none."""
    name = tensor
    while len(users := slicer.users(name)) == 1:
        node = slicer.nodes[users[0]]
        if node.output[0] not in slicer.constants:
            return users[0]
        name = node.output[0]
    return None


def _starts(slicer: Slicer, user: int, tensor: str) -> list[tuple[int, Step]]:
    """Return where a head for ``tensor`` may begin, the furthest first: nodes of one chain that ends at ``user``."""
    mixing = _mixing_step(slicer, user)
    if mixing is not None:
        return [(user, mixing)]
    found: list[tuple[int, Step]] = []
    index, place = user, parameter_axis(slicer, user)
    while place is not None:
        value, axis = place
        step = channel_step(slicer, index, value, axis, lambda name: True)
        if step is None or not _splits(slicer, value, axis) or not may_repack_channels(slicer, index, step.axis, ROWS):
            break
        found.append((index, step))
        maker = slicer.producer.get(value)
        if maker is None or slicer.readers[value] != (index,) or value == slicer.output:
            break
        mixing = _mixing_step(slicer, maker)
        if mixing is not None:
            found += [(maker, mixing)] if mixing.axis == axis else []
            break
        index, place = maker, _above(slicer, maker, axis)
    return found[::-1]


def _mixing_step(slicer: Slicer, index: int) -> Step | None:
    """Return a node as the first of a head if its channels are not those it reads, one by one."""
    step = dense_step(slicer, index)
    if step is None:
        return None
    dims, out = slicer.dims(step.node.input[0]), slicer.dims(step.node.output[0])
    return None if step.mixes == 1 and dims and out and dims[1] == out[1] else step


def _above(slicer: Slicer, index: int, axis: int) -> tuple[str, int] | None:
    """Return the (value, axis) from which a node with channels on ``axis`` of its output takes them."""
    node = slicer.nodes[index]
    inputs = [name for name in node.input if name and name not in slicer.constants]
    if len(inputs) != 1:
        return None
    if node.op_type == "Transpose":
        rank = len(slicer.dims(inputs[0]) or ())
        order = list(attribute(node, "perm", range(rank)[::-1]))
        axis = order[axis]
    return inputs[0], axis


def _splits(slicer: Slicer, value: str, axis: int) -> bool:
    dims = slicer.dims(value)
    return slicer.has_rows(value) and dims is not None and 0 < axis < len(dims)


def _grow(slicer: Slicer, begin: tuple[int, Step]) -> Head | None:
    """Follow the channels from a first step as far as they stay apart."""
    start, step = begin
    cone = slicer.cone([start])
    steps = [step]
    value, axis = step.node.output[0], step.axis

    def golden(name: str) -> bool:
        return slicer.producer.get(name) not in cone

    while value != slicer.output and len(readers := slicer.readers.get(value, ())) == 1:
        following = channel_step(slicer, readers[0], value, axis, golden)
        if following is None or not _splits(slicer, following.node.output[0], following.axis):
            break
        if not may_repack_channels(slicer, readers[0], following.axis, ROWS):
            break
        steps.append(following)
        value, axis = following.node.output[0], following.axis
    if not _splits(slicer, value, axis) or not slicer.has_rows(step.node.input[step.data]):
        return None
    dims = slicer.dims(value)
    assert dims is not None
    return Head(slicer, tuple(steps), start, value, axis, dims[axis], _feeds(slicer, start, steps, dims[axis]))


def _feeds(slicer: Slicer, start: int, steps: Sequence[Step], channels: int) -> tuple[Feed, ...]:
    first = steps[0]
    value = first.node.input[first.data]
    if first.mixes == 0:
        feeds = [Feed("whole::" + value, value)]
    else:
        share = channels // attribute(first.node, "group", channels) if first.node.op_type == "Conv" else 1
        place = _above(slicer, start, first.axis)
        feeds = [Feed(f"groups::{value}", value, place[1] if place else first.axis, first.mixes, share)]
    for step in steps:
        feeds += [Feed(_side_name(name, axis), name, axis) for name, axis in step.sides.values()]
    return tuple({feed.name: feed for feed in feeds}.values())


def _side_name(value: str, axis: int | None) -> str:
    return ("whole::" if axis is None else "rows::") + value
