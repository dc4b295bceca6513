"""Rates of runs and files: hand calculations, published figures, what is refused and what is said."""

import csv
import json
import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bitswap_onnx.campaign.results import export_dialect
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.setup import Settings
from bitswap_onnx.errors import BitswapError, FaultListError, RunError
from bitswap_onnx.estimates.fit import Operation, failures
from bitswap_onnx.estimates.groups import ALL, SCOPES
from bitswap_onnx.estimates.rates import CURVE, HARMFUL, Question, Rates, estimate_rates
from bitswap_onnx.estimates.rates_files import as_record, write_csv
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.faults.fault_list import read_fault_list, write_fault_list
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.sampling.generate import generate_faults
from bitswap_onnx.sampling.request import SamplingRequest
from bitswap_onnx.stats.stratified import Bounded, Strata, estimate_mean, frame_of
from tests import reference
from tests.builders import cnn, normal, save
from tests.recorded import recorded_of

CLASSIC = "Injection,Layer,TensorIndex,Bit,n_injections,masked,non_critical,critical"
OURS = f"{CLASSIC},nonfinite,critical_nonfinite"


def results(folder: Path, *rows: str, header: str = CLASSIC) -> Path:
    path = folder / "r.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of drawn faults of a small model over 20 labelled inputs, begun without the design; that lies beside it."""
    folder = tmp_path_factory.mktemp("estimate")
    save(cnn(), folder / "cnn.onnx")
    np.savez(folder / "cnn.npz", x=normal(20, 1, 6, 6, seed=3), y=np.arange(20) % 4)
    generate_faults(load_model(folder / "cnn.onnx"), SamplingRequest(scheme="layer", margin=0.1), folder / "f.csv")
    listed = list(read_fault_list(folder / "f.csv"))
    run_campaign(folder / "cnn.onnx", listed, settings=Settings(seed=1), run=folder / "run", workers=1)
    return folder / "run"


# --- what is estimated -------------------------------------------------------------------------------------------------


def test_by_hand(tmp_path: Path) -> None:
    """Four faults with critical shares 0, 0.1, 0.5, 1: mean 0.4, s^2 = (0.16 + 0.09 + 0.01 + 0.36) / 3."""
    path = results(
        tmp_path,
        "a,conv,(0),31,10,10,0,0",
        "b,conv,(1),30,10,0,9,1",
        "c,fc,(0),30,10,0,5,5",
        "d,fc,(1),3,10,0,0,10",
    )
    rates = estimate_rates(path, Question(by=SCOPES, theta=0.5))
    row = rates.find("curve", ALL, HARMFUL, 0.5)
    assert (row.faults, row.mean, row.too_few) == (4, None, True)
    frame = frame_of("", 4, None)
    found = estimate_mean(frame, np.arange(4), Bounded(np.array([0, 0.1, 0.5, 1])), 0.95)
    assert found.mean == pytest.approx(0.4)
    assert found.se == pytest.approx(math.sqrt((0.16 + 0.09 + 0.01 + 0.36) / 3 / 4))
    critical = rates.find("network", ALL, "critical")
    assert (critical.low, critical.high) == pytest.approx((found.low, found.high))
    assert critical.low == pytest.approx(stats.beta.ppf(0.025, 1.6, 3.4))
    assert critical.high == pytest.approx(stats.beta.ppf(0.975, 2.6, 2.4))
    for scope, groups in {
        "layer": ["conv", "fc"],
        "bit": ["31", "30", "3"],
        "bit-class": ["sign", "exponent", "mantissa"],
        "layer-bit": ["conv bit 31", "conv bit 30", "fc bit 30", "fc bit 3"],
    }.items():
        assert [row.group for row in rates.rows if (row.scope, row.quantity) == (scope, "masked")] == groups
        assert rates.tables[scope] == len(groups)
    assert rates.find("layer", "fc", "critical").level == pytest.approx(0.975)


