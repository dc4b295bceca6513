"""docs/results.md names every column and key of the files that the project writes, and no other."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.campaign.results import PER_INPUT_COLUMNS, RESULT_COLUMNS
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.estimates.names import HARMFUL
from bitswap_onnx.estimates.rates import Rate, estimate_rates
from bitswap_onnx.estimates.rates_files import RATE_COLUMNS, as_record
from bitswap_onnx.experiments.comparison.compare_runs import ComparisonRow, compare_runs
from bitswap_onnx.experiments.neurons.report import NEURON_COLUMNS
from bitswap_onnx.experiments.sweep.report import DETAIL_COLUMNS, SUMMARY_COLUMNS
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.sampling.generate import generate_faults
from bitswap_onnx.sampling.request import SamplingRequest
from tests.builders import cnn, normal, save
from tests.documented import documented


@pytest.mark.parametrize(
    ("heading", "introduction", "columns"),
    [
        ("results.csv", "", RESULT_COLUMNS),
        ("until.csv", "", InterimEstimate._fields),
        ("per_input.parquet", "", PER_INPUT_COLUMNS),
        ("`estimate`", "Columns of `-o`", RATE_COLUMNS),
        ("`neurons`", "Columns of", NEURON_COLUMNS),
        ("`sweep`", "Columns of `NETWORK.csv`", SUMMARY_COLUMNS),
        ("`sweep`", "Columns of `detail-NETWORK.csv`", DETAIL_COLUMNS),
        ("`compare`", "Columns of compare.csv", [field.name for field in fields(ComparisonRow)]),
    ],
)
def test_columns(heading: str, introduction: str, columns: list[str]) -> None:
    assert documented(heading, introduction) == list(columns)


def keys(record: dict[str, Any], opened: tuple[str, ...], before: str = "") -> list[str]:
    """Return the keys of a record, and those inside the ``opened`` ones as ``outer.inner``."""
    names = []
    for key, value in record.items():
        names.append(before + key)
        if before + key in opened:
            names += keys(value, opened, f"{before}{key}.")
    return names


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run of a list that was generated; model, list and design lie beside it."""
    folder = tmp_path_factory.mktemp("results")
    save(cnn(), folder / "cnn.onnx")
    np.savez(folder / "cnn.npz", x=normal(8, 1, 6, 6, seed=3), y=np.arange(8) % 4)
    model = load_model(folder / "cnn.onnx")
    generate_faults(model, SamplingRequest(number=12), folder / "f.csv")
    options = RunOptions(run=folder / "run", workers=0)
    run_campaign(prepare(folder / "cnn.onnx", Settings()), folder / "f.csv", options=options)
    return folder / "run"


def test_keys(run: Path) -> None:
    golden = json.loads((run / "golden.json").read_text())
    opened = ("identity", "identity.numerics", "coverage", "audit")
    assert documented("golden.json") == keys(golden, opened)
    rates = estimate_rates(run)
    assert documented("`estimate`", "Keys of `--json`") == list(as_record(rates))
    design = json.loads(run.parent.joinpath("f.design.json").read_text())
    assert documented("`faults generate` and `faults describe`", "The design") == list(design)
    compared = compare_runs(run, run).about
    assert documented("`compare`", "Further keys of compare.json") == list(compared)


def test_quantities(run: Path) -> None:
    rates = estimate_rates(run)
    assert {row.quantity for row in rates.rows} == set(documented("`estimate`", "in `--json` it stands once"))
    assert HARMFUL in documented("`estimate`", "in `--json` it stands once")
    assert set(asdict(rates.rows[0])) == {field.name for field in fields(Rate)} < set(RATE_COLUMNS)
