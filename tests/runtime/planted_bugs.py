"""Bugs to plant with a `pytest.MonkeyPatch`, beyond those of the packed lane: each is a function of the patch."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from bitswap_onnx.campaign.store import Store
from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.graph import channels, neurons, resolve
from bitswap_onnx.graph.edits import ALL_INPUTS, InjectionEdits, WeightEdit
from bitswap_onnx.graph.marks import MarkedValues, Marks
from bitswap_onnx.graph.neurons import Flips
from bitswap_onnx.graph.receipts import ResolvedInjection
from bitswap_onnx.graph.row_rules import ROW_RULES
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.stretches import ChannelwiseStretch, StretchRow
from bitswap_onnx.outcome import Golden
from bitswap_onnx.runtime import model_lanes, neuron_lane, packed, worker
from bitswap_onnx.runtime.common_batches import CommonBatches, Rest
from bitswap_onnx.runtime.lanes import Block
from bitswap_onnx.runtime.packed import FAULTY_ROWS, Pack, PackedLane
from bitswap_onnx.runtime.probe import Probe
from bitswap_onnx.runtime.submodel import Submodel
from bitswap_onnx.runtime.worker import Worker

INPUTS, BATCH = 23, 4

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


def both(*mutants: Mutant) -> Mutant:
    def plant(patch: Patch) -> None:
        for mutant in mutants:
            mutant(patch)

    return plant


def probe_looks_away(patch: Patch) -> None:
    """The probe accepts every lane."""
    patch.setattr(Probe, "is_exact", lambda self, lane: True)
    patch.setattr(Probe, "is_exact_for_planted_faults", lambda self, lane, stages: True)


def turned_back(patch: Patch) -> None:
    """Elements of a kernel that is stored the other way round are counted as if it were not."""

    def unmoved(operand: channels.Operand, element: int) -> list[int]:
        return [int(i) for i in np.unravel_index(element, operand.array.shape)]

    patch.setattr(ChannelwiseStretch, "_index", staticmethod(unmoved))


def side_of_the_first_batch(patch: Patch) -> None:
    """What a residual Add takes in beside the channels is that of the first batch."""
    right, kept = packed._fed, list[Any]()

    def first(value: Any, feed: Any, rows: Any) -> Any:
        if feed.value != "side":
            return right(value, feed, rows)
        kept.append(value)
        return right(kept[0], feed, rows)

    patch.setattr(packed, "_fed", first)


def first_reader_only(patch: Patch) -> None:
    """Of the nodes that read a value, the first one alone is known."""

    def readers(self: Slicer) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for i, names in enumerate(self.reads):
            for name in names:
                found.setdefault(name, (i,))
        return found

    patch.setattr(Slicer, "readers", property(readers))


def softmax_apart(patch: Patch) -> None:
    """Softmax counts as an operator that keeps channels apart, whatever its axis."""
    patch.setattr(channels, "_UNARY", channels._UNARY | {"Softmax"})


def keep_lost_on_the_lane(patch: Patch) -> None:
    """Neurons on the fast lane are toggled, and never cleared before."""

    def toggled(self: Flips, bits: NDArray[Any]) -> None:
        bits.reshape(-1)[self.index] ^= self.toggle

    patch.setattr(Flips, "apply", toggled)


def keep_lost_in_the_node(patch: Patch) -> None:
    """Flip nodes toggle, and clear nothing before."""
    add = neurons._Nodes.add

    def without(self: Any, operator: str, *inputs: str, **options: Any) -> str:
        return inputs[0] if operator == "BitwiseAnd" else add(self, operator, *inputs, **options)

    patch.setattr(neurons._Nodes, "add", without)


def stuck_at_0_keeps(patch: Patch) -> None:
    """A neuron that is stuck at 0 keeps its bit."""
    right = neurons.operation

    def wrong(kind: Kind, operand: int, fmt: Any) -> tuple[int, int]:
        return ((1 << fmt.width) - 1, 0) if kind is Kind.STUCK_AT_0 else right(kind, operand, fmt)

    patch.setattr(resolve, "operation", wrong)


def owners_of_the_first_pack(patch: Patch) -> None:
    """What later packs change is put down to the injections of the first one."""
    right = Pack.pairs

    def mixed_up(self: Pack, changed: Any) -> tuple[NDArray[np.intp], ...]:
        inputs, owners, places, channels = right(self, changed)
        return inputs, owners % FAULTY_ROWS, places, channels

    patch.setattr(Pack, "pairs", mixed_up)


def one_fault_per_channel(patch: Patch) -> None:
    """Of several faults of an injection in one channel the last one acts."""

    def rows(self: PackedLane, edits: InjectionEdits) -> list[StretchRow]:
        found: dict[int, dict[str, list[WeightEdit]]] = {}
        for tensor, changes in edits.weights.items():
            for element, mask in changes:
                found.setdefault(self.stretch.channel(tensor, element), {})[tensor] = [WeightEdit(element, mask)]
        return [StretchRow(channel, own) for channel, own in found.items()]

    patch.setattr(PackedLane, "rows", rows)


def golden_of_equal_length(patch: Patch) -> None:
    """Golden scores to judge by are kept for the next chunk of as many inputs."""
    take = Worker._golden_of

    def kept(self: Worker, chunk: Chunk) -> Golden:
        part = self._golden_part
        return part[1] if part and len(part[0]) == len(chunk) else take(self, chunk)

    patch.setattr(Worker, "_golden_of", kept)


def first_model_kept(patch: Patch) -> None:
    """The first faulty model that is loaded, that of the null control, is run for all faults."""
    make = model_lanes.FaultyModel._part

    def kept(self: Any, edits: InjectionEdits) -> Submodel:
        if self._unwritten is None:
            self._unwritten = make(self, edits)
        part: Submodel = self._unwritten
        return part

    patch.setattr(model_lanes.FaultyModel, "_part", kept)


def outcomes_kept(patch: Patch) -> None:
    """A lane that is given up leaves its outcomes behind."""

    def give_up(self: Store, path: int) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM control WHERE path = ?", (path,))
            given_up = json.dumps(sorted(self.given_up | {path}))
            db.execute("INSERT OR REPLACE INTO setting VALUES ('given_up', ?)", (given_up,))

    patch.setattr(Store, "give_up", give_up)


def controls_of_the_first_chunk(patch: Patch) -> None:
    """Every null control is written down for the first chunk."""
    add = Store.add

    def misplaced(self: Store, chunk: Chunk, outcomes: Any, controls: Any = (), fingerprints: Any = ()) -> None:
        add(self, chunk, outcomes, (), fingerprints)
        add(self, Chunk(0, len(chunk)), (), controls)

    patch.setattr(Store, "add", misplaced)


def first_input_lost(patch: Patch) -> None:
    """A neuron fault of the first input of a chunk is not read."""
    read = Store.edits

    def lost(self: Store, position: int, chunk: Chunk) -> InjectionEdits:
        edits = read(self, position, chunk)
        kept = {key: [edit for edit in own if edit.input != chunk.first] for key, own in edits.neurons.items()}
        return InjectionEdits(edits.weights, {key: own for key, own in kept.items() if own})

    patch.setattr(Store, "edits", lost)


def late_packs_lost(patch: Patch) -> None:
    """What comes after the sixth pack is dropped."""
    right = packed.packs
    patch.setattr(packed, "packs", lambda injections: islice(right(injections), 6))


def unchanged_if_any(patch: Patch) -> None:
    """An injection one fault of which changes nothing counts as masked."""
    patch.setattr(
        ResolvedInjection, "changes", property(lambda self: bool(self.neurons) or all(r.mask for r in self.receipts))
    )


def softmax_rows_alone(patch: Patch) -> None:
    """Softmax mixes no rows, not along the batch either."""

    def alone(values: MarkedValues) -> list[Marks]:
        return [values.given()[0]] * len(values.out_shapes)

    patch.setitem(ROW_RULES, "along_axis", alone)


def follows_always(patch: Patch) -> None:
    """A value that is as long as the batch is taken to have its rows."""
    patch.setattr(Slicer, "_grows_with_batch", lambda self, name: True)


def wrong_reader(patch: Patch) -> None:
    """What a node takes in is changed for the first node that reads it."""
    right = neurons._reader

    def first(graph: onnx.GraphProto, site: NeuronSite) -> int:
        own = graph.node[right(graph, site)].input[site.slot]
        return next(
            (i for i, n in enumerate(graph.node) if len(n.input) > site.slot and n.input[site.slot] == own),
            right(graph, site),
        )

    patch.setattr(neurons, "_reader", first)


def counted_over_all(patch: Patch) -> None:
    """An injection's counts are those of the whole chunk, not of the inputs it ran over."""
    add = worker._Tally.add

    def wide(self: Any, outcomes: Any, over: Any, golden: Golden, rows: Any, scores: Any) -> None:
        everywhere: Any = _Wide(outcomes)
        add(self, everywhere, over, golden, rows, scores)

    patch.setattr(worker._Tally, "add", wide)


