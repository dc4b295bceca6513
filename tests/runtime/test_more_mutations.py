"""More bugs, planted where the model is cut, rows are told apart and a campaign is kept; and what sees each of them.

==========================================================  ====================================================
planted bug                                                 seen by
==========================================================  ====================================================
elements of a turned kernel are counted as it is stored     the probe
a residual Add takes the golden values of the first batch   the probe
of the readers of a value the first one alone is known      the probe
Softmax keeps channels apart, whatever its axis             the probe
a value as long as the batch is taken to have its rows      the probe
what a later pack changes is put down to the first pack     the probe; of three channels only the audit
keep is lost on the lane of neurons                         the probe
the last batch is not written where memory is used again    the null control: only the probe's memory is new
of faults of one channel the last one acts                  the audit: plants have one per channel of 16 or more
golden scores to judge by are those of another chunk        the audit; the fuzzer
the first faulty model that is loaded stays                 the audit
a lane that is given up leaves its outcomes behind          the audit
null controls are written down for the first chunk          the store, when it is opened
faults of a chunk's first input are not read                the store: inputs are missing
packs are dropped                                           an exception: an injection without counts
keep is lost in the flip node                               the fuzzer; the probe sees a lane that is right
stuck_at_0 keeps its bit                                    the fuzzer
flip nodes count inputs from the block's first one          the fuzzer
what a node takes in is changed for another reader          the fuzzer
one fault without effect makes an injection masked          the fuzzer
Softmax mixes no rows, along the batch neither              the fuzzer
of two faults in one weight the last one acts               a comparison with one mask, here; no guard, no fuzzer
of two faults in one neuron the last one acts               the same
a fault before another one on the same value is not seen    the same
Gather moves no rows, along the batch neither               a comparison with the right batches, here alone
the same of eight other rules for rows                      a model for each, here
counts are those of the whole chunk                         the store, when it is opened: results were written
==========================================================  ====================================================

The fuzzer sees nothing of what leaves scores right: where the probe or the null control sees a bug, its campaigns are. It
draws no two faults in one element and no two sites in one injection, and has few ways for inputs to see each other.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from bitswap_onnx.campaign.audit import Audit
from bitswap_onnx.campaign.run import Campaign, run_campaign
from bitswap_onnx.campaign.setup import Settings
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.errors import ControlFailedError, RunError
from bitswap_onnx.faults.fault import Fault, Injection, Kind, Site
from bitswap_onnx.graph import channels, neurons, resolve
from bitswap_onnx.graph.heads import ROWS, Head, StretchRow
from bitswap_onnx.graph.marks import MarkedValues, Marks
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.neurons import ALL_INPUTS, Flips
from bitswap_onnx.graph.receipts import InjectionEdits, ResolvedInjection
from bitswap_onnx.graph.row_rules import ROW_RULES
from bitswap_onnx.graph.sites import NeuronSite, is_site
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.outcome import Golden
from bitswap_onnx.runtime import lanes, neuron_lane, worker
from bitswap_onnx.runtime.golden_values import GoldenValues
from bitswap_onnx.runtime.incremental import IncrementalEngine
from bitswap_onnx.runtime.lanes import Block, Faulty
from bitswap_onnx.runtime.measure import why_one_at_a_time
from bitswap_onnx.runtime.packed import Pack, PackedLane
from bitswap_onnx.runtime.submodel import Submodel
from bitswap_onnx.runtime.worker import Worker
from tests.benchmarks.fuzz.run import Options, check_network
from tests.builders import build, normal, save

INPUTS, BATCH = 23, 4

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


# -- bugs ------------------------------------------------------------------------------------------------------------


def turned_back(patch: Patch) -> None:
    """Elements of a kernel that is stored the other way round are counted as if it were not."""

    def unmoved(operand: channels.Operand, element: int) -> list[int]:
        return [int(i) for i in np.unravel_index(element, operand.array.shape)]

    patch.setattr(Head, "_index", staticmethod(unmoved))


def side_of_the_first_batch(patch: Patch) -> None:
    """What a residual Add takes in beside the channels is that of the block's first batch."""
    batch = Block.batch
    patch.setattr(Block, "batch", lambda self, name, start: batch(self, name, 0 if name == "side" else start))


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


