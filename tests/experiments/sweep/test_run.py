"""Sweeps end to end: every point's shares recomputed by hand, the files, resuming, and refusals of wrong input."""

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy import stats

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.errors import BitswapError, ControlFailedError
from bitswap_onnx.experiments.sweep import run as sweep_module
from bitswap_onnx.experiments.sweep.bit_errors import faults_at, find_regions, plan_sweep
from bitswap_onnx.experiments.sweep.results import SWEEP_MEASURES, Sweep
from bitswap_onnx.experiments.sweep.run import sweep_errors
from bitswap_onnx.faults.fault import Fault, Site
from tests.builders import cnn, normal, save
from tests.campaigns import run_options

INPUTS, BATCH = 20, 8
SETTINGS = Settings(batch_size=BATCH, seed=5)

#: Every stored parameter of the model: (layer, role) → initializer.
TENSORS = {
    ("conv", "weight"): "conv.weight",
    ("conv", "bias"): "conv.bias",
    ("bn", "bn_scale"): "bn.weight",
    ("bn", "bn_bias"): "bn.bias",
    ("bn", "bn_mean"): "bn.running_mean",
    ("bn", "bn_var"): "bn.running_var",
    ("fc", "weight"): "fc.weight",
    ("fc", "bias"): "fc.bias",
}
#: Layers with kernels, and the values of their outputs.
VALUES = {"conv": "a", "fc": "scores"}

Array = NDArray[np.float32]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The small CNN with labelled data beside it."""
    np.savez(tmp_path / "cnn.npz", x=normal(INPUTS, 1, 6, 6, seed=3), y=np.random.default_rng(1).integers(0, 4, INPUTS))
    return save(cnn(), tmp_path / "cnn.onnx")


def sweep(model: Path, run: Path, rates: Any = (1e-4, 5e-4, 2e-3), **options: Any) -> Sweep:
    own = run_options(options, run=run, workers=1)
    return sweep_errors(model, rates, options=own, **{"repeats": 6, "settings": SETTINGS, **options})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(proto.SerializeToString(), disabled_optimizers=["ConvBNFusion", "NchwcTransformer"])


def scores_of(model: Path, faults: tuple[Fault, ...]) -> Array:
    """Flip bits with numpy, in the file's initializers and in values between its halves, and run plain ONNX Runtime."""
    proto = onnx.shape_inference.infer_shapes(onnx.load(model))
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        for fault in faults:
            if fault.site is None and TENSORS[fault.layer, fault.parameter or ""] == tensor.name:
                values.view(np.uint32)[fault.index] ^= np.uint32(1 << (fault.bit or 0))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    value = np.load(model.with_suffix(".npz"))["x"]
    for layer, name, source in (("conv", "a", "x"), ("fc", "scores", "a")):
        (value,) = session(onnx.utils.Extractor(proto).extract_model([source], [name])).run(None, {source: value})
        for fault in faults:
            if fault.site is Site.OUTPUT and fault.layer == layer:
                value.view(np.uint32)[(fault.input, *fault.index)] ^= np.uint32(1 << (fault.bit or 0))
    result: Array = value
    return result


def shares_of(model: Path, faults: tuple[Fault, ...]) -> dict[str, float]:
    labels = np.load(model.with_suffix(".npz"))["y"]
    clean, faulty = scores_of(model, ()).argmax(axis=1), scores_of(model, faults)
    order = np.argsort(np.where(np.isnan(faulty), -np.inf, -faulty), axis=1, kind="stable")
    return {
        "top_1_correct": float(np.mean(faulty.argmax(axis=1) == labels)),
        "top_5_correct": float(np.mean([label in ranked[:5] for label, ranked in zip(labels, order, strict=True)])),
        "top_1_robust": float(np.mean(faulty.argmax(axis=1) == clean)),
        "critical": float(np.mean(faulty.argmax(axis=1) != clean)),
        "nonfinite": float(np.mean(~np.isfinite(faulty).all(axis=1))),
    }


def check_by_hand(model: Path, found: Sweep, layers: str | None, site: Any) -> None:
    """Draw again, and recompute every point and every mean."""
    _, regions = find_regions(prepare(model, SETTINGS), layers, site)
    plan = plan_sweep(regions, [row.rate for row in found.rows], found.rows[0].repeats, SETTINGS.seed)
    faults = {injection.id: injection.faults for injection in plan.injections} | {"": ()}
    assert [point for point, _ in found.points] == list(plan.points)
    for point, shares in found.points:
        assert shares == pytest.approx(shares_of(model, faults[point.injection])), point
    assert found.golden == pytest.approx(shares_of(model, ()))
    summary, detail = map(rows, found.files)
    assert len(detail) == 1 + len(found.points)
    for name in SWEEP_MEASURES:
        assert float(summary[0][name]) == float(detail[0][name]) == found.golden[name]
        for row, written in zip(found.rows, summary[1:], strict=True):
            values = [float(point[name]) for point in detail if point["rate"] == written["rate"]]
            assert len(values) == row.repeats == int(written["repeats"])
            assert float(written[name]) == pytest.approx(np.mean(values))
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
            if len(set(values)) == 1:  # none of n repeats was seen to differ: Clopper and Pearson's bound
                half = 1 - 0.025 ** (1 / len(values))
            expected = max(0, np.mean(values) - half), min(1, np.mean(values) + half)
            assert (float(written[f"{name}_low"]), float(written[f"{name}_high"])) == pytest.approx(expected)
    for row, written in zip(found.rows, summary[1:], strict=True):
        flips = [int(point["flips"]) for point in detail if point["rate"] == written["rate"]]
        assert float(written["flips"]) == row.flips == pytest.approx(np.mean(flips))
        assert int(written["repeats_with_flips"]) == sum(number > 0 for number in flips)