def test_stratified_by_hand() -> None:
    """N = 100 + 900, n = 4 + 3: p = 0.1 x 0.5 + 0.9 x 0.1, Var = 0.01 x 0.96 x (1/3) / 4 + 0.81 x (1 - 3/900) x 0.01 / 3."""
    values = np.array([0, 1, 0, 1, 0.1, 0.2, 0.0])
    frame = frame_of("", 7, Strata(("a", "b"), (4, 3), (100, 900)))
    found = estimate_mean(frame, np.arange(7), Bounded(values), 0.95)
    assert found.mean == pytest.approx(0.14)
    assert found.se == pytest.approx(math.sqrt(0.01 * 0.96 / 3 / 4 + 0.81 * (1 - 3 / 900) * 0.01 / 3))
    group = estimate_mean(
        frame, np.array([0, 1, 4]), Bounded(values), 0.95
    )  # 50 and 300 of them, as far as the draw says
    assert group.mean == pytest.approx((50 * 0.5 + 300 * 0.1) / 350)
    assert found.low < 0.14 < found.high


def test_census_is_exact() -> None:
    values = np.array([0, 1, 0, 0.5])
    found = estimate_mean(frame_of("", 4, Strata(("a",), (4,), (4,))), np.arange(4), Bounded(values), 0.95)
    assert (found.mean, found.se, found.low, found.high) == pytest.approx((0.375, 0, 0.375, 0.375))
    assert found.census


def test_values_of_either_sign() -> None:
    """A drop is a gain less a loss; its interval lies within its bounds and holds its mean."""
    values = np.array([0.0, -0.05, 0.3, 0.6])
    found = estimate_mean(frame_of("", 4, None), np.arange(4), Bounded(values, -0.4, 0.6), 0.95)
    assert found.mean == pytest.approx(0.2125)
    assert -0.4 <= found.low < 0 < 0.2125 < found.high <= 0.6


def test_treatments_of_nonfinite(tmp_path: Path) -> None:
    """10 inputs: 4 critical of which 3 nonfinite, 5 nonfinite: as is 4, always 6, detected 1."""
    path = results(tmp_path, *(f"{i},fc,({i}),30,10,0,6,4,5,3" for i in range(8)), header=OURS)
    means = {}
    for nonfinite in ("as-is", "critical", "detected"):
        rates = estimate_rates(path, Question(nonfinite=nonfinite, theta=0.5))
        means[rates.question.leading] = rates.find("network", ALL, rates.question.leading).mean
        harmful = rates.find("network", ALL, HARMFUL, 0.5).mean
        assert harmful == (1 if nonfinite == "critical" else 0)
    assert means == pytest.approx({"critical": 0.4, "critical_or_nonfinite": 0.6, "critical_finite": 0.1})
    with pytest.raises(RunError, match="`nonfinite` detected needs the counts nonfinite and critical_nonfinite"):
        estimate_rates(results(tmp_path, "0,fc,(0),1,1,1,0,0"), Question(nonfinite="detected"))


def test_several_faults_belong_where_all_agree(tmp_path: Path) -> None:
    rows = ("a,conv,(0),30,10,0,9,1", "a,fc,(0),30,10,0,9,1", "b,fc,(0),30,10,0,9,1", "b,fc,(0),2,10,0,9,1")
    rates = estimate_rates(results(tmp_path, *rows), Question(by=SCOPES))
    groups = {(row.scope, row.group) for row in rates.rows if row.scope not in ("network", CURVE)}
    assert groups == {
        *(("layer", name) for name in ("several", "fc")),
        *(("bit", name) for name in ("30", "several")),
        *(("bit-class", name) for name in ("exponent", "several")),
        ("layer-bit", "several"),
    }
    assert rates.find("layer-bit", "several", "critical").faults == 2
    assert len(rates.recorded) == 2


# --- sources -----------------------------------------------------------------------------------------------------------


