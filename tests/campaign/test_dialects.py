"""Results in the formats of other tools: what they hold, what is left out, names of files, and reading them back."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from bitswap_onnx.campaign.dialects import export_dialect, export_folders, left_out_of
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.errors import MissingExtraError, RunError
from bitswap_onnx.estimates.rates import estimate_rates
from bitswap_onnx.faults.fault import Fault, Injection, Site
from tests import reference
from tests.builders import cnn, normal, save
from tests.campaign.small_campaign import INPUTS, faults, rows, run

LEFT_OUT = {
    "bias faults": 1,
    "bn_var faults": 1,
    "mask faults": 1,
    "neuron faults": 1,
    "set faults": 1,
    "several faults": 1,
    "stuck_at_0 faults": 1,
    "stuck_at_1 faults": 1,
}
TREES = {
    "dnn-benchmarks": [r"cnn/cnn/clean\.pt", r"cnn/cnn/cnn_FL\.csv"],
    "tf_injector": [
        *(rf"cnn/cnn/\d{{6}}_\d{{4}}/{name}\.npy" for name in ("clean", *(f"inj_flip{bit}" for bit in range(32)))),
        r"cnn/cnn/cnn_cnn_\d{6}_\d{4}\.csv",
    ],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 32 single flips and one injection of each other kind, with saved scores."""
    folder = tmp_path_factory.mktemp("dialects")
    save(cnn(), folder / "cnn.onnx")
    np.savez(folder / "cnn.npz", x=normal(INPUTS, 1, 6, 6, seed=3), y=np.arange(INPUTS) % 4)
    neuron = Injection("neuron", (Fault("conv", (0, 1, 1), 30, site=Site.OUTPUT),))
    run(folder / "cnn.onnx", folder / "run", [*faults(), neuron], save_outputs=True)
    return folder / "run"


@pytest.mark.parametrize("dialect", TREES)
def test_what_a_format_cannot_hold_is_left_out_and_counted(finished: Path, tmp_path: Path, dialect: str) -> None:
    with reading(finished) as store:
        left_out = export_dialect(store, dialect, tmp_path / "x.csv")
    assert left_out == LEFT_OUT
    flips = [row for row in rows(finished) if row["Injection"].startswith("flip")]
    kept = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))[dialect == "tf_injector" :]
    columns = ["n_injections", "masked", "non_critical", "critical"]
    assert [[row[name] for name in columns] for row in kept] == [[row[name] for name in columns] for row in flips]
    theirs = estimate_rates(tmp_path / "x.csv")
    for name in columns[1:]:
        share = np.mean([int(row[name]) / int(row["n_injections"]) for row in flips])
        assert theirs.find("network", "all", name).mean == pytest.approx(share)


def test_nothing_is_written_where_nothing_is_left(finished: Path, tmp_path: Path) -> None:
    model = finished.parent / "cnn.onnx"
    run(model, tmp_path / "biases", [Injection("b", (Fault("fc", (2,), 30, parameter="bias"),))])
    with reading(tmp_path / "biases") as store, pytest.raises(RunError, match=r"found none \(1 with bias faults\)"):
        export_dialect(store, "tf_injector", tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.torch
@pytest.mark.parametrize("dialect", TREES)
def test_the_files_have_the_tools_names(finished: Path, tmp_path: Path, dialect: str) -> None:
    with reading(finished) as store:
        files, left_out = export_folders(store, dialect, tmp_path)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    patterns = TREES[dialect]
    assert len(names) == len(patterns)
    assert all(any(re.fullmatch(pattern, name) for pattern in patterns) for name in names)
    assert all(path.exists() for path in files)
    assert left_out_of(left_out).count("1 with") == len(LEFT_OUT)


@pytest.mark.torch
def test_clean_scores_are_a_tensor_that_torch_reads_without_running_code(finished: Path, tmp_path: Path) -> None:
    import torch

    with reading(finished) as store:
        files, _ = export_folders(store, "dnn-benchmarks", tmp_path)
    scores = torch.load(files[1], weights_only=True)
    clean = np.load(finished / "outputs/clean.npy")
    assert scores.dtype == torch.float32
    assert scores.numpy().tobytes() == clean.tobytes()


def test_without_pytorch_nothing_is_written(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with reading(finished) as store, pytest.raises(MissingExtraError, match=r"pip install 'bitswap-onnx\[torch\]'"):
        export_folders(store, "dnn-benchmarks", tmp_path)
    assert not list(tmp_path.iterdir())


@reference.needed
def test_the_columns_are_those_of_the_published_files(finished: Path, tmp_path: Path) -> None:
    model = finished.parent / "cnn.onnx"
    numbered = [Injection(str(number), injection.faults) for number, injection in enumerate(faults()[:32])]
    run(model, tmp_path / "run", numbered)
    with reading(tmp_path / "run") as store:
        export_dialect(store, "dnn-benchmarks", tmp_path / "x.csv")
    theirs = (reference.RESNET_FILES / "ResNet20_FL.csv").read_bytes().splitlines(keepends=True)
    ours = (tmp_path / "x.csv").read_bytes().splitlines(keepends=True)
    assert ours[0] == theirs[0]
    form = re.compile(rb'\d+,[\w.]+,"\(\d+(, \d+)+\)",\d+,\d+,\d+,\d+,\d+\r?\n?')
    assert all(form.fullmatch(line) for line in theirs[1:])
    assert all(form.fullmatch(line) for line in ours[1:])
