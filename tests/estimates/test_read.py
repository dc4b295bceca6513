"""Runs and results files as sources: what is read from them, and what is refused."""

import sqlite3
from pathlib import Path

import pytest

from bitswap_onnx.campaign.dialects import export_dialect
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.errors import FaultListError, RunError
from bitswap_onnx.estimates.groups import ALL
from bitswap_onnx.estimates.names import HARMFUL
from bitswap_onnx.estimates.rates import estimate_rates
from tests import reference
from tests.recorded import recorded_of
from tests.results_file import CLASSIC, OURS, results


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


def test_all_rows_of_a_tensor_tell_its_format(tmp_path: Path) -> None:
    """A zero reads the same in many formats; another value of the same tensor tells which it is."""
    header = CLASSIC + ",clean_bits,clean_value"
    rows = "a,fc,(0),14,1,1,0,0,0x0000,0.0", "b,fc,(1),14,1,1,0,0,0x3c00,1.0", "c,g,(1),3,1,1,0,0,0xf,-1"
    assert recorded_of(results(tmp_path, *rows, header=header)).bit_classes.tolist() == ["exponent", "exponent", "sign"]


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


@reference.needed
def test_published_file_whose_rows_do_not_sum() -> None:
    path = reference.RESNET_FILES.parents[2] / "GTSRB/fp32/densenet/DenseNet121_GTSRB_FL.csv"
    recorded = recorded_of(path)
    assert set(recorded.inputs.tolist()) == {3072}
    assert "first 12,630 against 3,072" in recorded.notes[0]