def test_a_run_is_its_results_file(run: Path) -> None:
    """The store and results.csv give the same rates, except what the file does not know; counts are those of the file."""
    question = Question(by=SCOPES)
    stored, filed = estimate_rates(run, question), estimate_rates(run / "results.csv", question)
    assert [row for row in stored.rows if row.quantity != "accuracy_drop"] == list(filed.rows)
    with (run / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("critical", "masked", "sdc_10"):
        shares = [int(row[name]) / int(row["n_injections"]) for row in rows]
        found = stored.find("network", ALL, name)
        assert found.mean == pytest.approx(np.mean(shares))
        assert found.se == pytest.approx(stats.sem(shares))
    golden = json.loads((run / "golden.json").read_text())
    drop = np.mean([golden["top_1_correct"] / 20 - int(row["top_1_correct"]) / 20 for row in rows])
    assert stored.find("network", ALL, "accuracy_drop").mean == pytest.approx(drop)


def test_the_design_weights_and_corrects(run: Path) -> None:
    design = run.parent / "f.design.json"
    drawn = json.loads(design.read_text())["strata"]
    rates = estimate_rates(run, Question(by=("layer",)), design)
    assert rates.strata is not None
    assert rates.strata.bits == (27 + 192) * 32
    sizes = {entry["name"]: (entry["size"], entry["population"]) for entry in drawn}
    shares = {name: rates.find("layer", name, "critical") for name in sizes}
    weighted = sum(sizes[name][1] * (shares[name].mean or 0) for name in sizes) / sum(n for _, n in sizes.values())
    assert rates.find("network", ALL, "critical").mean == pytest.approx(weighted)
    plain = estimate_rates(run, Question(by=("layer",)))
    for name, (size, population) in sizes.items():
        bare = plain.find("layer", name, "critical")
        assert shares[name].se == pytest.approx((bare.se or 0) * math.sqrt(1 - size / population))
        assert shares[name].high < bare.high
    assert any("no design" in note for note in plain.notes)
    assert not any("no design" in note for note in rates.notes)
    by_file = estimate_rates(run / "results.csv", Question(by=("layer",)), design)
    assert by_file.find("network", ALL, "critical") == rates.find("network", ALL, "critical")


def test_the_design_beside_a_file_is_used_and_another_lists_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes((run / "results.csv").read_bytes())
    (tmp_path / "f.design.json").write_bytes((run.parent / "f.design.json").read_bytes())
    assert estimate_rates(tmp_path / "f.csv").strata is not None
    other = results(tmp_path, "a,conv,(0),31,10,10,0,0")
    with pytest.raises(
        RunError, match=r"f\.design\.json: the design of another list than that of .*r\.csv, by its hash"
    ):
        estimate_rates(other, Question(), tmp_path / "f.design.json")
    with pytest.raises(RunError, match="its 1 injections are not the 2 of the design"):
        estimate_rates(other, Question(), Strata(("a",), (2,), (9,)))


@pytest.mark.parametrize("dialect", ["tf_injector", "dnn-benchmarks"])
def test_other_tools_files(run: Path, tmp_path: Path, dialect: str) -> None:
    with reading(run) as store:
        export_dialect(store, dialect, tmp_path / "other.csv")
    ours, theirs = estimate_rates(run), estimate_rates(tmp_path / "other.csv")
    assert theirs.find("bit", "30", "critical") == ours.find("bit", "30", "critical")
    has_golden = dialect == "tf_injector"
    names = {row.quantity for row in theirs.rows}
    assert names == {"critical", "non_critical", "masked", HARMFUL} | ({"accuracy_drop"} if has_golden else set())
    if has_golden:
        assert theirs.find("network", ALL, "accuracy_drop") == ours.find("network", ALL, "accuracy_drop")
    assert "no clean_bits" in theirs.notes[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "the fault list has a header but no rows"),
        (("a,fc,(0),1,10,9,0,0", "a,fc,(1),1,10,8,1,0"), "r.csv:2: the counts of injection a differ between its rows"),
        (
            ("a,fc,(0),1,10,9,0,1", "a,fc,(1),1,,8,,"),
            "r.csv:3: non_critical: expected a whole number of inputs, found ''",
        ),
        (("a,fc,(0),1,,,,", "a,fc,(1),1,,,,"), "r.csv:2: masked: expected a whole number of inputs, found ''"),
        (("a,fc,(0),1,10,0,0,0",), "r.csv:2: masked, non_critical and critical are all 0"),
        (("a,fc,(0),1,10,x,0,0",), "r.csv:2: masked: expected a whole number of inputs, found 'x'"),
        (("a,fc,(0),1,10,\u0663,0,0",), "r.csv:2: masked: expected a whole number of inputs, found '\u0663'"),
        (("a,fc,(0),1,1_0,1_0,0,0",), "r.csv:2: n_injections: expected a whole number of inputs, found '1_0'"),
        (("a,fc,(0),1,10,9.5,0.5,0",), "r.csv:2: masked: expected a whole number of inputs, found '9.5'"),
        (("a,fc,(0),1,10,,10,0",), "r.csv:2: masked: expected a whole number of inputs, found ''"),
        (("a,fc,(0),1,10,-1,11,0",), "r.csv:2: masked: expected a whole number of inputs, found '-1'"),
        (("a,fc,(0),1,10,9,1,0", "b,fc,(1),1,10,9,1,0", "a,fc,(2),1,10,9,1,0"), "r.csv:4: injection a stood at line 2"),
    ],
)
def test_wrong_files(tmp_path: Path, rows: tuple[str, ...], message: str) -> None:
    with pytest.raises(FaultListError) as caught:
        recorded_of(results(tmp_path, *rows))
    assert message in str(caught.value)


