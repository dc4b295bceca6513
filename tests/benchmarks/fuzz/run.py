"""One network of a seed: drawn, checked, and kept where something was found."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.benchmarks.fuzz.builder import Array
from tests.benchmarks.fuzz.check import Check
from tests.benchmarks.fuzz.faults import draw_faults
from tests.benchmarks.fuzz.networks import Network, make_network
from tests.benchmarks.fuzz.oracle import PLAIN, open_session
from tests.benchmarks.fuzz.outcome import Outcome


@dataclass(frozen=True)
class Options:
    """What is run: ``count`` injections per network; every ``reference_every``-th one on the reference engine too."""

    seed: int
    count: int = 50
    mixing: bool = True
    reference_every: int = 4
    keep: Path | None = None


def check_network(number: int, options: Options, folder: Path) -> Outcome:
    """Check one network; what differs is kept where the options say."""
    network = make_network(options.seed, number, options.mixing)
    outcome = Outcome()
    outcome.count("network", "drawn")
    if not usable(network):
        outcome.count("network", "not usable")
        return outcome
    injections = draw_faults(network, options.seed, options.count)
    reference = number % options.reference_every == 0
    check = Check(options.seed, network, folder, injections, reference, outcome)
    outcome.count("network", "run")
    check.run()
    if outcome.findings and options.keep:
        kept = options.keep / f"seed{options.seed}_network{number}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept)
        (kept / "findings.txt").write_text("\n".join(map(str, outcome.findings)) + "\n")
        (kept / "settings.json").write_text(json.dumps(_settings(network)) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _settings(network: Network) -> dict[str, Any]:
    names = ("batch_size", "layout", "fusion", "memory", "mixing")
    return {name: getattr(network, name) for name in names}


def usable(network: Network) -> bool:
    """Whether a network has parameters, runs, and has finite clean scores; raises what the checker says."""
    onnx.checker.check_model(network.model, full_check=True)
    if not network.parameters:
        return False
    try:
        session = open_session(network.model, PLAIN)
        scores = [session.run(None, {"x": rows})[0] for rows in _batches(network)]
    except Exception:  # the runtime lacks kernels for some types
        return False
    return bool(np.isfinite(np.concatenate(scores)).all())


def _batches(network: Network) -> list[Array]:
    size = network.batch_size
    count = max(len(network.inputs) // size, 1)
    return [np.resize(network.inputs[i * size :], (size, *network.inputs.shape[1:])) for i in range(count)]
