"""Comparisons of runs: numbers against results.csv and the outcomes per input, refusals, notes."""

import csv
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy import stats

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.errors import BitswapError, InterruptedRunError, RunError
from bitswap_onnx.experiments.comparison.compare_runs import Comparison, ComparisonRow, Judgement, compare_runs
from bitswap_onnx.experiments.comparison.run import compare_models
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.faults.fault_list import write_fault_list
from tests.builders import cnn, normal, save
from tests.keras_layout import as_keras, takes_nhwc

INPUTS = 20


def faults() -> list[Injection]:
    """Return faults in bits 20 to 31 of both layers' weights, a fault that yields NaN, and an injection of two layers."""
    places: dict[str, list[tuple[int, ...]]] = {
        "conv": [(0, 0, 0, 0), (1, 0, 2, 0), (2, 0, 1, 1)],
        "fc": [(0, 1), (1, 8), (2, 12), (3, 45)],
    }
    flips = [
        Injection(f"{layer}{number}-{bit}", (Fault(layer, index, bit),))
        for layer, indices in places.items()
        for number, index in enumerate(indices)
        for bit in range(20, 32)
    ]
    nan = Injection("nan", (Fault("fc", (0, 3), None, Kind.SET, "nan"),))
    return [*flips, nan, Injection("two", (Fault("conv", (0, 0, 0, 0), 29), Fault("fc", (1, 1), 30)))]


def shifted() -> onnx.ModelProto:
    """The CNN with another batch-norm: the same faults, other outcomes."""
    proto = cnn()
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "bn.weight")
    tensor.CopyFrom(numpy_helper.from_array(normal(3, seed=50), tensor.name))
    return proto


def softmax() -> onnx.ModelProto:
    proto = cnn()
    proto.graph.node[-1].output[0] = "logits"
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["scores"], axis=1))
    return proto


def labelled_data(folder: Path) -> Path:
    labels = np.random.default_rng(1).integers(0, 4, INPUTS)
    np.savez(folder / "data.npz", x=normal(INPUTS, 1, 6, 6, seed=3), y=labels)
    return folder / "data.npz"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return labelled_data(tmp_path)


