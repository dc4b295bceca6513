"""Bugs planted one by one in cuts, in rules for rows, in neuron lanes and in the store, and the guard that sees each.

==========================================================  ====================================================
planted bug                                                 seen by
==========================================================  ====================================================
elements of a turned kernel are counted as it is stored     the probe
a residual Add takes the golden values of the first batch   the probe
of the readers of a value the first one alone is known      the probe
Softmax keeps channels apart, whatever its axis             the probe
a value as long as the batch is taken to have its rows      the probe
changes of a later pack are counted for the first pack      the audit; the store if there are more than inputs
keep is lost on the lane of neurons                         the probe
of faults of one channel the last one acts                  the audit: plants have one per channel of 15 or more
golden scores of another chunk are judged against           the audit; the fuzzer
the first faulty model that is loaded stays                 the audit
a lane that is given up leaves its outcomes behind          the audit
null controls are stored for the first chunk                the store, when it is opened
faults of a chunk's first input are not read                the store: inputs are missing
packs are dropped                                           an exception
keep is lost in the flip node                               the fuzzer; the probe sees a lane that is right
stuck_at_0 keeps its bit                                    the fuzzer
flip nodes count inputs from the block's first one          the fuzzer
a fault at the input of a node hits another reader          the fuzzer
one fault without effect makes an injection masked          the fuzzer
Softmax mixes no rows, along the batch neither              the fuzzer
of two faults in one weight the last one acts               a comparison with one mask, here; no guard, no fuzzer
of two faults in one neuron the last one acts               the same
a fault before another one on the same value is not seen    the same
Gather moves no rows, along the batch neither               a comparison with the right batches, here alone
the same of eight other rules for rows                      a model for each, here
counts are those of the whole chunk                         the store, when it is opened: results were written
==========================================================  ====================================================

The fuzzer does not see bugs that leave scores right, as those that the probe or the null control sees. It
draws no two faults in one element and no two sites in one injection, and has few ways for inputs to see each other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitswap_onnx.campaign.options import Audit
from bitswap_onnx.data import chunks
from bitswap_onnx.errors import ControlFailedError, RunError
from bitswap_onnx.faults.fault import Fault, Injection, Kind, Site
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.row_rules import ROW_RULES
from bitswap_onnx.runtime.measure import why_one_at_a_time
from tests.benchmarks.fuzz.run import Options, check_network
from tests.builders import build, normal
from tests.runtime.mutated_campaigns import (
    Subject,
    forked,
    many,
    neurons_of,
    relative,
    residual,
    results,
    run,
    shares,
    three,
    tokens,
    turned,
)
from tests.runtime.planted_bugs import (
    Mutant,
    Patch,
    behind_not_seen,
    both,
    controls_of_the_first_chunk,
    counted_from_the_block,
    counted_over_all,
    first_input_lost,
    first_model_kept,
    first_reader_only,
    follows_always,
    golden_at_first,
    golden_of_equal_length,
    keep_lost_in_the_node,
    keep_lost_on_the_lane,
    last_fault_of_a_neuron,
    last_fault_of_a_weight,
    late_packs_lost,
    one_fault_per_channel,
    outcomes_kept,
    owners_of_the_first_pack,
    rows_gathered_anywhere,
    side_of_the_first_batch,
    softmax_apart,
    softmax_rows_alone,
    stuck_at_0_keeps,
    turned_back,
    unchanged_if_any,
    wrong_reader,
)


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: Patch) -> None:
    monkeypatch.setattr(chunks, "BATCHES_PER_CHUNK", 2)


@pytest.mark.parametrize(
    ("mutant", "subject"),
    [
        (turned_back, turned),
        (side_of_the_first_batch, residual),
        (first_reader_only, forked),
        (softmax_apart, shares),
        (follows_always, tokens),
    ],
)
def test_the_probe_sees(mutant: Mutant, subject: Subject, monkeypatch: Patch, tmp_path: Path) -> None:
    """So the lane that the path has without the bug is declined, and the results are right."""
    clean = run(subject, tmp_path / "clean")
    assert clean.golden["lanes"] == {"first.weight": "packed"}
    mutant(monkeypatch)
    found = run(subject, tmp_path / "found")
    assert found.golden["lanes"] == {"first.weight": "whole"}
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


def pairs_of_faults() -> list[Injection]:
    """Two faults of an injection in one channel."""
    cells = list(np.ndindex(32, 1, 3, 3))[:72]
    return [
        Injection(f"p{i}", (Fault("first", a, 28), Fault("first", b, 27)))
        for i, (a, b) in enumerate(zip(cells[::2], cells[1::2], strict=True))
    ]


@pytest.mark.parametrize("audit", [Audit(10), Audit(time=1e-9)], ids=["chunks", "batches"])
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
    mutant: Mutant,
    subject: Subject,
    injections: list[Injection] | None,
    audit: Audit,
    monkeypatch: Patch,
    tmp_path: Path,
) -> None:
    """With its eyes open the probe takes the lane: of these bugs it sees nothing."""
    mutant(monkeypatch)
    with pytest.raises(ControlFailedError, match="the audit failed"):
        run(subject, tmp_path, injections, audit=audit)
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
    late_packs_lost(monkeypatch)
    cells = list(np.ndindex(3, 1, 3, 3))
    every = [
        Injection(f"f{bit}.{i}", (Fault("first", cell, bit),)) for bit in range(25, 30) for i, cell in enumerate(cells)
    ]
    with pytest.raises(AssertionError, match="rows of some injections did not run"):
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
        (golden_of_equal_length, 0),
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
