"""Neuron campaigns end to end: every misclassification recomputed by hand, draws, files, refusals of wrong input."""

import ast
import csv
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from scipy import stats

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.settings import FROM_CLOCK, Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.errors import BitswapError, ControlFailedError
from bitswap_onnx.experiments.neurons import run as neuron_campaign
from bitswap_onnx.experiments.neurons.report import grouped_bits, layer_table, result_table
from bitswap_onnx.experiments.neurons.results import NeuronCampaign
from bitswap_onnx.experiments.neurons.run import choose_layers, draw_neuron_faults, plan_neurons, run_neurons
from bitswap_onnx.faults.bits import FORMATS
from tests.builders import cnn, normal, save
from tests.campaigns import run_options

INPUTS, BATCH = 20, 8
SETTINGS = Settings(batch_size=BATCH, seed=5)

#: Layers that are hit by default, in order, and the values of their outputs.
VALUES = {"x": "x", "conv": "a", "fc": "scores"}
#: Outputs of other layers, at which a test cuts the model.
OTHER_VALUES = {"Relu": "c", "BatchNormalization": "b"}

Array = NDArray[np.float32]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The small CNN with labelled data beside it; four of five labels are the CNN's predictions."""
    path = save(cnn(), tmp_path / "cnn.onnx")
    x = normal(INPUTS, 1, 6, 6, seed=3)
    predicted = run_part(path, "x", "scores", x).argmax(axis=1)
    np.savez(tmp_path / "cnn.npz", x=x, y=(predicted + (np.arange(INPUTS) % 5 == 0)) % 4)
    return path


def neurons(model: Path, run: Path, **options: Any) -> NeuronCampaign:
    own = run_options(options, run=run, workers=1)
    return run_neurons(model, options=own, **{"settings": SETTINGS, **options})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run_part(model: Path, source: str, name: str, value: Array) -> Array:
    """Run a part of the model with plain ONNX Runtime."""
    if source == name:
        return value
    proto = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(onnx.load(model))).extract_model([source], [name])
    session = ort.InferenceSession(proto.SerializeToString(), disabled_optimizers=["ConvBNFusion", "NchwcTransformer"])
    result: Array = session.run(None, {source: value})[0]
    return result


def faulty_scores(model: Path, faults: list[dict[str, str]]) -> tuple[Array, Array]:
    """Return the clean values of the neurons that ``faults`` hit, and the scores after numpy flips them, per input."""
    (layer,) = {fault["Layer"] for fault in faults}
    value = {**VALUES, **OTHER_VALUES}[layer]
    clean = run_part(model, "x", value, np.load(model.with_suffix(".npz"))["x"])
    faulty, hit = clean.copy(), []
    for fault in faults:
        place = (int(fault["Input"]), *ast.literal_eval(fault["TensorIndex"]))
        hit.append(clean[place])
        faulty.view(np.uint32)[place] ^= np.uint32(1 << int(fault["Bit"]))
    return np.array(hit), run_part(model, value, "scores", faulty)[: len(faults)]


