"""Nothing lost: a campaign killed at any instant resumes and ends with the same rows as one never killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault_list import read_fault_list, write_fault_list

REPO = Path(__file__).parents[2]
MODEL = REPO / "models" / "digits_cnn.onnx"
FAULTS = REPO / "fault_lists" / "digits_cnn.csv"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "bitswap_onnx", *map(str, arguments)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run_campaign(prepare(MODEL), FAULTS, options=RunOptions(run=folder, workers=2))
    return (folder / "results.csv").read_bytes()


def stored_outcomes(run: Path) -> int:
    from bitswap_onnx.campaign.run_directory import has_store, reading

    if not run.is_dir() or not has_store(run):
        return 0
    with reading(run) as store:
        return store.outcomes


@POSIX
@pytest.mark.slow
def test_twenty_kills_at_random_instants(tmp_path: Path, undisturbed: bytes) -> None:
    """SIGKILL, twenty times in a row, by the clock and by progress in turn; afterwards one run to the end."""
    run = tmp_path / "run"
    run.mkdir()  # without it the first resume stops: there is nothing to resume
    inject = command("inject", MODEL, FAULTS, "--out", run, "--resume", "--workers", 2)
    rng = random.Random(20)
    kept = [0]
    for number in range(20):
        process = subprocess.Popen(inject, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if number % 2:
            time.sleep(rng.uniform(0.0, 1.2))
        else:
            goal = kept[-1] + rng.randint(1, 25)
            while process.poll() is None and stored_outcomes(run) < goal:
                time.sleep(0.01)
        process.kill()
        process.wait()
        kept.append(stored_outcomes(run))
    assert kept == sorted(kept), "finished work was lost"
    assert any(0 < count < 500 for count in kept), "no kill fell into the middle of the campaign"
    subprocess.run(inject, check=True, capture_output=True)
    assert (run / "results.csv").read_bytes() == undisturbed
    assert not (run / "campaign.scratch").exists()


@pytest.mark.slow
def test_a_kill_at_every_point_between_two_writes(tmp_path: Path) -> None:
    """The folder made, the store empty, each commit, finished but no CSV: one process for each of them."""
    injections = list(read_fault_list(FAULTS))
    faults = tmp_path / "faults.csv"
    write_fault_list(faults, [injections[0], injections[1], injections[17]])
    arguments = [str(REPO / "tests" / "kill_at.py"), str(MODEL), str(faults), str(tmp_path / "run"), "every"]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    settings = Settings(first=8, batch_size=8)
    points = max(int(run.name.removeprefix("run")) for run in tmp_path.glob("run*"))
    assert points > 15
    runs = [tmp_path / f"run{point}" for point in range(1, points + 1)]
    for run in runs:
        run_campaign(prepare(MODEL, settings), faults, options=RunOptions(run=run, resume=True, workers=0))
    assert len({(run / "results.csv").read_bytes() for run in runs}) == 1


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path, undisturbed: bytes, number: signal.Signals) -> None:
    """The signal goes to the whole process group, as a terminal's does; the workers must not die of it."""
    run = tmp_path / "run"
    inject = command("inject", MODEL, FAULTS, "--out", run, "--workers", 2)
    process = subprocess.Popen(
        inject, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while stored_outcomes(run) < 5:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert f"error: stopped; everything finished is saved: continue with --resume --out {run}" in errors
    assert "Traceback" not in errors
    saved = stored_outcomes(run)
    assert 5 <= saved < 500
    subprocess.run([*inject, "--resume"], check=True, capture_output=True)
    assert (run / "results.csv").read_bytes() == undisturbed


#: A command line whose libraries are interrupted while they load, and make another error of it, as some do.
INTERRUPTED = """
import os, signal, sys, time

interrupted, sys.argv = sys.argv[1], ["bitswap-onnx", "inspect", "cnn.onnx"]

class Interrupted:
    def find_spec(self, name, path, target=None):
        if name == interrupted:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            except KeyboardInterrupt:
                raise ImportError("initialization failed")

sys.meta_path.insert(0, Interrupted())
from bitswap_onnx.__main__ import main
main()
"""


@POSIX
@pytest.mark.parametrize("module", ["bitswap_onnx.cli.main", "bitswap_onnx.cli.inspect"])
def test_ctrl_c_while_libraries_load_is_quiet(module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, module]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


@POSIX
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("inject", MODEL, FAULTS, "--out", tmp_path / "run", "--workers", 2), stderr=subprocess.DEVNULL
    )
    while stored_outcomes(tmp_path / "run") < 1:
        time.sleep(0.01)
    workers = [int(line) for line in subprocess.check_output(["pgrep", "-P", str(process.pid)]).split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
