"""Signs that data do not belong to their model: what is said, where it is kept, and where nothing is said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bitswap_onnx.campaign.data_warnings import is_unlikely
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import Setup, prepare
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.errors import DataError
from bitswap_onnx.estimates.rates import estimate_rates
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.runtime.first_statistics import first_statistics
from bitswap_onnx.stats.intervals import share_interval
from tests.builders import build, normal, save
from tests.campaign.small_campaign import run
from tests.campaigns import rows_of_store

CHANCE, SHIFTED, LARGE, SMALL = (
    "warning: the clean model is right for",
    "warning: the labels fit better by",
    "warning: the pixels are far larger than in training: at the first batch norm (bn.mean)",
    "warning: the pixels vary far less than in training: at the first batch norm (bn.mean)",
)
NET = """
net (float[N, 2, 4, 4] x) => (float[N, 10] y) {
    h = Conv (x, "conv.weight")
    n = BatchNormalization (h, "bn.weight", "bn.bias", "bn.mean", "bn.var")
    flat = Flatten (n)
    y = Gemm <transB = 1> (flat, "fc.weight")
}
"""
STORED = {
    "conv__weight": normal(3, 3, 1, 1),
    **{f"bn__{name}": np.ones(3, np.float32) for name in ("weight", "bias", "mean", "var")},
    "fc__weight": normal(10, 48, seed=2),
}
X = np.random.default_rng(4).random((200, 2, 4, 4), np.float32)  # pixels 0-1


def network(mean: Any = None, var: Any = None) -> Any:
    """A network whose batch norm has the statistics of `X` behind its convolution, each pixel a sum of channels."""
    kernel = normal(3, 2, 1, 1)
    behind = np.einsum("ncij,oc->noij", X, kernel[:, :, 0, 0])
    return build(
        NET,
        conv__weight=kernel,
        bn__weight=np.ones(3, np.float32),
        bn__bias=np.zeros(3, np.float32),
        bn__mean=behind.mean((0, 2, 3)).astype(np.float32) if mean is None else mean,
        bn__var=behind.var((0, 2, 3)).astype(np.float32) if var is None else var,
        fc__weight=normal(10, 48, seed=2),
    )


def prepared(folder: Path, x: NDArray[Any], shift: int | None = 0, **statistics: Any) -> Setup:
    """Return a setup with labels that are the model's own classes plus ``shift``; None: drawn at random."""
    model = save(network(**statistics), folder / "net.onnx")
    np.savez(folder / "net.npz", x=x)
    classes = prepare(model).clean_run().golden.top_1
    labels = np.random.default_rng(5).integers(0, 10, len(x)) if shift is None else classes + shift
    kept = (labels >= 0) & (labels < 10)
    np.savez(folder / "net.npz", x=x[kept], y=labels[kept])
    return prepare(model)


@pytest.mark.parametrize(
    ("x", "shift", "expected"),
    [
        (X, 0, []),
        (X, None, [CHANCE]),
        (X, 1, [f"{SHIFTED} -1"]),
        (X, -1, [f"{SHIFTED} +1"]),
        (X * 255, 0, [LARGE]),
        (X * 255, None, [CHANCE, LARGE]),
        (X / 255, 0, [SMALL]),
        (X[:1] * 255, 0, [LARGE]),
        (X[:4] / 255, 0, []),
        ((X - np.float32(0.5)) * 2, 0, []),
    ],
)
def test_what_is_said(tmp_path: Path, x: NDArray[Any], shift: int | None, expected: list[str]) -> None:
    warnings = prepared(tmp_path, x, shift).warnings
    assert len(warnings) == len(expected)
    for warning, beginning in zip(warnings, expected, strict=True):
        assert warning.startswith(beginning)


