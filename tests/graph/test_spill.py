"""Large models: their tensors lie in a temporary file, bit for bit, and campaigns count the same."""

import gc
import tempfile
from pathlib import Path

import pytest

from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.graph import spill
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.spill import SpilledModel, spilled
from bitswap_onnx.graph.tensors import stored_tensors
from tests.builders import cnn, save
from tests.campaign.small_campaign import run


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "_LARGE_MODEL", 0)
    monkeypatch.setattr(spill, "_LARGE_TENSOR", 0)


@pytest.mark.usefixtures("everything_is_large")
def test_tensors_keep_their_bits_and_go_with_the_model() -> None:
    model = from_proto(cnn())
    large = spilled(model)
    assert isinstance(large, SpilledModel)
    assert large.sha256 == model.sha256
    assert large.has_external_data
    assert not model.has_external_data
    for key in stored_tensors(model.proto):
        assert large.tensor(key).tobytes() == model.tensor(key).tobytes()
        assert large.tensor(key).ctypes.data % 64 == 0
    folder = large.folder
    assert large.file.parent == folder
    del large
    gc.collect()
    assert not folder.exists()


def test_small_models_stay_as_they_are() -> None:
    model = from_proto(cnn())
    assert spilled(model) is model


@pytest.mark.usefixtures("everything_is_large")
def test_without_space_the_model_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", full)
    model = from_proto(cnn())
    assert spilled(model) is model
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("everything_is_large")
def test_without_a_temporary_folder_the_model_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    model = from_proto(cnn())
    assert spilled(model) is model


@pytest.mark.usefixtures("everything_is_large")
def test_an_interrupt_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        spilled(from_proto(cnn()))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_campaign_counts_the_same(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, settings = save(cnn(), tmp_path / "cnn.onnx"), Settings(data="synthetic", batch_size=8)
    run(path, tmp_path / "plain", workers=workers, settings=settings)
    monkeypatch.setattr(spill, "_LARGE_MODEL", 0)
    monkeypatch.setattr(spill, "_LARGE_TENSOR", 0)
    assert isinstance(prepare(path, settings).model, SpilledModel)
    run(path, tmp_path / "spilled", workers=workers, settings=settings)
    assert (tmp_path / "spilled/results.csv").read_bytes() == (tmp_path / "plain/results.csv").read_bytes()