def last_batch_of_the_block_before(patch: Patch) -> None:
    """Where memory of a block is used again, its last batch is not written."""
    make = GoldenValues._values

    def partly(self: GoldenValues, inputs: Any, names: frozenset[str], spare: dict[str, Any]) -> dict[str, Any]:
        before = {name: array.copy() for name, array in spare.items()}
        values = make(self, inputs, names, spare)
        for name, array in before.items():
            values[name][-BATCH:] = array[: len(values[name])][-BATCH:]
        return values

    patch.setattr(GoldenValues, "_values", partly)


def owners_of_the_first_pack(patch: Patch) -> None:
    """What later packs change is put down to the injections of the first one."""
    finish = PackedLane._finish

    def mixed_up(self: PackedLane, numbers: list[int], held: list[Any], block: Block) -> Faulty:
        counted = [replace(pairs, owner=pairs.owner % (ROWS // pairs.channels.shape[1])) for pairs in held]
        return finish(self, numbers, counted, block)

    patch.setattr(PackedLane, "_finish", mixed_up)


def one_fault_per_channel(patch: Patch) -> None:
    """Of several faults of an injection in one channel the last one acts."""

    def rows(self: PackedLane, edits: InjectionEdits) -> list[StretchRow]:
        found: dict[int, dict[str, list[tuple[int, ...]]]] = {}
        for tensor, changes in edits.items():
            for element, mask in changes:
                found.setdefault(self.head.channel(tensor, element), {})[tensor] = [(element, mask)]
        return [StretchRow(channel, own) for channel, own in found.items()]

    patch.setattr(PackedLane, "rows", rows)


def golden_of_equal_length(patch: Patch) -> None:
    """Golden scores to judge by are kept for the next chunk of as many inputs."""
    take = Worker._golden_part

    def kept(self: Worker, first: int, inputs: int) -> Golden:
        return self.part[1] if self.part and self.part[0][1] == inputs else take(self, first, inputs)

    patch.setattr(Worker, "_golden_part", kept)


def first_model_kept(patch: Patch) -> None:
    """The first faulty model that is loaded, that of the null control, is run for all faults."""
    make = lanes._FaultyModel._part

    def kept(self: Any, edits: InjectionEdits) -> Submodel:
        if not self._loaded:
            self._loaded[:] = [make(self, edits)]
        part: Submodel = self._loaded[0]
        return part

    patch.setattr(lanes._FaultyModel, "_part", kept)


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

    def misplaced(self: Store, chunk: Chunk, outcomes: Any, controls: Any = ()) -> None:
        add(self, chunk, outcomes)
        add(self, Chunk(0, len(chunk)), (), controls)

    patch.setattr(Store, "add", misplaced)


def first_input_lost(patch: Patch) -> None:
    """A neuron fault of the first input of a chunk is not read."""
    read = Store.edits

    def lost(self: Store, position: int, chunk: Chunk) -> InjectionEdits:
        edits = read(self, position, chunk)
        kept = {key: [e for e in own if not is_site(key) or e[0] != chunk.first] for key, own in edits.items()}
        return {key: own for key, own in kept.items() if own}

    patch.setattr(Store, "edits", lost)


def late_packs_lost(patch: Patch) -> None:
    """What comes after the sixth pack is dropped."""
    run_packs = PackedLane._run_packs

    def some(self: PackedLane, packs: Iterator[Pack], block: Block) -> Iterator[Faulty]:
        return run_packs(self, islice(packs, 6), block)

    patch.setattr(PackedLane, "_run_packs", some)


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
    patch.setattr(Slicer, "_follows", lambda self, name: True)


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

    for module in (neurons, lanes, neuron_lane):
        patch.setattr(module, "flips", flips)


def last_fault_of_a_weight(patch: Patch) -> None:
    """Of two faults in one stored element the last one acts."""
    read = Store.edits

    def last(self: Store, position: int, chunk: Chunk) -> InjectionEdits:
        edits = read(self, position, chunk)
        return {
            key: list(own) if is_site(key) else list({edit[0]: edit for edit in own}.values())
            for key, own in edits.items()
        }

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
    scores = lanes._FaultyModel.scores
    patch.setattr(
        lanes._FaultyModel,
        "scores",
        lambda self, edits, feeds, block: scores(self, edits, feeds, replace(block, first=0)),
    )


# -- models and lists ------------------------------------------------------------------------------------------------

TURNED = """net (float[N, 8] x) => (float[N, 4] scores) {
    kernel = Transpose <perm = [1, 0]> ("first.weight")
    a = MatMul (x, kernel)
    b = Relu (a)
    scores = Gemm <transB = 1> (b, "fc.weight")
}"""

RESIDUAL = """net (float[N, 1, 6, 6] x) => (float[N, 4] scores) {
    side = Conv <kernel_shape = [3, 3]> (x, "second.weight")
    a = Conv <kernel_shape = [3, 3]> (x, "first.weight")
    b = Add (a, side)
    c = Relu (b)
    d = Flatten (c)
    scores = Gemm <transB = 1> (d, "fc.weight")
}"""

FORKED = """net (float[N, 1, 6, 6] x) => (float[N, 4] scores) {
    a = Conv <kernel_shape = [3, 3]> (x, "first.weight")
    b = Relu (a)
    c = Neg (a)
    d = Mul (b, c)
    e = Sub (d, a)
    f = Flatten (e)
    scores = Gemm <transB = 1> (f, "fc.weight")
}"""

TOKENS_FIRST = """net (float[N, 4, 8] x) => (float[N, 4] scores) {
    a = MatMul (x, "first.weight")
    b = Transpose <perm = [1, 0, 2]> (a)
    c = Transpose <perm = [1, 0, 2]> (x)
    d = Add (b, c)
    e = Transpose <perm = [1, 0, 2]> (d)
    f = Flatten (e)
    scores = Gemm <transB = 1> (f, "fc.weight")
}"""

SHARES = """net (float[N, 1, 6, 6] x) => (float[N, 4] scores) {
    a = Conv <kernel_shape = [3, 3]> (x, "first.weight")
    b = Softmax <axis = 1> (a)
    c = Flatten (b)
    scores = Gemm <transB = 1> (c, "fc.weight")
}"""

LESS_THE_FIRST = """net (float[N, 8] x) => (float[N, 4] scores) {
    a = Gemm <transB = 1> (x, "first.weight")
    first = Gather (a, zero)
    b = Sub (a, first)
    scores = Gemm <transB = 1> (b, "fc.weight")
}"""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with the ``shape`` of its ``first`` layer's weights, which faults hit, and of its ``x``."""

    body: str
    x: tuple[int, ...]
    shape: tuple[int, ...]
    hidden: int

    @property
    def proto(self) -> onnx.ModelProto:
        sizes: dict[str, Any] = {"first__weight": normal(*self.shape), "fc__weight": normal(4, self.hidden, seed=1)}
        if "zero" in self.body:
            sizes["zero"] = np.array([0])
        if "second" in self.body:
            sizes["second__weight"] = normal(*self.shape, seed=2)
        return build(self.body, **sizes)

    @property
    def faults(self) -> list[Injection]:
        """Flips of single bits, all over the weights."""
        cells = list(np.ndindex(*self.shape))
        chosen = [cells[i * len(cells) // 40] for i in range(40)]
        return [Injection(f"f{i}", (Fault("first", cell, 29 - i % 7),)) for i, cell in enumerate(chosen)]


IMAGE = 1, 6, 6
tokens = Subject(TOKENS_FIRST, (BATCH, 8), (8, 8), 32)
relative = Subject(LESS_THE_FIRST, (8,), (16, 8), 16)
turned = Subject(TURNED, (8,), (5, 8), 5)
residual = Subject(RESIDUAL, IMAGE, (3, 1, 3, 3), 48)
forked = Subject(FORKED, IMAGE, (3, 1, 3, 3), 48)
shares = Subject(SHARES, IMAGE, (16, 1, 3, 3), 256)
plain_body = SHARES.replace("Softmax <axis = 1>", "Relu")
three, many = (Subject(plain_body, IMAGE, (n, 1, 3, 3), 16 * n) for n in (3, 32))


def run(subject: Subject, folder: Path, injections: Sequence[Injection] | None = None, **options: Any) -> Campaign:
    folder.mkdir(exist_ok=True)
    model = save(subject.proto, folder / "model.onnx")
    np.savez(folder / "model.npz", x=normal(INPUTS, *subject.x, seed=3), y=np.arange(INPUTS) % 4)
    settings = Settings(batch_size=BATCH, layout="plain")
    options = {"audit": Audit(0)} | options
    injections = subject.faults if injections is None else injections
    return run_campaign(model, injections, run=folder / "run", workers=0, settings=settings, **options)


def results(folder: Path) -> bytes:
    return (folder / "run/results.csv").read_bytes()


def neurons_of(subject: Subject) -> list[Injection]:
    """Faults of every kind in what the first layer puts out, over all inputs and over one."""
    kinds = [Kind.STUCK_AT_0, Kind.STUCK_AT_1, Kind.FLIP]
    cells = list(np.ndindex(3, 4, 4))
    return [
        Injection(
            f"n{i}",
            (Fault("first", cell, 30 - i % 8, kinds[i % 3], site=Site.OUTPUT, input=None if i % 2 else i % INPUTS),),
        )
        for i, cell in enumerate(cells)
    ]


# -- what sees them --------------------------------------------------------------------------------------------------


def both(*mutants: Mutant) -> Mutant:
    def plant(patch: Patch) -> None:
        for mutant in mutants:
            mutant(patch)

    return plant


def every_lane_accepted(patch: Patch) -> None:
    """The probe looks away."""
    patch.setattr(IncrementalEngine, "is_exact", lambda self, lane: True)
    patch.setattr(IncrementalEngine, "bears_plants", lambda self, lane, path: True)


@pytest.mark.parametrize(
    ("mutant", "subject"),
    [
        (turned_back, turned),
        (side_of_the_first_batch, residual),
        (first_reader_only, forked),
        (softmax_apart, shares),
        (follows_always, tokens),
        (owners_of_the_first_pack, many),
    ],
)
def test_the_probe_sees(mutant: Mutant, subject: Subject, monkeypatch: Patch, tmp_path: Path) -> None:
    """So the lane that the path has without the bug is declined, and the results are right."""
    clean = run(subject, tmp_path / "clean")
    assert clean.golden["lanes"] == {"first.weight": "packed"}
    mutant(monkeypatch)
    found = run(subject, tmp_path / "found")
    assert found.golden["lanes"] in ({"first.weight": "cone"}, {"first.weight": "whole"})
    assert results(tmp_path / "found") == results(tmp_path / "clean")


@pytest.mark.parametrize("mutant", [keep_lost_on_the_lane, keep_lost_in_the_node])
def test_the_probe_sees_bits_that_are_kept(mutant: Mutant, monkeypatch: Patch, tmp_path: Path) -> None:
    """The lane is declined; where flip nodes are wrong, the campaign is, on both engines: the fuzzer sees that."""
    clean = run(three, tmp_path / "clean", neurons_of(three))
    assert list(clean.golden["lanes"].values()) == ["neuron"]
    mutant(monkeypatch)
    found = run(three, tmp_path / "found", neurons_of(three))
    assert list(found.golden["lanes"].values()) != ["neuron"]
    is_right = results(tmp_path / "found") == results(tmp_path / "clean")
    assert is_right == (mutant is keep_lost_on_the_lane)


def test_the_null_control_sees(monkeypatch: Patch, tmp_path: Path) -> None:
    """The probe does not: its golden values are one block, whose memory is new."""
    run(three, tmp_path / "clean")
    last_batch_of_the_block_before(monkeypatch)
    found = run(three, tmp_path / "found")
    assert found.golden["lanes"] == {"first.weight": "whole"}
    assert found.golden["given_up"] == ["first.weight"]
    assert results(tmp_path / "found") == results(tmp_path / "clean")


def golden_at_first(patch: Patch) -> None:
    """A lane that gives golden scores for the first chunk, and then others."""
    run_suffix = PackedLane._scores

    def scores(self: PackedLane, block: Block, pairs: Any) -> Any:
        found = run_suffix(self, block, pairs)
        return np.nextafter(found, np.float32(np.inf)) if block.first else block.scores[pairs.inputs]

    every_lane_accepted(patch)
    patch.setattr(PackedLane, "_scores", scores)


def pairs_of_faults() -> list[Injection]:
    """Two faults of an injection in one channel."""
    cells = list(np.ndindex(32, 1, 3, 3))[:72]
    return [
        Injection(f"p{i}", (Fault("first", a, 28), Fault("first", b, 27)))
        for i, (a, b) in enumerate(zip(cells[::2], cells[1::2], strict=True))
    ]


@pytest.mark.parametrize(
    ("mutant", "subject", "injections"),
    [
        (owners_of_the_first_pack, three, None),
        (one_fault_per_channel, many, pairs_of_faults()),
        (golden_of_equal_length, three, None),
        (first_model_kept, three, [Injection(f"b{i}", (Fault("fc", (i, 0), 29),)) for i in range(3)]),
        (both(golden_at_first, outcomes_kept), three, None),
    ],
    ids=["owners", "one fault per channel", "golden of equal length", "first model kept", "outcomes kept"],
)
def test_the_audit_sees(
    mutant: Mutant, subject: Subject, injections: list[Injection] | None, monkeypatch: Patch, tmp_path: Path
) -> None:
    """With its eyes open the probe takes the lane: of these bugs it sees nothing."""
    mutant(monkeypatch)
    with pytest.raises(ControlFailedError, match="the audit failed"):
        run(subject, tmp_path, injections, audit=Audit(10))
    assert not (tmp_path / "run/results.csv").exists()


def test_outcomes_of_a_lane_that_is_given_up_are_thrown_away(monkeypatch: Patch, tmp_path: Path) -> None:
    """Without the bug in the store, the same lane does no harm."""
    run(three, tmp_path / "clean")
    golden_at_first(monkeypatch)
    assert run(three, tmp_path / "found", audit=Audit(10)).golden["given_up"] == ["first.weight"]
    assert results(tmp_path / "found") == results(tmp_path / "clean")


def test_a_store_with_controls_of_other_chunks_is_refused(monkeypatch: Patch, tmp_path: Path) -> None:
    controls_of_the_first_chunk(monkeypatch)
    with pytest.raises(RunError, match="the null control of path 0 from input 0 on has inputs that are no chunk"):
        run(three, tmp_path)
    assert not (tmp_path / "run/results.csv").exists()


def test_a_store_that_lacks_inputs_is_refused(monkeypatch: Patch, tmp_path: Path) -> None:
    first_input_lost(monkeypatch)
    with pytest.raises(RunError, match="injections have not run over all inputs"):
        run(three, tmp_path, neurons_of(three))
    assert not (tmp_path / "run/results.csv").exists()


def test_lost_packs_are_loud(monkeypatch: Patch, tmp_path: Path) -> None:
    """Their injections have no counts, which no store takes."""
    late_packs_lost(monkeypatch)
    cells = list(np.ndindex(3, 1, 3, 3))
    every = [
        Injection(f"f{bit}.{i}", (Fault("first", cell, bit),)) for bit in range(25, 30) for i, cell in enumerate(cells)
    ]
    with pytest.raises(KeyError):
        run(three, tmp_path, every)


# -- what no guard of a campaign sees ---------------------------------------------------------------------------------


def scores(subject: Subject, folder: Path, injections: Sequence[Injection], **options: Any) -> NDArray[np.float32]:
    """Return the scores of a campaign's injections over all inputs."""
    run(subject, folder, injections, save_outputs=True, **options)
    return np.stack([np.load(folder / f"run/outputs/inj_{injection.id}.npy") for injection in injections])


def doubled(where: Site | None, second: tuple[str, Site | None]) -> tuple[list[Injection], list[Injection]]:
    """Two flips in one element, as two faults and as one mask; ``second``: where the other one is written down."""
    cells = list(np.ndindex(3, 1, 3, 3) if where is None else np.ndindex(3, 4, 4))
    layer, site = second
    flips = [(Fault("first", c, 29, site=where), Fault(layer, c, 22, site=site)) for c in cells]
    masks = [(Fault("first", c, None, Kind.MASK, hex(1 << 29 | 1 << 22), site=where),) for c in cells]
    one, other = ([Injection(f"f{i}", own) for i, own in enumerate(made)] for made in (flips, masks))
    return one, other


@pytest.mark.parametrize(
    ("mutant", "where", "second"),
    [
        (last_fault_of_a_weight, None, ("first", None)),
        (last_fault_of_a_neuron, Site.OUTPUT, ("first", Site.OUTPUT)),
        (behind_not_seen, Site.OUTPUT, ("b", Site.INPUT)),
    ],
    ids=["weight", "neuron", "two sites of one value"],
)
def test_two_flips_are_one_mask(
    mutant: Mutant, where: Site | None, second: tuple[str, Site | None], monkeypatch: Patch, tmp_path: Path
) -> None:
    """Both engines share what is wrong, and the fuzzer never draws such faults: this comparison alone sees it."""
    flips, mask = doubled(where, second)
    right = [scores(three, tmp_path / name, own) for name, own in (("flips", flips), ("mask", mask))]
    assert np.array_equal(right[0], right[1], equal_nan=True)
    mutant(monkeypatch)
    found = scores(three, tmp_path / "found", flips, audit=Audit(10))
    assert not np.array_equal(found, right[0], equal_nan=True)


def test_inputs_that_see_each_other_run_one_at_a_time(monkeypatch: Patch, tmp_path: Path) -> None:
    """If no rule tells that they do, nothing does: scores are those of the batches at hand."""
    expected = scores(relative, tmp_path / "right", relative.faults)
    rows_gathered_anywhere(monkeypatch)
    found = scores(relative, tmp_path / "found", relative.faults, audit=Audit(10))
    assert not np.array_equal(found, expected)


#: Rule → nodes behind which rows see each other, which only that rule tells.
MIXED = {
    "reduce": "m = ReduceMean <keepdims = 1> (a, zeros)\n y = Sub (a, m)",
    "gather": "m = Gather (a, zeros)\n y = Sub (a, m)",
    "along_axis": "y = CumSum (a, zero)",
    "move": "m = Slice (a, ones, far, zeros)\n n = Slice (a, zeros, ones, zeros)\n y = Concat <axis = 0> (m, n)",
    "arg": "m = ArgMax <axis = 0, keepdims = 1> (a)\n n = Cast <to = 1> (m)\n y = Add (a, n)",
    "einsum": 'y = Einsum <equation = "ij,kj->ij"> (a, a)',
    "gather_elements": "m = Sub (a, a)\n n = Cast <to = 7> (m)\n y = GatherElements <axis = 0> (a, n)",
    "moments": "y = MeanVarianceNormalization <axes = [0]> (a)",
    "samples": "m = Reshape (a, image)\n n = MaxPool <kernel_shape = [3, 1], pads = [1, 0, 1, 0]> (m)\n"
    " y = Reshape (n, shape)",
}


@pytest.mark.parametrize("rule", MIXED)
def test_each_rule_tells_that_inputs_see_each_other(rule: str, monkeypatch: Patch) -> None:
    """Without it, none does: see above for what becomes of the scores."""
    tensors: dict[str, Any] = {"zeros": np.array([0]), "zero": np.int64(0), "ones": np.array([1])}
    tensors |= {"far": np.array([1 << 40]), "shape": np.array([-1, 4]), "image": np.array([1, 1, -1, 4])}
    text = f'net (float[N, 5] x) => (float[N, 4] y) {{\n a = Gemm <transB = 1> (x, "fc.weight")\n {MIXED[rule]}\n}}'
    model = from_proto(build(text, fc__weight=normal(4, 5), **tensors))
    assert why_one_at_a_time(model, "y", normal(3, 5), None)
    monkeypatch.setitem(ROW_RULES, rule, lambda values: [values.given()[0]] * len(values.out_shapes))
    assert why_one_at_a_time(model, "y", normal(3, 5), None) is None


def test_counts_over_too_many_inputs_are_refused_before_results_are_written(monkeypatch: Patch, tmp_path: Path) -> None:
    """The audit counts the same way and does not see it."""
    counted_over_all(monkeypatch)
    with pytest.raises(RunError, match="has counts that are no whole numbers of its inputs"):
        run(three, tmp_path, neurons_of(three), audit=Audit(10))
    assert not (tmp_path / "run/results.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "number"),
    [
        (counted_from_the_block, 0),
        (keep_lost_in_the_node, 0),
        (stuck_at_0_keeps, 1),
        (golden_of_equal_length, 2),
        (unchanged_if_any, 3),
        (wrong_reader, 13),
        (softmax_rows_alone, 28),
    ],
)
def test_the_fuzzer_sees(mutant: Mutant, number: int, monkeypatch: Patch, tmp_path: Path) -> None:
    """What both engines share, in one of its networks, which is clean without the bug."""
    options = Options(seed=5, count=40, reference_every=number + 1)
    assert not check_network(number, options, tmp_path / "clean").findings
    mutant(monkeypatch)
    assert check_network(number, options, tmp_path / "found").findings