@pytest.mark.parametrize(
    "statistics", [{"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}, {"var": np.zeros(3, np.float32)}]
)
def test_statistics_without_a_training_say_nothing(tmp_path: Path, statistics: Any) -> None:
    assert prepared(tmp_path, X * 255, **statistics).warnings == ()


def test_noise_and_data_without_labels_are_not_judged_by_accuracy(tmp_path: Path) -> None:
    setup = prepared(tmp_path, X, None)
    assert prepare(setup.path, Settings(data="synthetic:200")).warnings == ()
    np.savez(tmp_path / "net.npz", x=X)
    assert prepare(setup.path).warnings == ()


def test_statistics_are_those_of_numpy(tmp_path: Path) -> None:
    """Over batches whose last one is padded; a channel whose variance is below epsilon does not count."""
    variance = np.array([0.5, 0, 2], np.float32)
    setup = prepared(tmp_path, X, mean=np.array([0.1, 5, -0.3], np.float32), var=variance)
    behind = np.einsum("ncij,oc->noij", X[:45], normal(3, 2, 1, 1)[:, :, 0, 0]).astype(np.float64)[:, [0, 2]]
    found = first_statistics(setup.clean_slicer, X[:45], setup.numerics)
    assert found is not None
    square = ((behind - np.array([0.1, -0.3])[:, None, None]) ** 2).mean((0, 2, 3)) / [0.5, 2]
    assert found.mean_square == pytest.approx(square.mean(), rel=1e-5)
    assert found.variance == pytest.approx(np.sqrt(np.prod(behind.var((0, 2, 3)) / [0.5, 2])), rel=1e-5)


@pytest.mark.parametrize("count", [1, 7, 200, 50_000])
@pytest.mark.parametrize("share", [0.5, 0.1, 0.001])
def test_unlikely_hits_are_those_whose_interval_lies_above(count: int, share: float) -> None:
    for hits in {0, 1, round(count * share), round(count * share + 3 * np.sqrt(count * share)), count}:
        low, _ = share_interval([min(hits, count) / count], [count], 0.98)
        assert is_unlikely(min(hits, count), count, share) == (low >= share)


def test_a_run_keeps_its_warnings(tmp_path: Path) -> None:
    setup, notes = prepared(tmp_path, X * 255, None), list[str]()
    faults = [Injection("0", (Fault("conv", (0, 0, 0, 0), 30),))]
    assert setup.path is not None
    run(setup.path, tmp_path / "run", faults, settings=Settings(batch_size=8), on_notes=notes.extend)
    warnings = list(setup.warnings)
    assert len(warnings) == 2
    assert notes[-2:] == warnings
    assert json.loads((tmp_path / "run/golden.json").read_text())["warnings"] == warnings
    assert list(estimate_rates(tmp_path / "run").notes[:2]) == warnings
    with reading(tmp_path / "run") as store:
        assert list(store.warnings) == warnings
    assert len(rows_of_store(tmp_path / "run", "SELECT * FROM setting WHERE key = 'warnings'")) == 1


@pytest.mark.parametrize("folders", [["0", "1"], ["n01440764", "n01443537"], [f"{number:02}" for number in range(11)]])
def test_class_folders_that_are_not_the_models_are_refused(tmp_path: Path, folders: list[str]) -> None:
    """Labels of the place among some classes alone would be wrong; a file of labels is taken."""
    for folder in folders:
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "images" / folder / "a.png")
    proto = build(NET.replace("N, 2,", "N, 3,"), **STORED)
    settings = Settings(data=tmp_path / "images", preprocessing=Preprocessing(mean=(0.0,)))
    setup = prepare(save(proto, tmp_path / "net.onnx"), settings)
    with pytest.raises(
        DataError, match=f"images: {len(folders)} class folders for a model of 10 classes; a folder's place"
    ):
        setup.clean_run()
    (tmp_path / "labels.csv").write_text("".join(f"{folder}/a.png,7\n" for folder in folders))
    labelled = prepare(setup.path, replace(settings, labels=tmp_path / "labels.csv"))
    assert labelled.clean_run().golden.labels.tolist() == [7] * len(folders)  # type: ignore[union-attr]


def test_labels_that_count_from_one_are_named(tmp_path: Path) -> None:
    setup = prepared(tmp_path, X)
    np.savez(tmp_path / "net.npz", x=X[:10], y=np.arange(1, 11))
    with pytest.raises(
        DataError, match="has label 10, the model's classes are 0-9; the labels count from 1, store them"
    ):
        prepare(setup.path).clean_run()
