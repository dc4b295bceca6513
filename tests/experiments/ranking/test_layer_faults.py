"""Faults layer by layer: the range and the distribution of draws, and outcomes read back input by input."""

import csv
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from scipy import stats

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings, for_neurons
from bitswap_onnx.campaign.setup import Setup, prepare
from bitswap_onnx.errors import ModelError
from bitswap_onnx.experiments.ranking.layer_faults import (
    RankingSite,
    draw_layer_faults,
    layer_injection_id,
    read_layer_outcomes,
)
from bitswap_onnx.faults.fault import Injection, Kind, Site
from bitswap_onnx.graph.sites import NeuronSite, find_sites
from tests.builders import build, cnn, normal, save
from tests.keras_layout import as_keras

INPUTS, BATCH = 20, 8
SETTINGS = for_neurons(Settings(batch_size=BATCH))

#: What the layers with kernels take in and hold, by layer.
SHAPES = {"neurons": {"conv": (1, 6, 6), "fc": (48,)}, "weights": {"conv": (3, 1, 3, 3), "fc": (4, 48)}}


def setup_of(folder: Path, proto: onnx.ModelProto | None = None, x: NDArray[Any] | None = None) -> Setup:
    np.savez(folder / "net.npz", x=normal(INPUTS, 1, 6, 6, seed=3) if x is None else x)
    return prepare(save(cnn() if proto is None else proto, folder / "net.onnx"), SETTINGS)


def kernels(setup: Setup) -> list[NeuronSite]:
    return [site for site in find_sites(setup.slicer) if site.role == "kernel" and site.site is Site.INPUT]


def draw(setup: Setup, where: RankingSite, trials: int, seed: int = 0) -> dict[str, Injection]:
    return {injection.id: injection for injection in draw_layer_faults(setup, kernels(setup), where, trials, seed)}


@pytest.mark.parametrize("where", ["neurons", "weights"])
def test_each_injection_stays_in_one_layer(tmp_path: Path, where: RankingSite) -> None:
    """Neurons: one fault for each input of the dataset. Weights: one fault for all."""
    found = draw(setup_of(tmp_path), where, 3)
    places = list(product(enumerate(SHAPES[where].items()), range(3)))
    assert list(found) == [layer_injection_id(number, trial) for (number, _), trial in places]
    for ((_, (layer, shape)), _), injection in zip(places, found.values(), strict=True):
        neurons = where == "neurons"
        assert [fault.input for fault in injection.faults] == (list(range(INPUTS)) if neurons else [None])
        for fault in injection.faults:
            assert (fault.layer, fault.kind, fault.value) == (layer, Kind.FLIP, None)
            assert (fault.site, fault.parameter) == ((Site.INPUT, None) if neurons else (None, "weight"))
            assert len(fault.index) == len(shape)
            assert all(0 <= place < size for place, size in zip(fault.index, shape, strict=True))
            assert fault.bit in range(32)