class _Wide:
    def __init__(self, outcomes: Any) -> None:
        self.outcomes = outcomes

    def over(self, rows: Any) -> Any:
        return replace(self.outcomes.over(rows), counts=self.outcomes.counts)


def last_fault_of_a_neuron(patch: Patch) -> None:
    """Of two faults in one neuron the last one acts."""

    def flips(edits: Any, rows: Any, site: NeuronSite) -> Flips:
        found: dict[int, tuple[int, int]] = {}
        for row, number in enumerate(rows):
            for _, element, keep, toggle in (*edits.get(ALL_INPUTS, ()), *edits.get(number, ())):
                found[row * site.elements + element] = keep, toggle
        changes = np.array(list(found.values()), site.format.view).reshape(-1, 2)
        return Flips(np.fromiter(found, np.int64, len(found)), changes[:, 0].copy(), changes[:, 1].copy())

    for module in (neurons, model_lanes, neuron_lane):
        patch.setattr(module, "flips", flips)


def last_fault_of_a_weight(patch: Patch) -> None:
    """Of two faults in one stored element the last one acts."""
    read = Store.edits

    def last(self: Store, position: int, chunk: Chunk) -> InjectionEdits:
        edits = read(self, position, chunk)
        last_edits = {key: list({edit.element: edit for edit in own}.values()) for key, own in edits.weights.items()}
        return InjectionEdits(last_edits, edits.neurons)

    patch.setattr(Store, "edits", last)


