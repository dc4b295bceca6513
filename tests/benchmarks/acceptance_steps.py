"""The steps of `tests.benchmarks.cuda_acceptance`.

Each returns plain data. What later steps read, runs and scores, stays in a folder.
"""

import json
import math
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.options import DEFAULT_AUDIT, Audit, RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings, for_neurons
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.errors import InterruptedRunError
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.sites import find_sites
from bitswap_onnx.outcome import COUNTS
from tests.benchmarks.plain_scores import PROVIDERS
from tests.benchmarks.subjects import PRESET, draw, draw_neurons
from tests.benchmarks.timed_steps import Found
from tests.campaigns import rows_of_store

SEED = 2026
NEURON_INPUTS = 128
#: So few that each has enough faults for a faster lane than the whole model.
NEURON_SITES = 4
DIGITS_FAULTS = 100

REPO = Path(__file__).parents[2]

Array = NDArray[Any]


@dataclass(frozen=True)
class Packed:
    """A model with its images beside it, as an ``.npz``, and its fault list."""

    name: str
    model: Path
    faults: Path
    preprocessing: Preprocessing = Preprocessing()

    def within(self, folder: Path) -> "Packed":
        return replace(self, model=folder / self.model, faults=folder / self.faults)

    def write_inputs(self, count: int, path: Path) -> None:
        """Write ``count`` images, repeated in their order as often as it takes."""
        with np.load(self.model.with_suffix(".npz")) as data:
            np.savez(path, **{name: array[np.arange(count) % len(array)] for name, array in data.items()})


RESNET20 = Packed("ResNet20", Path("ResNet20.onnx"), Path("ResNet20.csv"), Preprocessing(preset=PRESET))
DIGITS = Packed("digits_cnn", Path("models/digits_cnn.onnx"), Path("fault_lists/digits_cnn.csv")).within(REPO)


@dataclass(frozen=True)
class Sizes:
    """``list_share``: the part of the whole list that runs over ``list_inputs``."""

    faults: int
    inputs: int
    neurons: int
    list_share: float
    list_inputs: int


@dataclass(frozen=True)
class Machine:
    """Where campaigns run, how large they are, and the folder ``work`` for what they leave."""

    provider: Literal["cuda", "cpu"]
    workers: int | None
    sizes: Sizes
    work: Path

    def settings(self, packed: Packed, inputs: int | None = None) -> Settings:
        return Settings(preprocessing=packed.preprocessing, provider=self.provider, first=inputs)

    def run_plainly(self, packed: Packed) -> Found:
        """Run the clean model in a plain session with TF32 off: where do its nodes run?"""
        dataset = prepare(packed.model, replace(self.settings(packed), provider="cpu")).dataset
        np.save(self.work / "inputs.npy", dataset.batch(0, len(dataset)))
        return self._plain_scores(packed, "0")

    def _plain_scores(self, packed: Packed, tf32: str) -> Found:
        paths = [str(path) for path in (packed.model, self.work / "inputs.npy", self._scores_path(tf32))]
        command = [sys.executable, "-m", "tests.benchmarks.plain_scores", *paths]
        command += ["--provider", self.provider, "--tf32", tf32]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPO)
        found: Found = json.loads(done.stdout) if done.returncode == 0 else {}
        if PROVIDERS[self.provider] not in found.get("loaded", ()):
            raise RuntimeError(f"no session on {PROVIDERS[self.provider]}: {done.stderr[-2000:]}")
        return found

    def _scores_path(self, tf32: str) -> Path:
        return self.work / f"scores_tf32_{tf32}.npy"

    def run_golden_twice(self, packed: Packed) -> Found:
        """Run the clean model over all images, prepared anew the second time."""
        runs = [prepare(packed.model, self.settings(packed)).clean_run() for _ in range(2)]
        one, other = (run.golden.scores for run in runs)
        np.save(self.work / "golden.npy", one)
        labels = runs[0].golden.labels
        return {
            "inputs": len(one),
            "loaded": runs[0].providers,
            "rows_with_other_bits": differing_rows(one, other),
            "accuracy": None if labels is None else float(np.mean(one.argmax(axis=1) == labels)),
            "ms_per_input": [1e3 * run.seconds_per_input for run in runs],
        }

    def compare_tf32(self, packed: Packed) -> Found:
        """Run the clean model in a plain session with TF32 on: how far are its scores from those without?"""
        self._plain_scores(packed, "1")
        on, off = (np.load(self._scores_path(tf32)) for tf32 in "10")
        golden = np.load(self.work / "golden.npy")
        return {"on_against_off": distance(on, off), "off_against_golden": distance(off, golden)}

    def run_fast(self, packed: Packed, seconds: float) -> Found:
        return self.run_weights(packed, "incremental", self.sizes.faults, seconds)

    def run_slow(self, packed: Packed, seconds: float) -> Found:
        """Run the same faults as `run_fast` as whole models."""
        found = self.run_weights(packed, "reference", self.sizes.faults, seconds)
        return {**found, **self.compare(f"{packed.name}_incremental", f"{packed.name}_reference")}

    def run_both(self, packed: Packed, seconds: float) -> Found:
        """Run a small network by both engines, ``seconds`` each."""
        count = min(DIGITS_FAULTS, self.sizes.faults)
        fast = self.run_weights(packed, "incremental", count, seconds)
        slow = self.run_weights(packed, "reference", count, seconds)
        return {"fast": fast, "slow": slow, **self.compare(f"{packed.name}_incremental", f"{packed.name}_reference")}

    def run_weights(
        self, packed: Packed, engine: Literal["incremental", "reference"], count: int, seconds: float
    ) -> Found:
        settings = self.settings(packed, self.sizes.inputs)
        faults = draw(packed.faults, count, SEED)
        return self.run(packed.model, faults, settings, f"{packed.name}_{engine}", engine, seconds)

    def run_neurons(self, packed: Packed, seconds: float) -> Found:
        """Run neuron faults by both engines, ``seconds`` each."""
        settings = for_neurons(self.settings(packed, min(self.sizes.inputs, NEURON_INPUTS)))
        setup = prepare(packed.model, settings)
        sites = random.Random(SEED).sample(find_sites(setup.slicer), NEURON_SITES)
        faults = draw_neurons(sites, self.sizes.neurons, len(setup.dataset), SEED, all_of=2)
        fast = self.run(packed.model, faults, settings, "neurons_fast", "incremental", seconds)
        slow = self.run(packed.model, faults, settings, "neurons_slow", "reference", seconds)
        return {"fast": fast, "slow": slow, **self.compare("neurons_fast", "neurons_slow")}

    def run_part_of_list(self, packed: Packed, seconds: float) -> Found:
        """Run a share of the whole list over many inputs with the default options, and extrapolate its time."""
        images = self.work / "images.npz"
        packed.write_inputs(self.sizes.list_inputs, images)
        listed = list(read_fault_list(packed.faults))
        faults = draw(listed, max(1, round(self.sizes.list_share * len(listed))), SEED)
        settings = replace(self.settings(packed), data=images)
        found = self.run(packed.model, faults, settings, "whole_list", "auto", seconds, DEFAULT_AUDIT)
        share = found["inferences"] / (len(listed) * self.sizes.list_inputs)
        whole = {"list": len(listed), "share_of_list_done": share, "whole_list_seconds": found["seconds"] / share}
        return {**found, **whole}

    def run(
        self,
        model: Path,
        faults: Sequence[Injection],
        settings: Settings,
        name: str,
        engine: Literal["auto", "incremental", "reference"],
        seconds: float,
        audit: Audit = Audit(0),  # noqa: B008
    ) -> Found:
        """Run a campaign, and stop it after ``seconds``; what it has finished is kept."""
        run, stop = self.work / name, threading.Event()
        timer = threading.Timer(seconds, stop.set)
        timer.daemon = True
        options = RunOptions(run=run, engine=engine, workers=self.workers, audit=audit, stop=stop)
        start = time.perf_counter()
        timer.start()
        try:
            run_campaign(prepare(model, settings), faults, options=options)
            finished = True
        except InterruptedRunError:
            finished = False
        finally:
            timer.cancel()
        return {"faults": len(faults), "finished": finished, **left_behind(run, time.perf_counter() - start)}

    def compare(self, fast: str, slow: str) -> Found:
        """Compare two runs of the same faults on the inputs that both have finished."""
        runs = self.work / fast, self.work / slow
        length = math.lcm(*(unit_length(run) for run in runs))
        one, other = (counts_by_block(run, length) for run in runs)
        both = {key for key in one.keys() & other.keys() if one[key][0] == other[key][0]}
        different = sorted(
            {identifier for identifier, block in both if one[identifier, block] != other[identifier, block]}
        )
        return {
            "compared": len({identifier for identifier, _ in both}),
            "inferences_compared": sum(one[key][0] for key in both),
            "different": len(different),
            "examples": different[:5],
        }


