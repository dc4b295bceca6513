"""The packed lane with activations on a device: golden values, their comparison and compaction stay there.

The host receives only which rows changed, and the scores. The small graphs that compare and compact use standard ONNX
operators that the CUDA provider has. Tests run all of it with the CPU as the device.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.stretches import ROWS, StretchRow
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.lanes import Block, FaultyScores, flat, same
from bitswap_onnx.runtime.packed import Pack, PackedLane, padded_batches
from bitswap_onnx.runtime.submodel import Submodel, open_part, to_device

_OPSET = 17  # ReduceMax still has its axes as an attribute


@dataclass(frozen=True, eq=False)
class DeviceLane(PackedLane):
    """A `PackedLane` on a device, where each golden value is a list of one device value per batch (`Block.values`)."""

    device: str = "cuda"
    _graphs: dict[object, Submodel] = field(default_factory=dict)

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """As `PackedLane.control`; ``rows`` run batch by batch, in their order within each."""
        clean = self._sample()
        places = np.arange(len(clean))
        channels = np.array([row.channel for row in clean])
        stays_golden = np.zeros(block.count, np.bool_)
        for start, value, changed in self._run_stretch(clean, block):
            batch_rows = rows[(rows >= start) & (rows < start + block.size)]
            inputs = batch_rows - start
            shape = (len(batch_rows), len(clean))
            scores = self._batch_scores(
                block, start, value, inputs, np.broadcast_to(places, shape), np.broadcast_to(channels, shape)
            )
            is_same = same(scores, block.scores[batch_rows])
            stays_golden[batch_rows] = is_same & ~changed[inputs, : len(clean)].any(axis=1)
        return stays_golden[rows]

    def _run_packs(self, packs: Iterator[Pack], block: Block) -> Iterator[FaultyScores]:
        for pack in packs:
            pairs, scores = [], []
            for start, value, changed in self._run_stretch(pack.rows, block):
                inputs, owner, places, channels = pack.pairs(changed[: block.count - start])
                scores.append(self._batch_scores(block, start, value, inputs, places, channels))
                pairs.append((inputs + start, owner))
            rows, owners = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
            order = np.argsort(owners, kind="stable")
            bounds = np.searchsorted(owners[order], np.arange(len(pack.numbers) + 1)).tolist()
            yield FaultyScores(block.count, pack.numbers, rows[order], bounds, np.concatenate(scores)[order])

    def _run_stretch(self, rows: Sequence[StretchRow], block: Block) -> Iterator[tuple[int, Any, NDArray[np.bool_]]]:
        """As in `PackedLane`, with the value on the device."""
        padded = [*rows, *[StretchRow(rows[-1].channel, {})] * (ROWS - len(rows))]
        part = open_part(self.stretch.build(padded), self.numerics, self.blocked[0])
        chosen = {
            feed.name: self._on_device(feed.channels(padded)) for feed in self.stretch.feeds if feed.axis is not None
        }
        channels = self._on_device(np.array([row.channel for row in padded]))
        for start in block.starts:
            feeds = {}
            for feed in self.stretch.feeds:
                value = block.batch(feed.value, start)
                if feed.axis is not None:
                    gather = self._gather(feed.value, feed.axis)
                    (value,) = gather.run_on({"value": value, "chosen": chosen[feed.name]}, self.device)
                feeds[feed.name] = value
            (value,) = part.run_on(feeds, self.device)
            golden = block.batch(self.stretch.value, start)
            (changed,) = self._compare.run({"value": value, "golden": golden, "channels": channels})
            yield start, value, changed > 0

    def _batch_scores(
        self,
        block: Block,
        start: int,
        value: Any,
        inputs: NDArray[np.intp],
        places: NDArray[np.intp],
        channels: NDArray[np.intp],
    ) -> Scores:
        """Return the scores of pairs in a batch: golden ``inputs`` (p,) with rows ``places`` of ``value`` put in."""
        scores = []
        for chosen in padded_batches(np.arange(len(inputs)), self.numerics.batch_size):
            pairs = np.broadcast_to(np.arange(len(chosen))[:, None], places[chosen].shape)
            owners = np.broadcast_to(inputs[chosen][:, None], places[chosen].shape)
            rows = self._on_device(inputs[chosen])
            indices = {
                "rows": rows,
                "source": self._on_device(np.stack([owners, places[chosen]], -1)),
                "target": self._on_device(np.stack([pairs, channels[chosen]], -1)),
            }
            feeds = {}
            for name in self._fed:
                golden = block.batch(name, start)
                if name == self.stretch.value:
                    (feeds[name],) = self._put.run_on({"golden": golden, "value": value, **indices}, self.device)
                else:
                    (feeds[name],) = self._gather(name, 0).run_on({"value": golden, "chosen": rows}, self.device)
            scores.append(self._suffix.run(feeds)[0] if self._suffix else feeds[self.stretch.value].numpy())
        return flat(np.concatenate(scores))[: len(inputs)] if scores else block.scores[:0]

    def _on_device(self, array: NDArray[np.intp]) -> Any:
        return to_device(np.ascontiguousarray(array, np.int64), self.device)

    @cached_property
    def _compare(self) -> Submodel:
        return self._graph(_compare_graph, self.stretch.value, self.stretch.axis)

    @cached_property
    def _put(self) -> Submodel:
        return self._graph(_put_graph, self.stretch.value, self.stretch.axis)

    def _gather(self, name: str, axis: int) -> Submodel:
        return self._graph(_gather_graph, name, axis)

    def _graph(self, make: Callable[[int, int, int], onnx.GraphProto], value: str, axis: int) -> Submodel:
        """Return a small graph for arrays like ``value``, loaded once."""
        dims = self.slicer.dims(value)
        assert dims is not None
        key = make, len(dims), helper.np_dtype_to_tensor_dtype(self.slicer.dtype(value)), axis
        if key not in self._graphs:
            proto = helper.make_model(make(*key[1:]), opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
            self._graphs[key] = open_part(Model(proto, "graph", Path.cwd(), sha256=""), self.numerics)
        return self._graphs[key]


def _array(name: str, kind: int, rank: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [f"{name}_{i}" for i in range(rank)])


def _gather_graph(rank: int, kind: int, axis: int) -> onnx.GraphProto:
    """Return a graph that takes the elements ``chosen`` (n,) of ``value`` along an axis."""
    node = helper.make_node("Gather", ["value", "chosen"], ["taken"], axis=axis)
    inputs = [_array("value", kind, rank), _array("chosen", TensorProto.INT64, 1)]
    return helper.make_graph([node], "gather", inputs, [_array("taken", kind, rank)])


def _compare_graph(rank: int, kind: int, axis: int) -> onnx.GraphProto:
    """Return a graph that marks by 1 each (input, row) of ``value`` whose bits are not those of ``golden``'s channel.

    Reciprocals tell the signs of zeros apart. NaN differs from everything, which is safe: the row runs through the suffix.
    """
    node = helper.make_node
    others = [i for i in range(1, rank) if i != axis]
    nodes = [
        node("Gather", ["golden", "channels"], ["golden_channels"], axis=axis),
        node("Equal", ["value", "golden_channels"], ["equal"]),
        node("Reciprocal", ["value"], ["one_over_value"]),
        node("Reciprocal", ["golden_channels"], ["one_over_golden"]),
        node("Equal", ["one_over_value", "one_over_golden"], ["same_sign"]),
        node("And", ["equal", "same_sign"], ["golden_bits"]),
        node("Not", ["golden_bits"], ["other_bits"]),
        node("Cast", ["other_bits"], ["marks"], to=TensorProto.FLOAT),
        node("ReduceMax", ["marks"], ["changed"], axes=others, keepdims=0)
        if others
        else node("Identity", ["marks"], ["changed"]),
    ]
    inputs = [_array("value", kind, rank), _array("golden", kind, rank), _array("channels", TensorProto.INT64, 1)]
    return helper.make_graph(nodes, "compare", inputs, [_array("changed", TensorProto.FLOAT, 2)])


def _put_graph(rank: int, kind: int, axis: int) -> onnx.GraphProto:
    """Return a graph that takes ``rows`` (p,) of ``golden`` and puts channels of ``value`` into them.

    ``source`` (p, width, 2) are (input, row) of ``value``, ``target`` (p, width, 2) are (pair, channel).
    """
    node = helper.make_node
    front = [0, axis, *(i for i in range(1, rank) if i != axis)]
    back = [front.index(i) for i in range(rank)]
    nodes = [
        node("Gather", ["golden", "rows"], ["taken"], axis=0),
        node("Transpose", ["taken"], ["by_channel"], perm=front),
        node("Transpose", ["value"], ["value_by_channel"], perm=front),
        node("GatherND", ["value_by_channel", "source"], ["picked"]),
        node("ScatterND", ["by_channel", "target", "picked"], ["mixed"]),
        node("Transpose", ["mixed"], ["faulty"], perm=back),
    ]
    indices = [_array(name, TensorProto.INT64, 3) for name in ("source", "target")]
    inputs = [_array("value", kind, rank), _array("golden", kind, rank), _array("rows", TensorProto.INT64, 1), *indices]
    return helper.make_graph(nodes, "put", inputs, [_array("faulty", kind, rank)])