def faults_of(run: Path) -> dict[str, list[dict[str, str]]]:
    """Return the faults by injection, as results.csv has them."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows(run / "results.csv"):
        found.setdefault(row["Injection"], []).append(row)
    return found


def check_by_hand(model: Path, found: NeuronCampaign) -> None:
    """Recompute the counts of every layer and of the total from the faults in results.csv."""
    data, faults = np.load(model.with_suffix(".npz")), faults_of(found.run)
    labels = data["y"][: found.inputs] if "y" in data else None
    golden = run_part(model, "x", "scores", data["x"]).argmax(axis=1)[: found.inputs]
    sums = np.zeros(3, int)
    for row in found.rows[:-1]:
        assert row.layer is not None
        counts = np.zeros(3, int)
        for trial in range(found.trials):
            layer_faults = faults[row.layer.injection(trial)]
            assert {fault["Layer"] for fault in layer_faults} == {row.layer.site.layer}
            assert [int(fault["Input"]) for fault in layer_faults] == list(range(found.inputs))
            scores = faulty_scores(model, layer_faults)[1]
            classes = scores.argmax(axis=1)
            wrong = 0 if labels is None else np.sum((golden == labels) & (classes != labels))
            counts += [wrong, np.sum(classes != golden), np.sum(~np.isfinite(scores).all(axis=1))]
        check_counts(row, counts)
        sums += counts
    check_counts(found.rows[-1], sums)
    assert found.correct == (None if labels is None else np.sum(golden == labels))
    written = rows(found.files[1])
    assert [row["layer"] for row in written] == [layer.site.layer for layer in found.layers] + ["all layers"]
    for row, line in zip(found.rows, written, strict=True):
        measured = {"misclassified": row.misclassified, "critical": row.critical, "nonfinite": row.nonfinite}
        for name, share in measured.items():
            fields = [line[name], *(line[f"{name}_{end}"] for end in ("share", "low", "high"))]
            expected = [share.hits, share.share, share.low, share.high] if share else []
            assert [float(field) for field in fields if field] == pytest.approx(expected)


def check_counts(row: Any, counts: Any) -> None:
    assert (row.misclassified.hits if row.misclassified else 0, row.critical.hits, row.nonfinite.hits) == tuple(counts)


def test_counts(model: Path, tmp_path: Path) -> None:
    found = neurons(model, tmp_path / "run", trials=4)
    assert (found.network, found.dataset, found.seed, found.inputs, found.correct) == ("cnn", "cnn", 5, 20, 16)
    assert [(layer.number, layer.site.layer, layer.weight_shape) for layer in found.layers] == [
        (0, "x", None),
        (1, "conv", (3, 1, 3, 3)),
        (2, "fc", (4, 48)),
    ]
    check_by_hand(model, found)
    critical = {row.critical.hits for row in found.rows}
    assert len(critical) > 2
    assert 0 not in critical, "the case has to have critical faults in each layer"
    for row, layers in zip(found.rows, (1, 1, 1, 3), strict=True):
        assert row.misclassified is not None
        assert (row.misclassified.inferences, row.critical.inferences) == (16 * 4 * layers, 20 * 4 * layers)


def test_one_bit(model: Path, tmp_path: Path) -> None:
    found = neurons(model, tmp_path / "run", bit=30, layers="conv,fc")
    assert {row["Bit"] for row in rows(tmp_path / "run/results.csv")} == {"30"}
    check_by_hand(model, found)
    assert "one random neuron and bit 30 per layer and input, seed 5" in result_table(found).title


def test_layer_types_and_numbers(model: Path, tmp_path: Path) -> None:
    """Numbers count the layers that names and types choose; choosing some numbers leaves the numbering unchanged."""
    found = neurons(model, tmp_path / "run", layer_type="Relu,BatchNormalization", numbers=[0, 1])
    assert [(layer.number, layer.site.kind) for layer in found.layers] == [(0, "BatchNormalization"), (1, "Relu")]
    last = neurons(model, tmp_path / "last", numbers=[2])
    assert [(layer.number, layer.site.layer) for layer in last.layers] == [(2, "fc")]
    check_by_hand(model, last)


def test_drop_last(model: Path, tmp_path: Path) -> None:
    """Of 20 inputs in batches of 8, the last 4 are left out, and nothing else changes."""
    found = neurons(model, tmp_path / "run", drop_last=True)
    assert found.inputs == 16
    check_by_hand(model, found)
    whole = faults_of(neurons(model, tmp_path / "whole").run)
    assert whole.keys() == faults_of(found.run).keys()
    for name, faults in faults_of(found.run).items():
        assert [(f["TensorIndex"], f["Bit"]) for f in faults] == [
            (f["TensorIndex"], f["Bit"]) for f in whole[name][:16]
        ]


def test_detailed_log(model: Path, tmp_path: Path) -> None:
    """The log lists the golden-correct inputs that are misclassified, with the bits that numpy gives."""
    found = neurons(model, tmp_path / "run", trials=3, detailed_log=True)
    assert [path.name for path in found.files] == ["cnn_cnn_5.txt", "cnn_cnn_5.csv", "cnn_cnn_5_detailed.txt"]
    data = np.load(model.with_suffix(".npz"))
    golden = run_part(model, "x", "scores", data["x"]).argmax(axis=1)
    expected = []
    for layer, trial in product(found.layers, range(3)):
        faults = faults_of(found.run)[layer.injection(trial)]
        values, scores = faulty_scores(model, faults)
        for i, (fault, value, row) in enumerate(zip(faults, values, scores, strict=True)):
            if golden[i] == data["y"][i] != row.argmax():
                bits = int(value.view(np.uint32)), int(value.view(np.uint32)) ^ 1 << int(fault["Bit"])
                texts = [re.sub(r"(.)(.{8})(.{23})", r"\1 \2 \3", f"{pattern:032b}") for pattern in bits]
                numbers = [str(number) for number in np.array(bits, np.uint32).view(np.float32)]
                expected.append(
                    f"layer {layer.number} {layer.site.layer} | trial {trial} | batch {i // BATCH} | "
                    f"position {i % BATCH} | input {i} | neuron {fault['TensorIndex']} | "
                    f"original {numbers[0]} = {texts[0]} | bit {fault['Bit']} | error {numbers[1]} = {texts[1]} | "
                    f"label {data['y'][i]} | golden {golden[i]} | faulty {row.argmax()}"
                )
    assert found.files[2].read_text().splitlines() == expected
    assert found.rows[-1].misclassified is not None
    assert len(expected) == found.rows[-1].misclassified.hits > 5


def test_text(model: Path, tmp_path: Path) -> None:
    """The text file has both tables and names the denominators."""
    found = neurons(model, tmp_path / "run", trials=2)
    text = found.files[0].read_text()
    assert text == f"{layer_table('cnn', found.layers)}\n{result_table(found)}"
    lines = text.splitlines()
    assert lines[1:4] == [
        "No.  Layer  Type   Weight   Output  Format   Neurons",
        "  0  x      Input  -        1x6x6   float32       36",
        "  1  conv   Conv   3x1x3x3  3x4x4   float32       48",
    ]
    total = found.rows[-1]
    assert total.misclassified is not None
    hits, share = total.misclassified.hits, 100 * total.misclassified.share
    assert re.search(rf"^     all layers +{hits}/96: {share:.2f} \[", text, re.MULTILINE)
    assert lines[-2:] == [
        "misclassified: the prediction is wrong, of the 16 golden-correct inputs, each 2 times (clean accuracy 80.00 %)",
        "critical: the prediction is not the golden one, of all 20 inputs, each 2 times; nonfinite: an output is NaN or "
        "Inf, of the same",
    ]


def test_without_labels(model: Path, tmp_path: Path) -> None:
    """Without labels, changed predictions count, among all inputs."""
    np.savez(model.with_suffix(".npz"), x=normal(INPUTS, 1, 6, 6, seed=3))
    found = neurons(model, tmp_path / "run", detailed_log=True)
    check_by_hand(model, found)
    assert {row.misclassified for row in found.rows} == {None}
    assert {row["correct_inferences"] + row["misclassified_share"] for row in rows(found.files[1])} == {""}
    assert "isclassified" not in found.files[0].read_text()
    lines = found.files[2].read_text().splitlines()
    assert len(lines) == found.rows[-1].critical.hits > 0
    assert all(" | label - | golden " in line for line in lines)


def test_tolerance(model: Path, tmp_path: Path) -> None:
    """A model that is no classifier has only critical and nonfinite outcomes, and no classes."""
    settings = Settings(batch_size=BATCH, criterion="tolerance=0.01")
    found = neurons(model, tmp_path / "run", settings=settings, detailed_log=True)
    assert found.correct is None
    assert "critical: an output exceeds the tolerance, of all 20 inputs" in found.files[0].read_text()
    assert found.files[2].read_text().splitlines()[0].endswith("| label - | golden - | faulty -")


def test_no_golden_correct_input(model: Path, tmp_path: Path) -> None:
    data = np.load(model.with_suffix(".npz"))
    predicted = run_part(model, "x", "scores", data["x"]).argmax(axis=1)
    np.savez(model.with_suffix(".npz"), x=data["x"], y=(predicted + 1) % 4)
    found = neurons(model, tmp_path / "run", layers="fc")
    assert found.correct == 0
    assert result_table(found).rows[0][2] == "0/0: -"
    assert {row["misclassified_share"] for row in rows(found.files[1])} == {""}


def test_draws(model: Path) -> None:
    """Uniform over neurons and bits; a draw does not depend on other layers, more trials, more inputs or a fixed bit."""
    setup = prepare(model, SETTINGS)
    _, layers = choose_layers(setup)
    plan = plan_neurons(setup, layers, seed=7, trials=500)
    faults = [fault for trial in range(500) for fault in draw_neuron_faults(layers[1], trial, plan).faults]
    assert {(fault.layer, fault.site) for fault in faults} == {("conv", "output")}
    elements = np.ravel_multi_index(np.array([fault.index for fault in faults]).T.tolist(), (3, 4, 4))
    bits = np.array([fault.bit for fault in faults])
    cells = np.bincount(elements * 32 + bits, minlength=48 * 32)
    assert len(cells) == 48 * 32
    assert 0.001 < stats.chisquare(cells).pvalue < 0.999
    every = {injection.id: injection for injection in plan_neurons(setup, layers, seed=7, trials=3).injections}
    assert every == {f"L{i:02d}_t{j}": draw_neuron_faults(layers[i], j, plan) for i in range(3) for j in range(3)}
    assert len({tuple(fault.index for fault in injection.faults) for injection in every.values()}) == 9
    _, (fc,) = choose_layers(setup, layer_type="Linear")
    assert (fc.number, fc.site) == (0, layers[2].site)
    assert plan_neurons(setup, (fc,), seed=7).injections[0].faults == every["L02_t0"].faults
    fewer = prepare(model, Settings(batch_size=BATCH, first=7))
    assert plan_neurons(fewer, layers, seed=7).injections[1].faults == every["L01_t0"].faults[:7]
    fixed = plan_neurons(setup, layers, seed=7, bit=3).injections[1].faults
    assert [(fault.index, fault.input) for fault in fixed] == [(f.index, f.input) for f in every["L01_t0"].faults]
    assert {fault.bit for fault in fixed} == {3}
    assert plan_neurons(setup, layers, seed=8).injections[1] != every["L01_t0"]


@pytest.mark.parametrize(
    ("name", "bits", "text"),
    [
        ("float32", 0xC0490FDB, "1 10000000 10010010000111111011011"),
        ("float16", 0x3C01, "0 01111 0000000001"),
        ("bfloat16", 0x7F80, "0 11111111 0000000"),
        ("int8", 0x81, "1 0000001"),
        ("uint8", 0x81, "10000001"),
    ],
)
def test_grouped_bits(name: str, bits: int, text: str) -> None:
    assert grouped_bits(bits, FORMATS[name]) == text


def test_resume(model: Path, tmp_path: Path) -> None:
    """A finished campaign writes its files again; another campaign is refused and changes nothing."""
    files = neurons(model, tmp_path / "run", detailed_log=True).files
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    neurons(model, tmp_path / "run", detailed_log=True, resume=True)
    assert [path.read_bytes() for path in files] == before
    with pytest.raises(BitswapError, match="holds a campaign already; continue it with `resume`"):
        neurons(model, tmp_path / "run", detailed_log=True)
    with pytest.raises(BitswapError, match="holds another campaign, with other faults"):
        neurons(model, tmp_path / "run", detailed_log=True, resume=True, settings=Settings(batch_size=BATCH, seed=6))
    with pytest.raises(BitswapError, match="`resume` needs `run`"):
        run_neurons(model, options=RunOptions(resume=True))
    assert [path.read_bytes() for path in files] == before
    assert {path.name for path in (tmp_path / "run").glob("cnn_*")} == {path.name for path in files}


def test_seed_from_the_clock(model: Path, tmp_path: Path) -> None:
    """The seed differs each time; the file names and the note before the run have it."""
    notes: list[str] = []
    found = []
    for name in ("a", "b"):
        settings = Settings(batch_size=BATCH, seed=FROM_CLOCK)
        found.append(neurons(model, tmp_path / name, settings=settings, layers="fc", on_notes=notes.extend))
    assert found[0].seed != found[1].seed
    for campaign in found:
        assert campaign.files[0].name == f"cnn_cnn_{campaign.seed}.txt"
        assert f"neuron faults: 1 layer x 20 inputs x 1 trial = 20, seed {campaign.seed}" in notes
    again = neurons(model, tmp_path / "c", settings=Settings(batch_size=BATCH, seed=found[0].seed), layers="fc")
    assert faults_of(again.run) == faults_of(found[0].run)


def test_engines_agree(model: Path, tmp_path: Path) -> None:
    reference = neurons(model, tmp_path / "reference", engine="reference", trials=2)
    default = neurons(model, tmp_path / "default", workers=2, trials=2)
    assert reference.rows == default.rows


def test_failed_control_leaves_no_files(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = neurons(model, tmp_path / "run", detailed_log=True).files

    def fails(*arguments: Any, **options: Any) -> None:
        raise ControlFailedError("null control failed")

    monkeypatch.setattr(neuron_campaign, "run_campaign", fails)
    with pytest.raises(ControlFailedError):
        neurons(model, tmp_path / "run", resume=True, detailed_log=True)
    assert not any(path.exists() for path in files)


def test_wrong_input(model: Path, tmp_path: Path) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"numbers": [1, 3]}, "`numbers`: there is no layer 3; layers to choose from: 3, numbered 0-2"),
        ({"numbers": [-1]}, "`numbers`: there is no layer -1; layers to choose from: 3, numbered 0-2"),
        ({"numbers": []}, "`numbers`: expected at least one number, found none"),
        (
            {"layer_type": "Conv2d", "numbers": [1]},
            "`numbers`: there is no layer 1; layers to choose from: 1, numbered 0-0",
        ),
        ({"layer_type": "Conf"}, "`layer_type`: no layer is of type 'Conf'; the nearest are Conv"),
        ({"layers": "cov"}, "no layer matches 'cov'; the nearest are conv"),
        (
            {"bit": 32},
            "`bit` 32 is outside float32 (0-31), the output format of x; choose another bit or other `layers`",
        ),
        ({"bit": -1}, "`bit` -1 is outside float32 (0-31)"),
        ({"trials": 0}, "`trials`: expected a positive number, found 0"),
        (
            {"trials": 10**6},
            "3 layers and 20 inputs would have 60,000,000 faults, more than 20,000,000; take fewer trials",
        ),
        (
            {"drop_last": True, "settings": Settings(batch_size=32)},
            "`drop_last`: 20 inputs are fewer than one batch of 32; leave it out or choose a smaller `batch_size`",
        ),
        ({"settings": Settings(layout="blocked")}, "`layout` blocked: neuron faults need `layout` plain"),
    ]
    for options, message in refused:
        with pytest.raises(BitswapError, match=re.escape(message)):
            neurons(model, tmp_path / "run", **options)
        assert not (tmp_path / "run").exists()


def test_bits_are_counted_from_either_end(model: Path) -> None:
    setup = prepare(model, SETTINGS)
    setup, layers = choose_layers(setup)
    ends = [plan_neurons(setup, layers, 5, bit=31), plan_neurons(setup, layers, 5, bit=0, bit_order="msb")]
    assert ends[0].injections == ends[1].injections
    assert {fault.bit for injection in ends[1].injections for fault in injection.faults} == {31}
    with pytest.raises(BitswapError, match="`bit_order`: expected lsb, msb, found 'big'"):
        plan_neurons(setup, layers, 5, bit_order="big")  # type: ignore[arg-type]
