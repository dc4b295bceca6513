"""The number of workers that the memory has room for, and the batch size that suits large values and few inputs."""

import json
from pathlib import Path

import numpy as np
import pytest

from bitswap_onnx.campaign import batch_size, memory
from bitswap_onnx.campaign.memory import share_memory
from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import Setup, prepare
from bitswap_onnx.errors import BitswapError, RunError
from tests.builders import cnn, normal, save
from tests.campaign.small_campaign import run

MEBIBYTE = 1 << 20
#: What a process and its model take, as the tests' model has next to no weights.
PROCESS = 160


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setattr(RunOptions, "worker_count", lambda self, _: 4 if self.workers is None else self.workers)
    return prepare(save(cnn(), tmp_path / "cnn.onnx"), Settings(data="synthetic"))


@pytest.mark.parametrize(
    ("mebibytes", "workers", "kept"),
    [
        (PROCESS + 4 * (PROCESS + 100), 4, 100),
        (PROCESS + 4 * (PROCESS + 64) + 1, 4, 64),
        (PROCESS + 4 * (PROCESS + 63), 3, 137),
        (PROCESS + 1 * (PROCESS + 200), 1, 200),
        (80, 1, 10),
    ],
)
def test_as_many_workers_as_fit(mebibytes: int, workers: int, kept: int, ready: Setup) -> None:
    shares = share_memory(ready, RunOptions(memory=mebibytes * MEBIBYTE))
    assert shares.workers == workers
    assert shares.kept // MEBIBYTE == pytest.approx(kept, abs=1)
    assert [note.split(":")[0] for note in shares.notes][:1] == (["workers"] if workers < 4 else [])


def test_a_given_number_of_workers_stays(ready: Setup) -> None:
    shares = share_memory(ready, RunOptions(memory=400 * MEBIBYTE, workers=3))
    assert shares.workers == 3
    assert shares.notes == ("warning: `memory` 0.4 GB is less than the 0.7 GB that this model is likely to take",)
    assert share_memory(ready, RunOptions(memory=400 * MEBIBYTE, workers=0)).workers == 0


def test_heavy_weights_leave_room_for_fewer(ready: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    options = RunOptions(memory=3 << 30)
    assert share_memory(ready, options).workers == 4
    monkeypatch.setattr(memory, "stored_bytes", lambda _: 20 * MEBIBYTE)
    notes = share_memory(ready, options).notes
    assert len(notes) == 1
    assert notes[0].startswith("workers: 3 instead of 4, for `memory` 3.2 GB: ")


def test_few_inputs_run_in_one_batch_of_their_own(tmp_path: Path) -> None:
    model = save(cnn(), tmp_path / "cnn.onnx")
    np.savez(tmp_path / "few.npz", x=normal(5, 1, 6, 6))
    assert prepare(model, Settings(data=tmp_path / "few.npz")).batch_size == 5
    assert prepare(model, Settings(data=tmp_path / "few.npz", batch_size=8)).batch_size == 8
    assert prepare(model, Settings(data="synthetic")).batch_size == 32


def test_large_values_run_in_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save(cnn(), tmp_path / "cnn.onnx")
    largest = 3 * 4 * 4 * 4  # bytes of a row behind the convolution
    for limit, expected in ((32 * largest, 32), (32 * largest - 1, 16), (5 * largest, 4), (1, 1)):
        monkeypatch.setattr(batch_size, "_LARGEST_VALUE", limit)
        prepared = prepare(model, Settings(data="synthetic"))
        assert prepared.batch_size == expected
        said = [note for note in prepared.notes if note.startswith("batches of ")]
        assert said == ([f"batches of {expected} inputs, for the size of the model's values"] if expected < 32 else [])


def test_a_memory_of_nothing_is_refused() -> None:
    with pytest.raises(BitswapError, match="`memory`"):
        RunOptions(memory=0)


def test_a_run_goes_on_with_the_batch_size_that_it_began_with(tmp_path: Path) -> None:
    """Older versions had batches of 32 whatever the number of inputs."""
    model = save(cnn(), tmp_path / "cnn.onnx")
    np.savez(tmp_path / "cnn.npz", x=normal(20, 1, 6, 6))
    run(model, tmp_path / "run", settings=Settings(batch_size=32))
    assert prepare(model).batch_size == 20
    run(model, tmp_path / "run", settings=Settings(), resume=True)
    golden = json.loads((tmp_path / "run/golden.json").read_text())
    assert golden["identity"]["numerics"]["batch_size"] == 32
    with pytest.raises(RunError, match="holds another campaign, with other `batch_size`"):
        run(model, tmp_path / "run", settings=Settings(batch_size=20), resume=True)