@pytest.mark.parametrize(("where", "trials"), [("neurons", 150), ("weights", 3000)])
def test_uniform(tmp_path: Path, where: RankingSite, trials: int) -> None:
    """The draws are uniform over bits, over elements and over both together: 3,000 faults in each layer."""
    found = draw(setup_of(tmp_path), where, trials, seed=1)
    for layer, shape in SHAPES[where].items():
        faults = [fault for injection in found.values() for fault in injection.faults if fault.layer == layer]
        elements = np.array([np.ravel_multi_index(fault.index, shape) for fault in faults])
        bits = np.array([fault.bit for fault in faults])
        assert len(faults) == 3000
        counts = [np.bincount(bits, minlength=32), np.bincount(elements, minlength=math.prod(shape))]
        counts += [np.bincount(4 * (bits // 8) + elements * 4 // math.prod(shape), minlength=16)]
        for count in counts:
            assert stats.chisquare(count).pvalue > 1e-3, (layer, count)


@pytest.mark.parametrize("where", ["neurons", "weights"])
def test_a_draw_stays_as_it_was(tmp_path: Path, where: RankingSite) -> None:
    """More trials, more inputs or fewer layers change no draw; another seed, trial or layer gives another draw."""
    setup = setup_of(tmp_path)
    few, many, reseeded = draw(setup, where, 2, 7), draw(setup, where, 40, 7), draw(setup, where, 40, 8)
    assert few.items() <= many.items()
    assert many == draw(setup, where, 40, 7)
    alone = list(draw_layer_faults(setup, kernels(setup)[1:], where, 40, 7))
    assert [entry.faults for entry in alone] == [many[layer_injection_id(1, trial)].faults for trial in range(40)]
    longer = draw(setup_of(tmp_path, x=normal(INPUTS + 7, 1, 6, 6)), where, 40, 7)
    assert all(longer[name].faults[:INPUTS] == entry.faults for name, entry in many.items())
    same = sum(many[name].faults == reseeded[name].faults for name in many)
    assert same + len(many) - len({injection.faults for injection in many.values()}) < len(many) / 10


@pytest.mark.parametrize(("dtype", "width"), [(np.float16, 16), (np.float64, 64)])
def test_bits_of_other_types(tmp_path: Path, dtype: Any, width: int) -> None:
    proto = build('net (float[N, 6] x) => (float[N, 4] y) { a = Relu (x) y = MatMul (a, "fc.weight") }')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(normal(6, 4, dtype=dtype), "fc.weight"))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = proto.graph.initializer[0].data_type
    setup = setup_of(tmp_path, proto, normal(INPUTS, 6, dtype=dtype))
    for where in ("neurons", "weights"):
        faults = [fault for injection in draw(setup, where, 400).values() for fault in injection.faults]
        assert {fault.bit for fault in faults} == set(range(width))


def test_keras_layout(tmp_path: Path) -> None:
    """Indices of weights count in the stored layout: kernels HWIO and (in, out)."""
    found = draw(setup_of(tmp_path, as_keras(cnn())), "weights", 3000)
    for layer, shape in (("conv2d", (3, 3, 1, 3)), ("dense", (48, 4))):
        places = [fault.index for entry in found.values() for fault in entry.faults if fault.layer == layer]
        assert tuple(np.max(places, axis=0) + 1) == shape


def test_layers_without_a_stored_kernel(tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    sites = [site for site in find_sites(setup.slicer) if site.site is Site.INPUT and site.role != "node"]
    assert [entry.id for entry in draw_layer_faults(setup, sites, "neurons", 1, 0)] == ["L0_t0", "L1_t0", "L2_t0"]
    with pytest.raises(
        ModelError, match=r"^`where` weights: layer 'x' has no stored kernel; choose others with `layers`$"
    ):
        draw_layer_faults(setup, sites, "weights", 1, 0)


@pytest.mark.parametrize("where", ["neurons", "weights"])
def test_outcomes_are_read_by_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: RankingSite) -> None:
    """A unit is an input over its trials, or a trial over its inputs; units sum to what the campaign counted.

    The run is cut into chunks of one batch, the last one short, so that bytes of inputs have to be joined in order.
    """
    monkeypatch.setattr("bitswap_onnx.campaign.run.chunk_length", lambda *_: BATCH)
    np.savez(tmp_path / "net.npz", x=normal(INPUTS, 1, 6, 6, seed=3), y=np.arange(INPUTS) // 5)
    setup = prepare(save(cnn(), tmp_path / "net.onnx"), SETTINGS)
    trials, part = (30, range(10, 30)) if where == "neurons" else (150, range(50, 150))
    injections = list(draw(setup, where, trials).values())
    run = run_campaign(
        setup, injections, options=RunOptions(run=tmp_path / "run", records=["per_input"], workers=1)
    ).run
    found = read_layer_outcomes(run, 2, part, where, labelled=True)
    unlabelled = read_layer_outcomes(run, 2, part, where, labelled=False)
    units = INPUTS if where == "neurons" else len(part)
    assert {values.shape for values in (found.correct, found.critical, found.nonfinite)} == {(2, units)}
    assert unlabelled.correct == pytest.approx(1 - found.critical)
    counts = counted(run)
    for layer in range(2):
        shares = np.array([counts[layer_injection_id(layer, trial)] for trial in part]) / INPUTS
        for column, values in enumerate((found.correct, found.critical, found.nonfinite)):
            assert values[layer].mean() == pytest.approx(shares[:, column].mean())
            if where == "weights":
                assert values[layer] == pytest.approx(shares[:, column])
    golden = setup.clean_run().golden
    if where == "neurons":  # where no fault of an input was critical, its answer is the golden one, right or wrong
        right = np.broadcast_to(golden.top_1 == golden.labels, found.correct.shape)
        calm = found.critical == 0
        assert np.array_equal(found.correct[calm], right[calm])
        assert 0 < right[calm].mean() < 1
    assert found.critical.max() > 0


def counted(run: Path) -> dict[str, tuple[int, int, int]]:
    """Return correct, critical and nonfinite inferences of each injection, as results.csv counts them."""
    with (run / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["n_injections"]]
    return {row["Injection"]: (int(row["top_1_correct"]), int(row["critical"]), int(row["nonfinite"])) for row in rows}
