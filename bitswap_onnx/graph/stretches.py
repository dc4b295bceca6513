"""Channelwise stretches: a faulty layer and the operators behind it that keep channels apart.

An output channel of a convolution or Gemm depends on its own weights alone. So does every value computed from that
channel, until an operator mixes channels. A *channelwise stretch* starts at the layer and ends where channels mix or
where a value is read twice. `ChannelwiseStretch.build` returns a model of the stretch in which each output channel, or
*row*, has its own faults: one run computes many injections, bit for bit.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.graph.channels import Operand, Step, channel_step, dense_step, parameter_axis
from bitswap_onnx.graph.edits import WeightEdits
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.nodes import attribute
from bitswap_onnx.graph.places import may_repack_channels
from bitswap_onnx.graph.slices import Slicer

#: Rows of a built stretch: up to this many injections share one run of a faulty layer.
ROWS = 16


@dataclass(frozen=True, slots=True)
class StretchRow:
    """One output channel of a stretch and the edits of its weights; without edits it is the clean channel."""

    channel: int
    edits: WeightEdits


@dataclass(frozen=True, slots=True)
class Feed:
    """An input of a built stretch: ``name`` takes the golden ``value``, whole or only some of its channels.

    ``axis`` None: the whole value. Otherwise its channels lie on ``axis``, and output channel c reads ``width`` of
    them, from channel ``width * (c // share)`` on.
    """

    name: str
    value: str
    axis: int | None = None
    width: int = 1
    share: int = 1

    def channels(self, rows: Sequence[StretchRow]) -> NDArray[np.int64]:
        """Return the channels of the value that ``rows`` read, ``width`` per row, row after row."""
        groups = np.array([row.channel for row in rows]) // self.share
        return np.asarray((groups[:, None] * self.width + np.arange(self.width)).reshape(-1))


@dataclass(frozen=True, eq=False)
class ChannelwiseStretch:
    """A part of the graph that keeps channels apart: the node ``start`` and all later ``steps``.

    It reads ``feeds`` and makes ``value``, which has ``channels`` channels on ``axis``.
    """

    slicer: Slicer
    steps: tuple[Step, ...]
    start: int
    value: str
    axis: int
    channels: int
    feeds: tuple[Feed, ...]

    @cached_property
    def operands(self) -> dict[str, Operand]:
        """Stored tensor → the operand that holds its elements; a fault in one element acts on one channel."""
        return {operand.key: operand for step in self.steps for operand in step.operands if operand.key}

    @property
    def loaded_bytes(self) -> int:
        """Bytes of the constants that `build` reads."""
        operands = [operand for step in self.steps for operand in step.operands]
        return sum(
            operand.array.nbytes + (0 if operand.place is None else operand.place.nbytes) for operand in operands
        )

    @property
    def trimmed(self) -> "ChannelwiseStretch | None":
        """The same stretch without the Transposes at its end, which the runtime may move; None if there are none."""
        last = len(self.steps) - 1
        while last > 0 and self.steps[last].node.op_type == "Transpose":
            last -= 1
        if last == len(self.steps) - 1:
            return None
        step = self.steps[last]
        return replace(self, steps=self.steps[: last + 1], value=step.node.output[0], axis=step.axis)

    def channel(self, tensor: str, element: int) -> int:
        """Return the output channel on which a fault in one stored element acts."""
        operand = self.operands[tensor]
        return int(self._index(operand, element)[operand.axis])

    def stays_finite(self, tensor: str, element: int, mask: int) -> bool:
        """Whether a stored element is a finite number after ``mask`` is XORed onto its bits."""
        operand = self.operands[tensor]
        bits = to_bits(operand.array[tuple(self._index(operand, element))].reshape(1)).copy()
        bits ^= bits.dtype.type(mask)
        with np.errstate(invalid="ignore"):  # the cast of a signalling NaN warns
            return bool(np.isfinite(bits.view(operand.array.dtype).astype(np.float64)).all())

    def build(self, rows: Sequence[StretchRow]) -> Model:
        """Return a model of the stretch with ``len(rows)`` channels: channel i is ``rows[i]`` with its faults."""
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
        """Return the slices of a constant that ``rows`` need, with their faults applied."""
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


def find_stretch(
    slicer: Slicer, tensor: str, before: Collection[str] = (), behind: Collection[str] = ()
) -> ChannelwiseStretch | None:
    """Return the stretch for faults in one stored tensor, or None where such a fault reaches more than one channel.

    It begins at the values ``before`` at the earliest, and ends at the values ``behind`` at the latest.

    A stretch begins as early as possible, at best at the convolution, Gemm or MatMul that makes the channels, so that
    nodes that the runtime may fuse stay together. Between its start and the tensor's node, channels stay apart and each
    value is read once.
    """
    user = _single_user(slicer, tensor)
    if user is None:
        return None
    for start, step in _starts(slicer, user, before):
        stretch = _grow(slicer, start, step, behind)
        if stretch is not None and tensor in stretch.operands:
            return stretch
    return None


def _single_user(slicer: Slicer, tensor: str) -> int | None:
    """Return the one node that computes with a stored tensor or a copy of it; None if there is not exactly one."""
    name = tensor
    while len(users := slicer.users(name)) == 1:
        node = slicer.nodes[users[0]]
        if node.output[0] not in slicer.constants:
            return users[0]
        name = node.output[0]
    return None


def _starts(slicer: Slicer, user: int, before: Collection[str]) -> list[tuple[int, Step]]:
    """Return the nodes at which a stretch that includes the node ``user`` may begin, the earliest first."""
    mixing = _mixing_step(slicer, user)
    if mixing is not None:
        return [(user, mixing)]
    starts: list[tuple[int, Step]] = []
    index, place = user, parameter_axis(slicer, user)
    while place is not None:
        value, axis = place
        step = channel_step(slicer, index, value, axis, lambda name: True)
        if step is None or not _splits(slicer, value, axis) or not may_repack_channels(slicer, index, step.axis, ROWS):
            break
        starts.append((index, step))
        maker = slicer.producer.get(value)
        if maker is None or slicer.readers[value] != (index,) or value in {slicer.output, *before}:
            break
        mixing = _mixing_step(slicer, maker)
        if mixing is not None:
            starts += [(maker, mixing)] if mixing.axis == axis else []
            break
        index, place = maker, _channels_before(slicer, maker, axis)
    return starts[::-1]


def _mixing_step(slicer: Slicer, index: int) -> Step | None:
    """Return the step of a node that makes new channels: a convolution (not depthwise), Gemm or MatMul; else None."""
    step = dense_step(slicer, index)
    if step is None:
        return None
    dims, out = slicer.dims(step.node.input[0]), slicer.dims(step.node.output[0])
    return None if step.mixes == 1 and dims and out and dims[1] == out[1] else step


def _channels_before(slicer: Slicer, index: int, axis: int) -> tuple[str, int] | None:
    """Return the input value of a node, and the axis there of the channels that lie on ``axis`` of its output."""
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
    """Whether a value has a row per input and, on another axis, its channels."""
    dims = slicer.dims(value)
    return slicer.has_rows(value) and dims is not None and 0 < axis < len(dims)


def _grow(slicer: Slicer, start: int, step: Step, behind: Collection[str]) -> ChannelwiseStretch | None:
    """Return the longest stretch that begins with ``step`` at the node ``start``."""
    cone = slicer.cone([start])
    steps = [step]
    value, axis = step.node.output[0], step.axis

    def golden(name: str) -> bool:
        return slicer.producer.get(name) not in cone

    while value not in {slicer.output, *behind} and len(readers := slicer.readers.get(value, ())) == 1:
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
    return ChannelwiseStretch(
        slicer, tuple(steps), start, value, axis, dims[axis], _feeds(slicer, start, steps, dims[axis])
    )


def _feeds(slicer: Slicer, start: int, steps: Sequence[Step], channels: int) -> tuple[Feed, ...]:
    first = steps[0]
    value = first.node.input[first.data]
    if first.mixes == 0:
        feeds = [Feed("whole::" + value, value)]
    else:
        share = channels // attribute(first.node, "group", channels) if first.node.op_type == "Conv" else 1
        source = _channels_before(slicer, start, first.axis)
        feeds = [Feed(f"groups::{value}", value, source[1] if source else first.axis, first.mixes, share)]
    for step in steps:
        feeds += [Feed(_side_name(name, axis), name, axis) for name, axis in step.sides.values()]
    return tuple({feed.name: feed for feed in feeds}.values())


def _side_name(value: str, axis: int | None) -> str:
    return ("whole::" if axis is None else "rows::") + value
