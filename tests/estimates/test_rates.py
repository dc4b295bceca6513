"""Rates of runs and files: hand calculations, designs, published figures."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bitswap_onnx.errors import BitswapError, RunError
from bitswap_onnx.estimates.groups import ALL
from bitswap_onnx.estimates.input_design import CONDITIONAL
from bitswap_onnx.estimates.names import CURVE, HARMFUL, SCOPES
from bitswap_onnx.estimates.question import Question
from bitswap_onnx.estimates.rates import estimate_rates
from bitswap_onnx.estimates.rates_files import as_record, write_csv
from bitswap_onnx.stats.stratified import Bounded, Strata, estimate_mean, frame_of
from tests import reference
from tests.results_file import OURS, results


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
        assert rates.corrected_for[scope] == len(groups)
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


def test_json_and_csv(run: Path, tmp_path: Path) -> None:
    rates = estimate_rates(run, Question(by=("layer-bit",)), run.parent / "f.design.json")
    record = json.loads(json.dumps(as_record(rates), allow_nan=False))
    assert record["notes"][-1] == CONDITIONAL
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
