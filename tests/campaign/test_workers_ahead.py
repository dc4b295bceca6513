"""Workers that start before their campaign is prepared: all at once, none where none is needed, none left behind."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from bitswap_onnx.campaign import options as options_module
from bitswap_onnx.campaign.executor import Executor
from bitswap_onnx.campaign.plan import check_list
from bitswap_onnx.errors import FaultListError, RunError
from bitswap_onnx.faults.fault import Fault, Injection
from tests.campaign.small_campaign import faults, run

FIRST = Injection("first", (Fault("conv", (0, 0, 0, 0), 30),))
WRONG = Injection("wrong", (Fault("conv", (9, 0, 0, 0), 1),))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that the test starts; the fourth cannot start."""
    found: list[subprocess.Popen[bytes]] = []
    usual = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if len(found) == 3:
            raise OSError(11, "Resource temporarily unavailable")
        found.append(usual(*arguments, **options))
        return found[-1]

    monkeypatch.setattr("bitswap_onnx.runtime.processes.subprocess.Popen", start)
    return found


def ended(processes: list[subprocess.Popen[bytes]]) -> bool:
    return all(process.returncode is not None for process in processes)


def test_they_start_together_before_the_list_is_read(
    model: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[int] = []

    def check(*arguments: Any) -> Any:
        before.append(len(started))
        return check_list(*arguments)

    monkeypatch.setattr("bitswap_onnx.campaign.run.check_list", check)
    run(model, tmp_path / "run", workers=3)
    assert (before, len(started)) == ([3], 3)
    assert ended(started)


def test_workers_that_got_no_unit_end(model: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    run(model, tmp_path / "run", [FIRST], workers=3)
    assert len(started) == 3
    assert ended(started)


def test_workers_without_memory_end_before_the_campaign_runs(
    model: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were started ahead, when the memory that the model takes was not known."""
    alive: list[int] = []

    def watched(self: Executor, **options: Any) -> None:
        alive.append(sum(process.returncode is None for process in started))
        execute(self, **options)

    execute = Executor.run
    monkeypatch.setattr(Executor, "run", watched)
    monkeypatch.setattr(options_module, "cores", lambda: 3)
    run(model, tmp_path / "run", workers=None, memory=1 << 20)
    assert (len(started), alive) == (3, [1])
    assert ended(started)


def test_a_wrong_list_leaves_no_process(model: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(FaultListError, match=r"is outside conv\.weight"):
        run(model, tmp_path / "run", [*faults(), WRONG], workers=2)
    assert len(started) == 2
    assert ended(started)


def test_one_that_cannot_start_leaves_no_other(
    model: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    with pytest.raises(RunError, match="cannot start a worker: Resource temporarily unavailable; try fewer `workers`"):
        run(model, tmp_path / "run", workers=4)
    assert len(started) == 3
    assert ended(started)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_and_a_run_without_workers_start_none(
    model: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    run(model, tmp_path / "run", [FIRST], workers=0)
    run(model, tmp_path / "run", [FIRST], workers=3, resume=True)
    assert not started


def test_a_resumed_run_starts_those_that_it_needs(
    model: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    run(model, tmp_path / "run", [FIRST], workers=1, resume=True)
    assert len(started) == 1
    assert ended(started)