def test_counts_of_several_faults_count_once(tmp_path: Path) -> None:
    """They stand on the first row alone, or, as older files of ours and other tools have it, on each."""
    counts, single = "10,6,2,2,0,0", "b,fc,(2),31,10,10,0,0,0,0"
    for further in (counts, ",,,,,"):
        path = results(
            tmp_path, f"a,fc,(0),1,{counts}", f"a,fc,(1),2,{further}", f"a,fc,(2),1,{further}", single, header=OURS
        )
        recorded = recorded_of(path)
        assert recorded.inputs.tolist() == [10, 10]
        assert {name: column.tolist() for name, column in recorded.counts.items()} == {
            "masked": [6, 10], "non_critical": [2, 0], "critical": [2, 0], "nonfinite": [0, 0], "critical_nonfinite": [0, 0]
        }  # fmt: skip
        assert recorded.bits.tolist() == ["several", "31"]
        assert not recorded.notes[:-1]


def test_files_without_outcomes(tmp_path: Path) -> None:
    path = results(tmp_path, "a,fc,(0),1", header="Injection,Layer,TensorIndex,Bit")
    with pytest.raises(
        FaultListError, match=r"r\.csv:1: expected results with .*missing masked,non_critical,critical; run"
    ):
        recorded_of(path)
    with pytest.raises(FaultListError, match="column critical stands twice"):
        recorded_of(results(tmp_path, "a,fc,(0),1,1,1,0,0,0", header=CLASSIC + ",critical"))
    with pytest.raises(FaultListError, match="nonfinite is 11, more than the 10 inputs"):
        recorded_of(results(tmp_path, "a,fc,(0),1,10,10,0,0,11,0", header=OURS))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(FaultListError, match="found an empty file"):
        recorded_of(tmp_path / "empty.csv")
    with pytest.raises(RunError, match=r"none\.csv: expected a run directory or a results file, found nothing there"):
        recorded_of(tmp_path / "none.csv")
    with pytest.raises(RunError, match="expected a run directory"):
        recorded_of(tmp_path)


def test_sums_are_the_denominators(tmp_path: Path) -> None:
    """n_injections 10, 4 of which are in the sums; other counts would be of other inputs, so they are left out."""
    recorded = recorded_of(results(tmp_path, "a,fc,(0),1,10,3,0,1,2,0", "b,fc,(0),2,4,4,0,0,0,0", header=OURS))
    assert recorded.inputs.tolist() == [4, 4]
    assert list(recorded.counts) == ["masked", "non_critical", "critical"]
    assert (
        "n_injections is not masked + non_critical + critical for 1 of 2 injections (first 10 against 4)"
        in recorded.notes[0]
    )


def test_columns_that_only_some_rows_have_are_left_out(tmp_path: Path) -> None:
    recorded = recorded_of(results(tmp_path, "a,fc,(0),1,4,4,0,0,0,0", "b,fc,(0),2,4,4,0,0,0", header=OURS))
    assert "critical_nonfinite" not in recorded.counts
    assert recorded.notes[0] == "left out, because some rows have no count: critical_nonfinite"