def run(folder: Path, proto: onnx.ModelProto, injections: list[Injection] | None = None, **options: Any) -> Path:
    """Run a campaign in ``folder`` and return its directory."""
    folder.mkdir(exist_ok=True)
    settings = options.pop("settings", Settings(data=folder.parent / "data.npz", batch_size=8))
    setup = prepare(save(proto, folder / "model.onnx"), settings)
    options = {"run": folder / "run", "workers": 1, "per_input": True, **options}
    run_campaign(setup, injections or faults(), options=RunOptions(**options))
    return folder / "run"


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs ``a`` and ``b``, with their models and data."""
    folder = tmp_path_factory.mktemp("runs")
    labelled_data(folder)
    run(folder / "a", cnn())
    run(folder / "b", shifted())
    return folder


@pytest.fixture
def runs(finished_runs: Path, tmp_path: Path, data: Path) -> tuple[Path, Path]:
    """Copies of the finished runs, which a test may change."""
    for name in ("a", "b"):
        shutil.copytree(finished_runs / name, tmp_path / name)
    return tmp_path / "a" / "run", tmp_path / "b" / "run"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["n_injections"]]


def row_of(comparison: Comparison, quantity: str, group: str = "all") -> ComparisonRow:
    (row,) = (row for row in comparison.rows if (row.quantity, row.group) == (quantity, group))
    return row


def codes(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return outcomes (injections, inputs) and nonfinite flags of a run, from its parquet file."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(folder / "per_input.parquet").to_pydict()
    names = {"masked": 0, "non_critical": 1, "critical": 2}
    outcome = np.array([names[name] for name in table["outcome"]]).reshape(-1, INPUTS)
    return outcome, np.array(table["nonfinite"]).reshape(-1, INPUTS)


@pytest.mark.parametrize(
    ("group", "belongs"),
    [
        ("all", lambda row: True),
        ("exponent", lambda row: row["Bit"].isdigit() and 23 <= int(row["Bit"]) < 31),
        ("conv", lambda row: row["Layer"] == "conv" and row["Injection"] != "two"),
    ],
)
@pytest.mark.parametrize("quantity", ["critical", "critical_finite", "masked"])
def test_numbers_are_those_of_the_results_files(
    runs: tuple[Path, Path], group: str, belongs: Any, quantity: str
) -> None:
    def shares(folder: Path) -> NDArray[np.float64]:
        rows = [row for row in rows_of(folder) if belongs(row)]
        counts = [int(row["critical" if quantity == "critical_finite" else quantity]) for row in rows]
        less = [int(row["critical_nonfinite"]) for row in rows] if quantity == "critical_finite" else 0
        return (np.array(counts) - less) / INPUTS

    a, b = map(shares, runs)
    row = row_of(compare_runs(*runs, Judgement(delta=0.5, theta=0.05)), quantity, group)
    assert (row.injections, row.share_a, row.share_b) == pytest.approx((len(a), a.mean(), b.mean()))
    assert row.difference  # so that none of this compares nothing with nothing
    paired = stats.ttest_rel(b, a)
    interval = paired.confidence_interval(0.95)
    assert (row.difference, row.low, row.high) == pytest.approx(((b - a).mean(), interval.low, interval.high))
    assert row.se == pytest.approx(np.std(b - a, ddof=1) / np.sqrt(len(a)))
    assert row.differing == np.sum(a != b)
    assert row.bootstrap_low is not None
    assert row.bootstrap_high is not None
    assert row.bootstrap_low <= row.difference <= row.bootstrap_high
    if quantity == "masked":
        assert [row.verdict, row.kappa, row.mcnemar_p] == [None, None, None]
        return
    discordant = [int(np.sum((a > 0.05) & (b <= 0.05))), int(np.sum((b > 0.05) & (a <= 0.05)))]
    assert [row.mcnemar_a_only, row.mcnemar_b_only] == discordant
    assert row.mcnemar_p == pytest.approx(
        stats.binomtest(discordant[0], sum(discordant)).pvalue if any(discordant) else 1
    )


@pytest.mark.parametrize("quantity", ["critical", "critical_finite"])
def test_agreement_is_counted_per_input(runs: tuple[Path, Path], quantity: str) -> None:
    (a, nonfinite_a), (b, nonfinite_b) = map(codes, runs)
    keep = ~(nonfinite_a | nonfinite_b) if quantity == "critical_finite" else np.ones_like(nonfinite_a)
    a, b = a[keep], b[keep]
    assert keep.all() == (quantity == "critical")
    row = row_of(compare_runs(*runs), quantity)
    observed = np.mean(a == b)
    chance = sum(np.mean(a == code) * np.mean(b == code) for code in range(3))
    assert row.kappa == pytest.approx((observed - chance) / (1 - chance))
    both, either = np.sum((a == 2) & (b == 2)), np.sum(a == 2) + np.sum(b == 2)
    assert row.positive_agreement == pytest.approx(2 * both / either)


def test_a_run_equals_itself(runs: tuple[Path, Path]) -> None:
    comparison = compare_runs(runs[0], runs[0])
    row = row_of(comparison, "critical")
    assert (row.difference, row.se, row.tost_low, row.tost_high) == (0, 0, 0, 0)
    assert row.differing == 0
    assert row.differing_upper == pytest.approx(1 - 0.05 ** (1 / 86))
    assert (row.verdict, row.mcnemar_p, row.kappa, row.positive_agreement) == ("equivalent", 1, 1, 1)
    assert row_of(comparison, "critical", "sign").verdict == "not shown"  # two faults show nothing
    assert comparison.about["checked"] == ["inputs and labels are equal, by their hash"]
    assert "both runs are of one model file" in comparison.about["notes"]


def test_every_group_once_with_its_partner(tmp_path: Path, data: Path) -> None:
    a, b = run(tmp_path / "a", cnn()), run(tmp_path / "b", as_keras(cnn()), as_in_keras())
    comparison = compare_runs(a, b)
    groups = [(row.scope, row.group, row.partner) for row in comparison.rows if row.quantity == "critical"]
    assert groups == [
        ("network", "all", "all"),
        *(("bit class", name, name) for name in ("sign", "exponent", "mantissa", "other")),
        *(("layer", "conv", "conv2d"), ("layer", "fc", "dense"), ("layer", "several", "several")),
    ]
    assert sum(row.injections for row in comparison.rows if (row.scope, row.quantity) == ("layer", "masked")) == 86
    assert row_of(comparison, "critical").difference == 0


def as_in_keras() -> list[Injection]:
    def fault(f: Fault) -> Fault:
        layer, axes = {"conv": ("conv2d", (2, 3, 1, 0)), "fc": ("dense", (1, 0))}[f.layer]
        return Fault(layer, tuple(f.index[axis] for axis in axes), f.bit, f.kind, f.value)

    return [Injection(injection.id, tuple(map(fault, injection.faults))) for injection in faults()]


def test_without_outcomes_per_input_the_prevailing_ones_are_compared(tmp_path: Path, data: Path) -> None:
    a, b = run(tmp_path / "a", cnn(), per_input=False), run(tmp_path / "b", shifted())
    comparison = compare_runs(a, b)
    assert comparison.about["agreement"] == "per injection"
    assert any("most inputs of an injection" in note for note in comparison.about["notes"])
    names = ("critical", "non_critical", "masked")
    prevailing = [np.array([np.argmax([int(row[name]) for name in names]) for row in rows_of(side)]) for side in (a, b)]
    either = sum(np.sum(side == 0) for side in prevailing)
    both = np.sum((prevailing[0] == 0) & (prevailing[1] == 0))
    assert row_of(comparison, "critical").positive_agreement == pytest.approx(2 * both / either)


def test_softmax_against_logits_compares_no_masked(tmp_path: Path, data: Path) -> None:
    a, b = run(tmp_path / "a", cnn()), run(tmp_path / "b", softmax())
    comparison = compare_runs(a, b)
    assert {row.quantity for row in comparison.rows} == {"critical", "critical_finite"}
    assert any("masked is not compared" in note for note in comparison.about["notes"])
    (code_a, _), (code_b, _) = codes(a), codes(b)
    observed = np.mean((code_a == 2) == (code_b == 2))
    shares = np.mean(code_a == 2), np.mean(code_b == 2)
    chance = shares[0] * shares[1] + (1 - shares[0]) * (1 - shares[1])
    assert row_of(comparison, "critical").kappa == pytest.approx((observed - chance) / (1 - chance))


def test_inputs_of_another_layout_go_by_name_and_labels(tmp_path: Path, data: Path) -> None:
    a, b = run(tmp_path / "a", cnn()), run(tmp_path / "b", takes_nhwc(cnn()))
    comparison = compare_runs(a, b)
    assert row_of(comparison, "critical").difference == 0
    assert comparison.about["checked"] == ["20 inputs of data", "labels are equal in their order, by their hash"]
    assert any("could not be checked" in note for note in comparison.about["notes"])


def test_comparisons_are_seeded_and_files_hold_them(runs: tuple[Path, Path], tmp_path: Path) -> None:
    comparison, again = compare_runs(*runs), compare_runs(*runs)
    assert comparison.rows == again.rows
    comparison.write(tmp_path)
    stored = json.loads((tmp_path / "compare.json").read_text())
    assert len(stored["rows"]) == len(comparison.rows)
    assert stored["a"]["network"] == "model"
    assert "graph effect" in stored["measures"]
    with (tmp_path / "compare.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["difference"]) for row in table] == [row.difference for row in comparison.rows]
    assert {row["verdict"] for row in table if row["quantity"] == "masked"} == {""}


def test_wrong_judgements() -> None:
    with pytest.raises(BitswapError, match="`delta`: expected percentage points over 0"):
        Judgement(delta=0)
    with pytest.raises(BitswapError, match="`theta`: expected a share"):
        Judgement(theta=1)


def test_other_faults_are_no_partners(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """One injection is missing, one hits another bit, one another element."""
    changed = faults()[:-1]
    changed[3] = Injection(changed[3].id, (Fault("conv", (0, 0, 0, 0), 2),))
    changed[4] = Injection(changed[4].id, (Fault("conv", (0, 0, 2, 0), 24),))
    c = run(tmp_path / "c", cnn(), changed)
    with pytest.raises(RunError, match=r"a/run has 3 without a partner \(conv0-23, conv0-24, two\); .*c/run has 2"):
        compare_runs(runs[0], c)
    comparison = compare_runs(runs[0], c, allow_unpaired=True)
    assert comparison.about["unpaired"] == {"a": ["conv0-23", "conv0-24", "two"], "b": ["conv0-23", "conv0-24"]}
    assert comparison.about["injections"] == 83
    d = run(tmp_path / "d", cnn(), changed[3:5])
    with pytest.raises(RunError, match="run with one list"):
        compare_runs(runs[0], d, allow_unpaired=True)


def test_an_unfinished_run_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    stop = threading.Event()
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "c", cnn(), stop=stop, on_progress=lambda p: stop.set() if p.stage == "injections" else None)
    with pytest.raises(RunError, match="have not run over all inputs; finish the campaign"):
        compare_runs(runs[0], tmp_path / "c/run")
    with pytest.raises(RunError, match="expected a run directory"):
        compare_runs(runs[0], tmp_path / "nothing")


def swapped(settings: Settings, folder: Path) -> Settings:
    """Both datasets have the same name; in one, two images and their labels are swapped."""
    with np.load(folder / "data.npz") as stored:
        x, y = stored["x"], stored["y"]
    two = [0, int(np.flatnonzero(y != y[0])[0])]
    x[two], y[two] = x[two[::-1]], y[two[::-1]]
    (folder / "other").mkdir()
    np.savez(folder / "other/data.npz", x=x, y=y)
    return Settings(data=folder / "other/data.npz", batch_size=8)


def renamed(settings: Settings, folder: Path) -> Settings:
    np.savez(folder / "renamed.npz", x=normal(INPUTS, 1, 6, 6, seed=9), y=np.zeros(INPUTS, np.int64))
    return Settings(data=folder / "renamed.npz", batch_size=8)


def unlabelled(settings: Settings, folder: Path) -> Settings:
    (folder / "other").mkdir()
    np.savez(folder / "other/data.npz", x=normal(INPUTS, 1, 6, 6, seed=9))
    return Settings(data=folder / "other/data.npz", batch_size=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, f: Settings(data=s.data, first=7), "expected runs over the same inputs, found 20 and 7"),
        (lambda s, f: Settings(data=s.data, criterion="tolerance=0.1"), "the runs differ in `criterion`"),
        (swapped, "the inputs have other labels, or the same in another order"),
        (renamed, "expected runs over one dataset, found data and renamed"),
        (unlabelled, "cannot tell whether the inputs are the same"),
    ],
)
def test_other_inputs_are_refused(runs: tuple[Path, Path], tmp_path: Path, change: Any, message: str) -> None:
    settings = change(Settings(data=tmp_path / "data.npz", batch_size=8), tmp_path)
    c = run(tmp_path / "c", cnn(), settings=settings)
    with pytest.raises(RunError, match=message):
        compare_runs(runs[0], c)


def test_synthetic_inputs_of_two_layouts_are_refused(tmp_path: Path) -> None:
    settings = Settings(data=f"synthetic:{INPUTS}")
    a = run(tmp_path / "a", cnn(), settings=settings)
    b = run(tmp_path / "b", takes_nhwc(cnn()), settings=settings)
    with pytest.raises(RunError, match="synthetic inputs differ"):
        compare_runs(a, b)


def test_what_differs_beside_the_graphs_is_said(runs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data.npz", fusion="deployed")
    c = run(tmp_path / "c", cnn(), settings=settings)
    notes = compare_runs(runs[0], c).about["notes"]
    assert "not the graphs alone differ, also fusion, batch_size: the difference is that of all together" in notes


def test_models_run_on_one_list_and_one_dataset(tmp_path: Path, data: Path) -> None:
    """The list is converted, both runs have the data beside A, and a resume runs no injection again."""
    a, b = save(cnn(), tmp_path / "data.onnx"), save(takes_nhwc(as_keras(cnn())), tmp_path / "keras.onnx")
    write_fault_list(tmp_path / "faults.csv", faults())
    notes: list[str] = []
    options = RunOptions(run=tmp_path / "out", workers=1, on_notes=notes.extend)
    comparison = compare_models(a, b, tmp_path / "faults.csv", options=options)
    assert notes[0] == "faults.csv converted for keras by content"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b", "faults_b.csv"]
    assert row_of(comparison, "critical").difference == 0
    assert comparison.about["agreement"] == "per input"
    with pytest.raises(RunError, match="holds runs already"):
        compare_models(a, b, tmp_path / "faults.csv", options=options)
    again = compare_models(a, b, tmp_path / "faults.csv", options=options, resume=True)
    assert again.rows == comparison.rows


def test_a_list_that_fits_both_models_stays(tmp_path: Path, data: Path) -> None:
    a, b = save(cnn(), tmp_path / "data.onnx"), save(shifted(), tmp_path / "shifted.onnx")
    write_fault_list(tmp_path / "faults.csv", faults())
    compare_models(a, b, tmp_path / "faults.csv", run=tmp_path / "out", workers=1)
    assert not (tmp_path / "out/faults_b.csv").exists()


def test_inputs_of_their_own_pair_where_both_drew_the_same(runs: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    c = run(tmp_path / "c", cnn(), inputs_per_injection=8)
    with pytest.raises(RunError, match="the runs differ in `inputs_per_injection` or `seed`"):
        compare_runs(runs[0], c)
    d = run(tmp_path / "d", shifted(), inputs_per_injection=8)
    found, every = row_of(compare_runs(c, d), "critical"), row_of(compare_runs(*runs), "critical")
    assert found.injections == every.injections
    counts = [[int(row["critical"]) / int(row["n_injections"]) for row in rows_of(folder)] for folder in (c, d)]
    assert (found.share_a, found.share_b) == pytest.approx([float(np.mean(run_counts)) for run_counts in counts])
