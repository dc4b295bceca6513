"""Bugs planted one by one in the lane of neuron faults, and the control that sees each of them.

===================================================  =============================================================
planted bug                                          seen by
===================================================  =============================================================
nothing is flipped                                   the probe; the audit if that looks away
a fault hits the row beside its own                  the audit: planted faults hit every row
inputs are counted from the block's first one        the audit: planted faults name no input
an injection runs over other inputs than it names    the audit, for the same reason
a fault at the input of a node is lost               the probe
===================================================  =============================================================

No control can see bugs in the code that both engines share, which turns a list into elements, keeps and toggles. Tests
against numpy, plain ONNX Runtime and PyTorch see these.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitswap_onnx.campaign.options import Audit, RunOptions
from bitswap_onnx.campaign.run import Campaign, run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.data import chunks
from bitswap_onnx.errors import ControlFailedError
from bitswap_onnx.faults.fault import Fault, Injection, Site
from bitswap_onnx.graph.neurons import Flips, flips
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.runtime import neuron_lane
from bitswap_onnx.runtime.lanes import affected
from tests.builders import cnn, normal, save
from tests.runtime.planted_bugs import Patch, probe_looks_away

INPUTS, BATCH = 22, 4


@pytest.fixture
def model(tmp_path: Path) -> Path:
    np.savez(tmp_path / "cnn.npz", x=normal(INPUTS, 1, 6, 6, seed=3), y=np.arange(INPUTS) % 4)
    return save(cnn(), tmp_path / "cnn.onnx")


def exponent(number: int, which: int) -> Fault:
    index = number % 3, number % 4, number // 4 % 4
    return Fault("conv", index, 30, site=Site.OUTPUT, input=which)


def run(model: Path, folder: Path, injections: list[Injection], **options: Any) -> Campaign:
    settings = Settings(batch_size=BATCH, layout="plain")
    return run_campaign(prepare(model, settings), injections, options=RunOptions(run=folder, workers=0, **options))


def results(folder: Path) -> bytes:
    return (folder / "results.csv").read_bytes()


def lost_toggle(patch: Patch) -> None:
    """Nothing is flipped, on the fast lane alone."""
    patch.setattr(Flips, "apply", lambda self, bits: None)


def next_row(patch: Patch) -> None:
    """Each fault hits the row after its own."""

    def shifted(edits: Any, rows: Any, site: NeuronSite) -> Flips:
        found = flips(edits, rows, site)
        return Flips((found.index + site.elements) % (len(rows) * site.elements), found.keep, found.toggle)

    patch.setattr(neuron_lane, "flips", shifted)


def first_ignored(patch: Patch) -> None:
    """Inputs are counted from the block's first one, not from the dataset's."""
    changes = neuron_lane._changes

    def from_zero(edits: Any, inputs: NDArray[np.intp], owner: NDArray[np.intp], site: NeuronSite) -> Any:
        return changes(edits, inputs - inputs.min(), owner, site)

    patch.setattr(neuron_lane, "_changes", from_zero)


def tap_not_used(patch: Patch) -> None:
    """What a node takes in stays golden."""
    changes = neuron_lane._changes

    def of_outputs(edits: Any, inputs: Any, owners: Any, site: NeuronSite) -> Any:
        return changes(edits, inputs, owners, site) if site.site is Site.OUTPUT else iter(())

    patch.setattr(neuron_lane, "_changes", of_outputs)


def wrong_inputs(patch: Patch) -> None:
    """An injection runs over the inputs after those that its faults name."""
    patch.setattr(neuron_lane, "affected", lambda e, b: (affected(e, b) + 1) % b.count)


@pytest.mark.parametrize("audit", [Audit(10), Audit(time=1e-9)], ids=["chunks", "batches"])
@pytest.mark.parametrize("mutant", [lost_toggle, next_row, first_ignored, wrong_inputs])
def test_the_audit_or_a_control_sees(
    mutant: Callable[[Patch], None], audit: Audit, model: Path, tmp_path: Path
) -> None:
    """Even where the probe looks away; with its eyes open, the lane is declined or the audit sees it."""
    every = [Injection(f"f{i}", (exponent(i, i % INPUTS), exponent(i + 1, (i + 5) % INPUTS))) for i in range(44)]
    for blind in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "BATCHES_PER_CHUNK", 2)
            if blind:
                probe_looks_away(patch)
            mutant(patch)
            folder = tmp_path / f"run{blind}"
            try:
                finished = run(model, folder, every, audit=audit)
            except ControlFailedError:
                assert not (folder / "results.csv").exists()
            else:
                assert not blind
                assert "neuron" not in finished.golden["lanes"].values()


def test_the_probe_sees_a_tap_that_is_not_used(model: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        tap_not_used(patch)
        each = [Injection(f"f{i}", (Fault("fc", (i,), 30, site=Site.INPUT, input=i),)) for i in range(INPUTS)]
        finished = run(model, tmp_path / "run", each)
    assert "neuron" not in finished.golden["lanes"].values()
    run(model, tmp_path / "reference", each, engine="reference")
    assert results(tmp_path / "run") == results(tmp_path / "reference")