@pytest.mark.parametrize(
    ("bits", "value", "bit", "expected"),
    [
        ("0x3f800000", "1.0", 30, "exponent"),
        ("0x00000001", "1", 31, "sign"),
        ("0x3f80", "1", 14, "exponent"),
        ("0x3c00", "1.0", 9, "mantissa"),
        ("0x80", "128", 7, "integer"),
        ("0x80", "-128", 7, "sign"),
        ("0x01", "1", 7, "other"),
        ("", "", 3, "other"),
        ("nonsense", "1", 3, "other"),
    ],
)
def test_bit_classes_are_those_of_the_stored_format(
    tmp_path: Path, bits: str, value: str, bit: int, expected: str
) -> None:
    header = CLASSIC + ",clean_bits,clean_value"
    recorded = recorded_of(results(tmp_path, f"a,fc,(0),{bit},1,1,0,0,{bits},{value}", header=header))
    assert recorded.bit_classes.tolist() == [expected]


def test_runs_that_are_not_finished_or_not_valid(run: Path, tmp_path: Path) -> None:
    for statement, message in (
        ("DELETE FROM outcome WHERE position = 3", "1 injections have not run over all inputs"),
        (
            'INSERT OR REPLACE INTO setting VALUES (\'audit\', \'{"different": ["a"], "checked": ["a"]}\')',
            "its audit failed",
        ),
    ):
        (tmp_path / "campaign.sqlite").write_bytes((run / "campaign.sqlite").read_bytes())
        database = sqlite3.connect(tmp_path / "campaign.sqlite")
        with database:
            database.execute(statement)
        database.close()
        with pytest.raises(RunError, match=message):
            estimate_rates(tmp_path)


def test_questions_that_make_no_sense() -> None:
    for wrong, message in (
        ({"by": ("row",)}, "`by`: expected some of network,layer,bit,bit-class,layer-bit, found row"),
        ({"by": ()}, "`by`: expected some of .*, found nothing"),
        ({"level": 95}, "`level`: expected a confidence between 0 and 1, like 0.95, found 95"),
        ({"theta": -0.1}, "`theta`: expected a share of inputs from 0 to 1, found -0.1"),
        ({"theta": math.nan}, "`theta`: expected"),
    ):
        with pytest.raises(BitswapError, match=message):
            Question(**wrong)


# --- failures in time --------------------------------------------------------------------------------------------------


def drawn(tmp_path: Path) -> Rates:
    """20 faults, 5 of which are critical on half of their inputs."""
    rows = [f"{i},fc,({i}),30,10,5,0,5" if i < 5 else f"{i},fc,({i}),3,10,10,0,0" for i in range(20)]
    return estimate_rates(results(tmp_path, *rows), Question(theta=0.5))


def test_fit_by_hand(tmp_path: Path) -> None:
    """1000 FIT/Mbit x 3.6 Mbit = 3600 upsets per 1e9 h = 1e-9 per second; a quarter harmful; each stays 1000 s."""
    fit = failures(drawn(tmp_path), Operation(fit_per_mbit=1000, mbit="1e6", residency=1000, bits=3_600_000))
    assert (fit.upsets, fit.fit, fit.theta) == pytest.approx((3600, 900, 0.5))
    limits = stats.binomtest(5, 20).proportion_ci(0.95)
    assert (fit.low, fit.high) == pytest.approx((3600 * limits.low, 3600 * limits.high))
    assert (fit.at_a_time, fit.harmed_time, fit.critical_share) == pytest.approx((1e-6, 0.25e-6, 0.125e-6))
    binary = failures(drawn(tmp_path), Operation(fit_per_mbit=1000, mbit="2^20", residency=1000, bits=3_600_000))
    assert binary.fit == pytest.approx(900 * 1e6 / 2**20)


