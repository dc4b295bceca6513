"""The acceptance of a GPU, with the CPU in its place and the shipped model: everything but the GPU is tried."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bitswap_onnx.data import chunks
from tests.benchmarks.acceptance_report import checks, table
from tests.benchmarks.acceptance_steps import DIGITS, Machine, Sizes
from tests.benchmarks.gpu_use import parse_samples
from tests.benchmarks.timed_steps import Step, run_step

REPO = Path(__file__).parent.parent
STEPS = ["provider", "golden", "fast", "slow", "neurons", "tf32", "whole_list"]
SIZES = {"faults": 40, "inputs": 360, "neurons": 60, "list-inputs": 400, "list-share": 0.02, "workers": 0}


def accept(folder: Path, provider: str) -> tuple[int, dict[str, Any]]:
    sizes = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "tests.benchmarks.cuda_acceptance", "--provider", provider, "--out", str(folder)]
    done = subprocess.run([*command, *sizes], cwd=REPO, capture_output=True, text=True)
    report: dict[str, Any] = json.loads((folder / "acceptance.json").read_text())
    assert (folder / "acceptance.md").read_text() == table(report)
    return done.returncode, report


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    status, report = accept(tmp_path_factory.mktemp("cpu"), "cpu")
    assert [step["failure"] for step in report["steps"].values()] == [None] * len(STEPS)
    assert status == 0
    return report


def test_the_cpu_is_accepted(accepted: dict[str, Any]) -> None:
    assert accepted["provider"] == "cpu"
    assert list(accepted["steps"]) == STEPS
    names = ["provider_ran", "golden_twice_equal", "controls_masked", "fast_equals_slow", "neurons_fast_equals_slow"]
    assert accepted["checks"] == dict.fromkeys(names, True)
    assert accepted["machine"].keys() == {"gpu", "processor", "cores", "versions", "cuda_packages"}
    assert accepted["machine"]["versions"].keys() == {"python", "onnxruntime", "onnx", "numpy"}


def test_every_step_says_what_it_found(accepted: dict[str, Any]) -> None:
    steps = accepted["steps"]
    assert all(step.keys() >= {"seconds", "budget", "failure", "gpu"} for step in steps.values())
    assert steps["provider"]["loaded"] == ["CPUExecutionProvider"]
    assert steps["golden"]["accuracy"] == pytest.approx(0.9889, abs=1e-4)
    assert steps["fast"]["inferences"] == steps["slow"]["inferences"] == 40 * 360
    assert "packed" in steps["fast"]["paths_by_lane"]
    assert steps["slow"]["compared"] == 40
    assert steps["slow"]["inferences_compared"] == 40 * 360
    assert steps["neurons"]["compared"] == 60
    assert "neuron" in steps["neurons"]["fast"]["paths_by_lane"]
    assert steps["tf32"]["on_against_off"]["largest_difference"] == 0
    assert steps["whole_list"]["share_of_list_done"] == pytest.approx(0.02)
    assert steps["whole_list"]["whole_list_seconds"] == pytest.approx(50 * steps["whole_list"]["seconds"])


def test_what_differs_is_not_accepted(accepted: dict[str, Any]) -> None:
    changes: dict[str, Any] = {
        "provider_ran": ("provider", {"nodes": {"CUDAExecutionProvider": 8}}),
        "golden_twice_equal": ("golden", {"rows_with_other_bits": 1}),
        "controls_masked": ("fast", {"controls": {"run": 2, "masked": 1, "lanes_given_up": 0}}),
        "fast_equals_slow": ("slow", {"different": 1}),
        "neurons_fast_equals_slow": ("neurons", {"compared": 0}),
    }
    for name, (step, change) in changes.items():
        steps = {**accepted["steps"], step: {**accepted["steps"][step], **change}}
        assert checks({**accepted, "steps": steps}) == {**accepted["checks"], name: False}


def test_a_failed_step_is_told_and_not_accepted(accepted: dict[str, Any]) -> None:
    failed = {"seconds": 1.0, "budget": 1, "failure": "\x1b[1;31mout of\nmemory\x1b[m", "gpu": None}
    report = {**accepted, "steps": {**accepted["steps"], "slow": failed}}
    assert checks(report) == {**accepted["checks"], "controls_masked": False, "fast_equals_slow": False}
    assert "| slow | 1.0 | out of memory |" in table(report)


def test_runs_are_compared_where_both_have_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "BATCHES_PER_CHUNK", 1)
    machine = Machine("cpu", 0, Sizes(faults=5, inputs=128, neurons=0, list_share=0, list_inputs=0), tmp_path)
    machine.run_fast(DIGITS, 60)
    machine.run_slow(DIGITS, 60)
    alike = {"compared": 5, "inferences_compared": 5 * 128, "different": 0, "examples": []}
    assert machine.compare("digits_cnn_incremental", "digits_cnn_reference") == alike
    with closing(sqlite3.connect(tmp_path / "digits_cnn_reference/campaign.sqlite")) as db, db:
        db.execute("DELETE FROM outcome WHERE position = 1")
        db.execute("DELETE FROM outcome WHERE position = 2 AND first = 0")
        db.execute("UPDATE outcome SET masked = masked + 1 WHERE position = 3 AND first = 32")
    found = machine.compare("digits_cnn_incremental", "digits_cnn_reference")
    assert (found["compared"], found["inferences_compared"], found["different"]) == (4, 4 * 128 - 32, 1)


def answer() -> dict[str, Any]:
    return {"answer": 1}


def crash() -> dict[str, Any]:
    os._exit(3)


def sleep() -> dict[str, Any]:
    time.sleep(60)
    return {}


def fail() -> dict[str, Any]:
    raise ValueError("no such thing")


def test_steps_fail_alone() -> None:
    assert run_step(Step("", 60, answer))["answer"] == 1
    assert run_step(Step("", 60, fail))["failure"] == "ValueError: no such thing"
    assert "without an answer" in run_step(Step("", 60, crash))["failure"]
    assert run_step(Step("", 0.2, sleep))["failure"] == "not done after 0.2 s"


def test_samples_of_the_gpu() -> None:
    assert parse_samples("37, 1024\n100, 2048\n[N/A], 12\n5") == [(37, 1024), (100, 2048)]
