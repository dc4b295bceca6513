"""What experiments read from a store, against the files of the run: results.csv and the saved outputs."""

import csv
from pathlib import Path

import numpy as np
import pytest

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault import Fault, Injection, Site
from bitswap_onnx.outcome import CRITICAL, decode_outcomes
from tests.builders import cnn, normal, save

INPUTS = 10
COUNTS = ("inputs", "masked", "critical", "nonfinite", "top_1_correct")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of a fault in a weight, two faults of one injection, and a neuron fault for each input."""
    np.savez(tmp_path / "cnn.npz", x=normal(INPUTS, 1, 6, 6, seed=3))
    injections = [
        Injection("weight", (Fault("conv", (1, 0, 2, 1), 30),)),
        Injection("two", (Fault("conv", (0, 0, 0, 0), 30), Fault("fc", (2, 3), 31))),
        Injection("each", tuple(Fault("fc", (n % 4,), 20 + n, site=Site.OUTPUT, input=n) for n in range(INPUTS))),
    ]
    return run_campaign(
        prepare(save(cnn(), tmp_path / "cnn.onnx"), Settings(batch_size=4)),
        injections,
        options=RunOptions(run=tmp_path / "run", records=["per_input"], save_outputs=True, workers=1),
    ).run


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_counts_and_outcomes(run: Path) -> None:
    first = {row["Injection"]: row for row in reversed(rows(run))}  # an injection's counts stand on its first row
    with reading(run) as store:
        counts = dict(store.counts_per_injection(COUNTS))
        assert list(counts) == ["weight", "two", "each"]
        for name, (inputs, *numbers, correct) in counts.items():
            names = ("n_injections", "masked", "critical", "nonfinite")
            assert [inputs, *numbers] == [int(first[name][column]) for column in names]
            assert correct is None, "the data have no labels"
            codes, nonfinite = decode_outcomes(store.outcomes_of(name))
            assert len(codes) == INPUTS
            assert [np.sum(codes == CRITICAL), nonfinite.sum()] == numbers[1:]


def test_scores(run: Path) -> None:
    with reading(run) as store:
        for name in ("weight", "two", "each"):
            scores = np.frombuffer(store.scores_of(name), np.float32).reshape(INPUTS, -1)
            assert np.array_equal(scores, np.load(run / "outputs" / f"inj_{name}.npy"), equal_nan=True)


def test_changes(run: Path) -> None:
    written = rows(run)
    with reading(run) as store:
        changes = list(store.changes())
        assert [(row["Injection"], row["Layer"], f"{row['clean_bits']}>{row['faulty_bits']}") for row in written] == [
            (change.injection, change.layer, change.change) for change in changes
        ]
        assert [change.bit_class for change in changes[:3]] == ["exponent", "exponent", "sign"]
        elements = [
            (str(entry.input), entry.element, str(entry.bit), entry.clean_bits, entry.faulty_value)
            for entry in store.changed_elements("each")
        ]
        columns = ("Input", "TensorIndex", "Bit", "clean_bits", "faulty_value")
        assert elements == [tuple(row[name] for name in columns) for row in written if row["Injection"] == "each"]
        assert store.first_neuron_layer() == "fc"