def test_weights(model: Path, tmp_path: Path) -> None:
    found = sweep(model, tmp_path / "run")
    assert found.bits == 32 * (3 * 9 + 3 + 4 * 3 + 4 * 48 + 4)
    assert (found.network, found.dataset, found.inputs) == ("cnn", "cnn", INPUTS)
    assert [path.name for path in found.files] == ["cnn.csv", "detail-cnn.csv"]
    check_by_hand(model, found, None, "weights")
    flipped = {point.flips > 0 for point, _ in found.points}
    assert flipped == {True, False}, "the case has to cover points with and without flips"
    assert len({shares["critical"] for _, shares in found.points}) > 3
    assert {row["seed"] for row in rows(found.files[1])[1:]} == {"5"}


def test_layers(model: Path, tmp_path: Path) -> None:
    found = sweep(model, tmp_path / "run", [0.01], layers="conv.weight,fc*", repeats=3)
    assert found.bits == 32 * (3 * 9 + 4 * 48 + 4)
    check_by_hand(model, found, "conv.weight,fc*", "weights")


def test_neurons(model: Path, tmp_path: Path) -> None:
    """Errors hit single inputs; a point's other inputs have golden outcomes."""
    found = sweep(model, tmp_path / "run", [1e-5, 3e-4, 3e-3], site="neurons")
    assert found.bits == 32 * INPUTS * (3 * 4 * 4 + 4)
    check_by_hand(model, found, None, "neurons")
    assert found.rows[-1].means["critical"] is not None
    assert found.rows[-1].means["critical"].mean > 0


def test_both(model: Path, tmp_path: Path) -> None:
    found = sweep(model, tmp_path / "run", [3e-5, 1e-3], site="both", layers="fc", repeats=5)
    assert found.bits == 32 * (INPUTS * 4 + 4 * 48 + 4)
    check_by_hand(model, found, "fc", "both")


def test_regions_hold_what_they_say(model: Path) -> None:
    _, regions = find_regions(prepare(model, SETTINGS), None, "both")
    assert {(region.layer, region.parameter) for region in regions if region.site is None} == set(TENSORS)
    assert [(region.layer, region.shape) for region in regions if region.site] == [("conv", (3, 4, 4)), ("fc", (4,))]
    last = sum(region.bits for region in regions) - 1
    assert faults_at(regions, np.array([last])) == [Fault("fc", (3,), 31, site=Site.OUTPUT, input=INPUTS - 1)]


def test_without_any_flip_nothing_runs(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "run_campaign", lambda *arguments, **options: pytest.fail("nothing should run"))
    notes: list[str] = []
    found = sweep(model, tmp_path / "run", [1e-10, 1e-9], on_notes=notes.extend)
    assert notes[0].startswith("bit errors among 7,616 bits: 0 of 12 points have flips; 0 injections")
    assert any(re.match("data: all 20 inputs of .*cnn.npz", note) for note in notes)
    golden = shares_of(model, ())
    golden_top_1 = float(golden["top_1_correct"] or 0)
    assert found.golden == pytest.approx(golden)
    assert all(shares == found.golden for _, shares in found.points)
    for row in rows(found.files[0])[1:]:
        unseen = 1 - 0.025 ** (1 / int(row["repeats"]))
        bounds = [max(0.0, golden_top_1 - unseen), min(1.0, golden_top_1 + unseen)]
        assert [float(row["top_1_correct_low"]), float(row["top_1_correct_high"])] == pytest.approx(bounds)
        assert (row["flips"], row["repeats_with_flips"], float(row["critical"])) == ("0.0", "0", 0)
    before = [path.read_bytes() for path in found.files]
    with pytest.raises(BitswapError, match="run: holds a sweep already; write it again with `resume`"):
        sweep(model, tmp_path / "run", [1e-10, 1e-9])
    sweep(model, tmp_path / "run", [1e-10, 1e-9], resume=True)
    assert [path.read_bytes() for path in found.files] == before
    (tmp_path / "run/thesis.tex").write_text("mine")
    with pytest.raises(BitswapError, match="run: holds files that are not this sweep's; choose another `run`"):
        sweep(model, tmp_path / "run", [1e-10, 1e-9], resume=True)
    with pytest.raises(BitswapError, match=r"cannot make the run directory: .*; choose another `run`"):
        sweep(model, tmp_path / "cnn.npz", [1e-10])


