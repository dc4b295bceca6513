"""Bugs planted one by one in the packed lane and in golden values, and the control that sees each of them.

==========================================================  ====================================================
planted bug                                                 seen by
==========================================================  ====================================================
changed values are put into another channel                 the probe: a planted fault gives other scores
faults of a stretch are skipped, all or all but the first   the probe
faults of the second half of a stretch are skipped          the audit
the rest of a stage rounds otherwise                        the probe; golden rows in its batches if that looks away
two rows of a batch change places                           the probe; golden rows in its batches if that looks away
rows that were run are thrown away                          the probe; the audit if that looks away
a clean channel of a stretch rounds otherwise               the probe; the clean channel in each run if that looks away
golden values of another block, with its own scores         the null control
another block as a whole, scores included                   the audit
a model whose inputs see each other is cut                  no lane is offered
a batch that is not full does not run                       an exception
changes in the last batch or chunk are forgotten            the audit
==========================================================  ====================================================
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from bitswap_onnx.campaign import executor
from bitswap_onnx.campaign import run as campaign
from bitswap_onnx.campaign.options import Audit, RunOptions
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.data import chunks
from bitswap_onnx.errors import ControlFailedError, InterruptedRunError
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.graph.edits import InjectionEdits, WeightEdit
from bitswap_onnx.graph.model import Model, from_proto
from bitswap_onnx.graph.stretches import ChannelwiseStretch, StretchRow
from bitswap_onnx.runtime import packed
from bitswap_onnx.runtime.common_batches import CommonBatches
from bitswap_onnx.runtime.golden_block import GoldenBlock
from bitswap_onnx.runtime.incremental import IncrementalEngine
from bitswap_onnx.runtime.neuron_lane import NeuronLane
from bitswap_onnx.runtime.packed import PackedLane
from bitswap_onnx.runtime.pool import Pool
from bitswap_onnx.runtime.session import Numerics, open_session
from tests.builders import build, cnn, normal, save
from tests.runtime.planted_bugs import BATCH, INPUTS, Mutant, Patch, both, probe_looks_away, rest_changed

PATH = ("conv.weight",)


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: Patch) -> None:
    monkeypatch.setattr(chunks, "BATCHES_PER_CHUNK", 2)


MIXING = """net (float[N, 1, 6, 6] x) => (float[N, 4] scores) {
    a = Conv <kernel_shape = [3, 3]> (x, "conv.weight")
    b = Flatten (a)
    c = Gemm <transB = 1> (b, "fc.weight")
    m = ReduceMax <keepdims = 1> (c, first)
    scores = Sub (c, m)
}"""


def mixing() -> onnx.ModelProto:
    """A model in which each input sees the others of its batch, whatever their order."""
    return build(MIXING, conv__weight=normal(3, 1, 3, 3), fc__weight=normal(4, 48, seed=6), first=np.array([0]))


def engine_of(proto: onnx.ModelProto) -> IncrementalEngine:
    model, numerics, inputs = from_proto(proto), Numerics(batch_size=BATCH), normal(INPUTS, 1, 6, 6, seed=3)
    scores = open_session(model, numerics, "scores").run(inputs)
    return IncrementalEngine(model, numerics, "scores", inputs, scores, {PATH: 100}, min_batches=0)


def lanes_of(engine: IncrementalEngine) -> list[PackedLane | NeuronLane]:
    stages = engine.candidates.stages_lane(PATH)
    assert stages is not None
    return list(engine.candidates.lanes(PATH, stages))


def accepts(engine: IncrementalEngine) -> bool:
    """Whether the probe takes the packed lane."""
    (lane,), stages = lanes_of(engine), engine.candidates.stages_lane(PATH)
    assert isinstance(lane, PackedLane)
    assert stages is not None
    return engine.probe.accepts(lane, stages)


def wrong_channel(patch: Patch) -> None:
    """What changed is put into the channel beside its own."""
    pairs = packed.Pack.pairs

    def shifted(self: Any, changed: NDArray[np.bool_]) -> tuple[NDArray[np.intp], ...]:
        inputs, owner, places, channels = pairs(self, changed)
        return inputs, owner, places, (channels + 1) % 3

    patch.setattr(packed.Pack, "pairs", shifted)


def flips_skipped(after: int) -> Mutant:
    """Only the first rows of a stretch get their faults."""

    def plant(patch: Patch) -> None:
        build_stretch = ChannelwiseStretch.build

        def skipping(self: ChannelwiseStretch, rows: Sequence[StretchRow]) -> Model:
            return build_stretch(
                self, [row if i < after else StretchRow(row.channel, {}) for i, row in enumerate(rows)]
            )

        patch.setattr(ChannelwiseStretch, "build", skipping)

    return plant


def swap_rows(array: NDArray[Any]) -> NDArray[Any]:
    return array[[1, 0, *range(2, len(array))]]


#: The rest of a stage rounds otherwise than the whole model; the first two rows of a batch change places in it.
one_bit_off = rest_changed(lambda array: np.nextafter(array, np.float32(np.inf)))
swapped = rest_changed(swap_rows)


def clean_channel_off(patch: Patch) -> None:
    """The last row of a stretch that carries faults, which is its clean channel, rounds otherwise."""
    run = PackedLane._run_stretch

    def wrong(self: PackedLane, rows: Sequence[StretchRow], block: GoldenBlock) -> Iterator[tuple[int, Any, Any]]:
        for start, value, changed in run(self, rows, block):
            changed[:, len(rows) - 1] = True
            yield start, value, changed

    patch.setattr(PackedLane, "_run_stretch", wrong)


def not_put_back(patch: Patch) -> None:
    """What was run is thrown away: everything stays golden."""
    patch.setattr(CommonBatches, "_run_rest", lambda self, rest, waiting, real: None)


def last_batch_dropped(patch: Patch) -> None:
    """The batches that are not full do not run."""
    patch.setattr(CommonBatches, "drain", lambda self: None)


def last_batch_forgotten(patch: Patch) -> None:
    """What changed in the batch that is not full is taken for golden."""
    run = PackedLane._run_stretch

    def forgetful(self: PackedLane, rows: Sequence[StretchRow], block: GoldenBlock) -> Iterator[tuple[int, Any, Any]]:
        for start, value, changed in run(self, rows, block):
            yield start, value, changed & (start + BATCH <= block.count)

    patch.setattr(PackedLane, "_run_stretch", forgetful)


def last_chunk_forgotten(patch: Patch) -> None:
    """What changed in the chunk that is not full is taken for golden: no effect anywhere tells of it."""
    run = PackedLane._run_stretch

    def forgetful(self: PackedLane, rows: Sequence[StretchRow], block: GoldenBlock) -> Iterator[tuple[int, Any, Any]]:
        for start, value, changed in run(self, rows, block):
            yield start, value, changed & (block.count % BATCH == 0)

    patch.setattr(PackedLane, "_run_stretch", forgetful)


def stale_values(patch: Patch) -> None:
    """Golden values stay those of the first block of inputs."""
    make, kept = GoldenBlock._padded_inputs, dict[int, Any]()
    patch.setattr(GoldenBlock, "_padded_inputs", lambda self: kept.setdefault(self.count, make(self)))


def stale_block(patch: Patch) -> None:
    """The whole block stays, its golden scores included, so that it agrees with itself."""
    make, kept = IncrementalEngine._make_block, dict[int, GoldenBlock]()

    def remembered(self: IncrementalEngine, first: int, stop: int) -> GoldenBlock:
        return kept.setdefault(stop - first, make(self, first, stop))

    patch.setattr(IncrementalEngine, "_make_block", remembered)


def stays_golden(engine: IncrementalEngine) -> bool:
    """Whether the null control holds over two chunks, and the golden rows that run along with faults."""
    held = True
    for first, stop in ((0, 8), (8, 16)):
        held &= engine.control(PATH, first, stop) == stop - first
        edits = [InjectionEdits({PATH[0]: [WeightEdit(element, 1 << 29)]}) for element in range(9)]
        list(engine.run(PATH, edits, first, stop))
        held &= not engine.lost
    return held


def test_without_a_bug_the_probe_takes_the_packed_lane() -> None:
    engine = engine_of(cnn())
    assert accepts(engine)
    assert engine.lane_kind(PATH) == "packed"
    assert stays_golden(engine)


@pytest.mark.parametrize(
    "mutant",
    [wrong_channel, flips_skipped(0), flips_skipped(1), one_bit_off, swapped, not_put_back, clean_channel_off],
    ids=["wrong channel", "all skipped", "flips skipped", "one bit off", "swapped", "not put back", "clean channel"],
)
def test_the_probe_sees(mutant: Mutant, monkeypatch: Patch) -> None:
    """So the lane is declined, and what remains is right."""
    mutant(monkeypatch)
    engine = engine_of(cnn())
    assert not accepts(engine)
    assert not isinstance(engine.lane(PATH), PackedLane)


def test_dense_values_show_what_golden_zeros_hide(monkeypatch: Patch) -> None:
    model, numerics, inputs = from_proto(cnn()), Numerics(batch_size=BATCH), np.zeros((INPUTS, 1, 6, 6), np.float32)
    scores = open_session(model, numerics, "scores").run(inputs)
    engine = IncrementalEngine(model, numerics, "scores", inputs, scores, {PATH: 100}, min_batches=0)
    lane, block = next(each for each in lanes_of(engine) if isinstance(each, PackedLane)), engine.candidates.block
    assert (lane.keeps_channels(block), lane.keeps_dense_channels()) == (True, True)
    fed = packed._fed
    monkeypatch.setattr(packed, "_fed", lambda *args: fed(*args) * np.float32(1 + 2**-20))
    assert (lane.keeps_channels(block), lane.keeps_dense_channels()) == (True, False)


def test_no_lane_that_moves_rows_is_offered_where_inputs_mix() -> None:
    assert not lanes_of(engine_of(mixing()))


@pytest.mark.parametrize(
    "mutant",
    [
        stale_values,
        both(probe_looks_away, one_bit_off),
        both(probe_looks_away, swapped),
        both(probe_looks_away, clean_channel_off),
    ],
    ids=["stale values", "one bit off, accepted", "swapped, accepted", "clean channel, accepted"],
)
def test_the_null_control_sees(mutant: Mutant, monkeypatch: Patch, tmp_path: Path) -> None:
    """The lane is given up and its faults run again as whole models; a resume keeps to that."""
    mutant(monkeypatch)
    assert not stays_golden(engine_of(cnn()))
    stop = threading.Event()
    with pytest.raises(InterruptedRunError):
        run(cnn(), tmp_path, stop=stop, on_progress=lambda progress: stop.set())
    run(cnn(), tmp_path, resume=True)
    assert json.loads((tmp_path / "run/golden.json").read_text())["given_up"] == ["conv.weight"]
    assert json.loads((tmp_path / "run/golden.json").read_text())["lanes"] == {"conv.weight": "whole"}
    run(cnn(), tmp_path / "reference", engine="reference")
    results = [(folder / "run/results.csv").read_bytes() for folder in (tmp_path, tmp_path / "reference")]
    assert results[0] == results[1]


@pytest.mark.parametrize("layers", [{"conv": 4}, {"conv": 4, "fc": 2}], ids=["one layer", "two layers"])
def test_a_lane_is_given_up_while_its_next_unit_waits(
    layers: dict[str, int], monkeypatch: Patch, tmp_path: Path
) -> None:
    """A worker has one unit waiting, which fails too; what runs as whole models meanwhile is kept."""
    both(probe_looks_away, one_bit_off)(monkeypatch)

    def slow(self: Pool, _: int, request: Any, label: str) -> Any:
        time.sleep(0.02)  # the campaign hears of a failure while the next unit runs
        return self._run_in_process(request, label)

    monkeypatch.setattr(Pool, "_send", slow)
    monkeypatch.setattr(executor, "LARGEST_UNIT", 5)
    flips = [Injection(f"{n}{i}", (Fault(n, (0,) * rank, i),)) for i in range(25) for n, rank in layers.items()]
    run(cnn(), tmp_path, flips, workers=1)
    run(cnn(), tmp_path / "reference", flips, engine="reference")
    assert json.loads((tmp_path / "run/golden.json").read_text())["given_up"] == ["conv.weight"]
    results = [(folder / "run/results.csv").read_bytes() for folder in (tmp_path, tmp_path / "reference")]
    assert results[0] == results[1]


@pytest.mark.parametrize("audit", [Audit(10), Audit(time=1e-9)], ids=["chunks", "batches"])
@pytest.mark.parametrize(
    "mutant",
    [flips_skipped(8), stale_block, last_batch_forgotten, last_chunk_forgotten, wrong_channel, not_put_back],
    ids=["flips skipped", "stale block", "last batch", "last chunk", "wrong channel", "not put back"],
)
def test_the_audit_sees(mutant: Mutant, audit: Audit, monkeypatch: Patch, tmp_path: Path) -> None:
    """What the null control lets pass, even where the probe looks away."""
    both(probe_looks_away, mutant)(monkeypatch)
    with pytest.raises(ControlFailedError, match=r"the audit failed: .* start again in another `run` with `engine`"):
        run(cnn(), tmp_path, audit=audit)
    assert_invalid(tmp_path)


def test_a_lost_batch_is_loud(monkeypatch: Patch) -> None:
    both(probe_looks_away, last_batch_dropped)(monkeypatch)
    engine = engine_of(cnn())
    edits = [InjectionEdits({PATH[0]: [WeightEdit(0, 1 << 29)]})]
    with pytest.raises(AssertionError, match="rows of some injections did not run"):
        list(engine.run(PATH, edits, 0, 7))


def test_without_a_bug_the_campaign_ends_with_results(tmp_path: Path) -> None:
    """The same campaign, controls and audit: it is the bugs that they see."""
    run(cnn(), tmp_path)
    assert (tmp_path / "run/results.csv").is_file()


def faults() -> list[Injection]:
    """Flips all over the convolution: enough for full stretches, most of them critical."""
    cells = [(channel, 0, row, column) for channel in range(3) for row in range(3) for column in range(3)]
    return [Injection(f"f{i}", (Fault("conv", cell, 30 - i % 4),)) for i, cell in enumerate(cells)]


def run(proto: onnx.ModelProto, folder: Path, injections: Sequence[Injection] | None = None, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    model = save(proto, folder / "model.onnx")
    np.savez(folder / "model.npz", x=normal(INPUTS, 1, 6, 6, seed=3), y=np.arange(INPUTS) % 4)
    settings = Settings(batch_size=BATCH, layout="plain")
    own = RunOptions(**{"run": folder / "run", "workers": 0, "audit": Audit(10), **options})
    campaign.run_campaign(prepare(model, settings), injections or faults(), options=own)


def assert_invalid(folder: Path) -> None:
    """Nothing was written, and nothing will be: the run stays refused, with the exit code of a failed control."""
    assert not (folder / "run/results.csv").exists()
    with pytest.raises(ControlFailedError) as caught:
        run(onnx.load(folder / "model.onnx"), folder, resume=True)
    assert caught.value.exit_code == 3
    assert not (folder / "run/results.csv").exists()