def test_fit_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    rates = drawn(tmp_path)
    with pytest.raises(RunError, match="the size of the memory is not known; give `bits`"):
        failures(rates, Operation(fit_per_mbit=1, mbit="1e6", residency=1))
    with pytest.raises(RunError, match=r"expected at most 0\.1 upsets in memory on average, found 1e\+03"):
        failures(rates, Operation(fit_per_mbit=1e9, mbit="1e6", residency=3.6e6, bits=1_000_000))
    with pytest.raises(BitswapError, match="`mbit`: expected the size of a Mbit, one of 1e6, 2\\^20, found '1'"):
        Operation(fit_per_mbit=1, mbit="1", residency=1)
    for wrong in ({"fit_per_mbit": 0}, {"residency": -1}, {"bits": 0}, {"fit_per_mbit": math.nan}):
        with pytest.raises(BitswapError, match=r"above 0|at least 1"):
            Operation(**({"fit_per_mbit": 1, "mbit": "1e6", "residency": 1} | wrong))  # type: ignore[arg-type]
    operation = Operation(fit_per_mbit=1, mbit="1e6", residency=1, bits=32)
    with pytest.raises(RunError, match="1 faults are too few for a FIT figure"):
        failures(estimate_rates(results(tmp_path, "a,fc,(0),1,1,1,0,0")), operation)
    pairs = estimate_rates(results(tmp_path, "a,fc,(0),1,1,1,0,0", "a,fc,(0),2,1,1,0,0"))
    with pytest.raises(RunError, match="needs injections of one flip of a stored bit each"):
        failures(pairs, operation)


def test_fit_takes_the_designs_bits(run: Path) -> None:
    rates = estimate_rates(run, Question(theta=0.1), run.parent / "f.design.json")
    fit = failures(rates, Operation(fit_per_mbit=500, mbit="1e6", residency=10))
    assert fit.bits == (27 + 192) * 32


def test_stuck_at_faults_are_no_upsets(tmp_path: Path) -> None:
    save(cnn(), tmp_path / "cnn.onnx")
    write_fault_list(tmp_path / "f.csv", [Injection("a", (Fault("fc", (0, 0), 30, Kind.STUCK_AT_1),))])
    run_campaign(tmp_path / "cnn.onnx", tmp_path / "f.csv", settings=Settings(first=3), run=tmp_path / "run", workers=1)
    assert not recorded_of(tmp_path / "run").single_flips
    assert "accuracy_drop" not in {row.quantity for row in estimate_rates(tmp_path / "run").rows}


# --- files and published figures ---------------------------------------------------------------------------------------


def test_json_and_csv(run: Path, tmp_path: Path) -> None:
    rates = estimate_rates(run, Question(by=("layer-bit",)), run.parent / "f.design.json")
    record = json.loads(json.dumps(as_record(rates), allow_nan=False))
    assert record["notes"][-1] == "Estimates are conditional on the inputs run"
    assert record["corrected"]["layer-bit"]["method"] == "Bonferroni"
    assert sum(entry["size"] for entry in record["design"]) == record["injections"]
    write_csv(rates, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(rates.rows) == len(record["rates"]) + len(record["curve"])
    few = next(row for row in rows if row["too_few"] == "True")
    assert (few["mean"], few["se"]) == ("", "")
    filed = results(tmp_path, "a,fc,(0),1,1,1,0,0")
    with pytest.raises(RunError, match="would overwrite what it is made from"):
        write_csv(estimate_rates(filed), filed)


@reference.needed
def test_published_resnet20() -> None:
    """1.276 % ± 0.081, 41.65 % masked, 40.1 % given bit 30; any critical 35.1 %, a critical share of 1 % or more 2.07 %."""
    rates = estimate_rates(reference.RESNET_FILES / "ResNet20_FL.csv")
    critical = rates.find("network", ALL, "critical")
    assert (round(100 * (critical.mean or 0), 3), round(100 * (critical.se or 0), 3)) == (1.276, 0.081)
    assert critical.low < 0.01276 - 1.96 * 0.00081 < 0.01276 + 1.96 * 0.00081 < critical.high < 0.0147
    assert round(100 * (rates.find("network", ALL, "masked").mean or 0), 2) == 41.65
    assert round(100 * (rates.find("bit", "30", "critical").mean or 0), 1) == 40.1
    curve = {row.theta: 100 * (row.mean or 0) for row in rates.rows if row.scope == CURVE}
    assert (round(curve[0.0], 1), round(curve[0.01], 2)) == (35.1, 2.07)
    assert list(curve.values()) == sorted(curve.values(), reverse=True)


@reference.needed
def test_published_file_whose_rows_do_not_sum() -> None:
    path = reference.RESNET_FILES.parents[2] / "GTSRB/fp32/densenet/DenseNet121_GTSRB_FL.csv"
    recorded = recorded_of(path)
    assert set(recorded.inputs.tolist()) == {3072}
    assert "first 12,630 against 3,072" in recorded.notes[0]