def left_behind(run: Path, seconds: float) -> Found:
    """Return what a run's store says: inferences, null controls, lanes that failed one, and faulty paths by lane."""
    ((inferences,),) = rows_of_store(run, "SELECT coalesce(sum(inputs), 0) FROM outcome")
    ((controls, masked),) = rows_of_store(run, "SELECT count(*), coalesce(sum(masked = inputs), 0) FROM control")
    given_up = rows_of_store(run, "SELECT value FROM setting WHERE key = 'given_up'")
    lanes = rows_of_store(run, "SELECT lane, count(DISTINCT path) FROM control GROUP BY lane")
    return {
        "seconds": seconds,
        "inferences": inferences,
        "inferences_per_second": inferences / seconds,
        "controls": {
            "run": controls,
            "masked": masked,
            "lanes_given_up": len(json.loads(given_up[0][0])) if given_up else 0,
        },
        "paths_by_lane": dict(lanes),
    }


def unit_length(run: Path) -> int:
    """Return how many inputs a run finishes at a time."""
    ((length,),) = rows_of_store(run, "SELECT value FROM setting WHERE key = 'unit_length'")
    return int(json.loads(length))


def counts_by_block(run: Path, length: int) -> dict[tuple[str, int], tuple[int, ...]]:
    """Return the inputs and the counts of each injection on each block of ``length`` inputs."""
    sums = ", ".join(f"sum(outcome.{name})" for name in ("inputs", *COUNTS))
    query = f"""SELECT injection.id, outcome.first / ?, {sums} FROM outcome JOIN injection USING (position)
        GROUP BY position, outcome.first / ?"""
    return {(row[0], row[1]): row[2:] for row in rows_of_store(run, query, (length, length))}


def differing_rows(one: Array, other: Array) -> int:
    """In how many rows two arrays of scores differ in a bit."""
    return int((one.view(np.uint32) != other.view(np.uint32)).any(axis=1).sum())


def distance(one: Array, other: Array) -> Found:
    """Return how far two runs' scores are apart."""
    return {
        "rows_with_other_bits": differing_rows(one, other),
        "largest_difference": float(np.abs(one - other).max()),
        "predictions_differ": int((one.argmax(axis=1) != other.argmax(axis=1)).sum()),
        "inputs": len(one),
    }