def test_without_labels(model: Path, tmp_path: Path) -> None:
    np.savez(model.with_suffix(".npz"), x=normal(INPUTS, 1, 6, 6, seed=3))
    found = sweep(model, tmp_path / "run", [1e-10, 1e-2])
    assert found.golden == {**dict.fromkeys(SWEEP_MEASURES), "top_1_robust": 1, "critical": 0, "nonfinite": 0}
    summary = rows(found.files[0])
    assert {row["top_1_correct"] + row["top_1_correct_low"] + row["top_5_correct"] for row in summary} == {""}
    assert 1 > float(summary[2]["top_1_robust"]) == pytest.approx(1 - float(summary[2]["critical"]))


def test_tolerance(model: Path, tmp_path: Path) -> None:
    """A model that is no classifier has critical and nonfinite outcomes alone."""
    settings = Settings(batch_size=BATCH, criterion="tolerance=0.01")
    found = sweep(model, tmp_path / "run", [1e-2], settings=settings)
    assert {name for name, share in found.golden.items() if share is None} == set(SWEEP_MEASURES[:3])
    critical = found.rows[0].means["critical"]
    assert critical is not None
    assert 0 < critical.mean <= 1


def test_one_repeat_has_no_interval(model: Path, tmp_path: Path) -> None:
    row = rows(sweep(model, tmp_path / "run", [1e-2], repeats=1).files[0])[1]
    assert row["critical"] != ""
    assert (row["critical_low"], row["critical_high"]) == ("", "")


def test_resume(model: Path, tmp_path: Path) -> None:
    """A finished sweep writes its files again. Another sweep, or no ``resume``, is refused and changes nothing."""
    files = sweep(model, tmp_path / "run").files
    before = [path.read_bytes() for path in files]
    files[0].unlink()
    sweep(model, tmp_path / "run", resume=True)
    assert [path.read_bytes() for path in files] == before
    with pytest.raises(BitswapError, match="holds a campaign already; continue it with `resume`"):
        sweep(model, tmp_path / "run")
    with pytest.raises(BitswapError, match="holds another campaign, with other faults"):
        sweep(model, tmp_path / "run", [1e-2], resume=True)
    with pytest.raises(BitswapError, match="holds files that are not this sweep's"):
        sweep(model, tmp_path / "run", [1e-10], resume=True)
    with pytest.raises(BitswapError, match="`resume` needs `run`"):
        sweep_errors(model, [1e-2], options=RunOptions(resume=True))
    assert [path.read_bytes() for path in files] == before


def test_repeats_and_engines_agree(model: Path, tmp_path: Path) -> None:
    """The points of fewer repeats are among those of more repeats, with any engine and any number of workers."""
    few = sweep(model, tmp_path / "few", repeats=3, engine="reference")
    many = sweep(model, tmp_path / "many", workers=2)
    of_many = {(point.rate, point.repeat): shares for point, shares in many.points}
    assert all(of_many[point.rate, point.repeat] == shares for point, shares in few.points)


def test_failed_control_leaves_no_files(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sweep(model, tmp_path / "run").files

    def fails(*arguments: Any, **options: Any) -> None:
        raise ControlFailedError("null control failed")

    monkeypatch.setattr(sweep_module, "run_campaign", fails)
    with pytest.raises(ControlFailedError):
        sweep(model, tmp_path / "run", resume=True)
    assert not any(path.exists() for path in files)


def test_wrong_input(model: Path, tmp_path: Path) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"rates": [0.1, 1.0]}, "`rates`: expected rates between 0 and 1, both excluded, found 1"),
        ({"rates": []}, "`rates`: expected at least one bit error rate, found none"),
        ({"repeats": 0}, "`repeats`: expected a positive number, found 0"),
        ({"repeats": 10**8}, "with the rates below it 76,160,000,000 faults in all, more than 20,000,000"),
        ({"layers": "con.weight"}, "cnn: no layer or parameter matches 'con.weight'; the nearest are conv"),
        ({"layers": "conx", "site": "neurons"}, "no layer matches 'conx'; the nearest are conv"),
        (
            {"site": "both", "settings": Settings(layout="blocked")},
            "`layout` blocked: neuron faults need `layout` plain",
        ),
        ({"layers": ","}, "there are no bits to flip"),
    ]
    for options, message in refused:
        with pytest.raises(BitswapError, match=re.escape(message)):
            sweep(model, tmp_path / "run", **{"rates": [0.1], **options})
        assert not (tmp_path / "run").exists()
    results = save(cnn(), tmp_path / "results.onnx")
    shutil.copy(model.with_suffix(".npz"), results.with_suffix(".npz"))
    with pytest.raises(BitswapError, match=r"results.onnx: the sweep's results.csv would be the campaign's"):
        sweep(results, tmp_path / "run")
    assert not (tmp_path / "run").exists()