def behind_not_seen(patch: Patch) -> None:
    """What a node takes in is as if nothing were faulty in what the node before it puts out."""
    attach = neurons._attach

    def apart(graph: onnx.GraphProto, site: NeuronSite) -> tuple[str, str]:
        before, after = attach(graph, site)
        for node in graph.node:
            if before == f"{site.key}/clean" and node.name.startswith("@input:"):
                node.input[:] = [before if name == site.value else name for name in node.input]
        return before, after

    patch.setattr(neurons, "_attach", apart)


def rows_gathered_anywhere(patch: Patch) -> None:
    """Gather moves nothing, along the batch neither."""
    patch.setitem(ROW_RULES, "gather", lambda values: [values.given()[0]])


def counted_from_the_block(patch: Patch) -> None:
    """Flip nodes count inputs from the block's first one."""
    run = model_lanes.FaultyModel.run
    patch.setattr(
        model_lanes.FaultyModel,
        "run",
        lambda self, edits, feeds, block: run(self, edits, feeds, Block(block.inputs, block.scores, block.size, 0)),
    )


def golden_at_first(patch: Patch) -> None:
    """A lane that gives golden scores for the first chunk, and then others."""
    run = CommonBatches._run_rest

    def later(self: CommonBatches, *arguments: Any) -> None:
        if self.block.first:
            run(self, *arguments)

    probe_looks_away(patch)
    rest_changed(lambda array: np.nextafter(array, np.float32(np.inf)))(patch)
    patch.setattr(CommonBatches, "_run_rest", later)


def rest_changed(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Mutant:
    """The rest of a stage makes something else."""

    def plant(patch: Patch) -> None:
        right = Rest.part.fget  # type: ignore[attr-defined]

        def wrong(self: Rest) -> Any:
            part = right(self)
            run = lambda feeds: [change(array) for array in part.run(feeds)]  # noqa: E731
            return SimpleNamespace(inputs=part.inputs, outputs=part.outputs, run=run)

        patch.setattr(Rest, "part", property(wrong))

    return plant
