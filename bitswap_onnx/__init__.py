"""Bit-exact fault injection into ONNX models.

`run_campaign(model, faults, data)` and its siblings take paths and live objects: torch modules, Keras models, arrays.
The pieces below, in the order data flows: `export_torch`, `export_keras` and `load_model`, `read_fault_list`, `resolve`
(faults → receipts), `rewrite` (model in, faulty model out), `prepare` (model and data, ready to run). Names are loaded when
they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitswap_onnx.campaign.options import RunOptions
    from bitswap_onnx.campaign.run import Campaign, run_campaign
    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.campaign.setup import prepare
    from bitswap_onnx.converters.keras_to_onnx import export_keras
    from bitswap_onnx.converters.torch_to_onnx import export_torch
    from bitswap_onnx.data.dataset import Dataset, load_dataset
    from bitswap_onnx.data.preprocessing import Preprocessing
    from bitswap_onnx.errors import (
        BitswapError,
        ControlFailedError,
        DataError,
        FaultListError,
        InterruptedRunError,
        MissingExtraError,
        ModelError,
        RunError,
    )
    from bitswap_onnx.estimates.question import Question
    from bitswap_onnx.estimates.rates import estimate_rates
    from bitswap_onnx.experiments.comparison.compare_runs import Judgement
    from bitswap_onnx.experiments.comparison.convert import convert
    from bitswap_onnx.experiments.comparison.run import compare
    from bitswap_onnx.experiments.crosscheck.run import crosscheck
    from bitswap_onnx.experiments.neurons.run import run_neurons
    from bitswap_onnx.experiments.ranking.run import evaluate_robustness
    from bitswap_onnx.experiments.sweep.run import sweep_errors
    from bitswap_onnx.faults.fault import Fault, Injection, Kind, Site
    from bitswap_onnx.faults.fault_list import FaultList, read_fault_list, write_fault_list
    from bitswap_onnx.graph.model import Model, load_model, save_model
    from bitswap_onnx.graph.receipts import NeuronReceipt, Receipt, ResolvedInjection
    from bitswap_onnx.graph.resolve import apply, resolve
    from bitswap_onnx.graph.targets import Target, find_targets
    from bitswap_onnx.graph.weights import rewrite
    from bitswap_onnx.sampling.design import read_design
    from bitswap_onnx.sampling.generate import generate_faults
    from bitswap_onnx.sampling.request import SamplingRequest
    from bitswap_onnx.until.drawn_list import Until
    from bitswap_onnx.until.goal import Goal, parse_goal
    from bitswap_onnx.until.run import run_until

_HOMES = {
    "campaign.run": ("Campaign", "run_campaign"),
    "campaign.options": ("RunOptions",),
    "campaign.settings": ("Settings",),
    "campaign.setup": ("prepare",),
    "converters.keras_to_onnx": ("export_keras",),
    "converters.torch_to_onnx": ("export_torch",),
    "data.dataset": ("Dataset", "load_dataset"),
    "data.preprocessing": ("Preprocessing",),
    "errors": (
        "BitswapError",
        "ControlFailedError",
        "DataError",
        "FaultListError",
        "InterruptedRunError",
        "MissingExtraError",
        "ModelError",
        "RunError",
    ),
    "estimates.question": ("Question",),
    "estimates.rates": ("estimate_rates",),
    "experiments.comparison.compare_runs": ("Judgement",),
    "experiments.comparison.convert": ("convert",),
    "experiments.comparison.run": ("compare",),
    "experiments.crosscheck.run": ("crosscheck",),
    "experiments.neurons.run": ("run_neurons",),
    "experiments.ranking.run": ("evaluate_robustness",),
    "experiments.sweep.run": ("sweep_errors",),
    "faults.fault": ("Fault", "Injection", "Kind", "Site"),
    "faults.fault_list": ("FaultList", "read_fault_list", "write_fault_list"),
    "graph.model": ("Model", "load_model", "save_model"),
    "graph.receipts": ("NeuronReceipt", "Receipt", "ResolvedInjection"),
    "graph.resolve": ("apply", "resolve"),
    "graph.targets": ("Target", "find_targets"),
    "graph.weights": ("rewrite",),
    "sampling.design": ("read_design",),
    "sampling.generate": ("generate_faults",),
    "sampling.request": ("SamplingRequest",),
    "until.drawn_list": ("Until",),
    "until.goal": ("Goal", "parse_goal"),
    "until.run": ("run_until",),
}
_HOME = {name: f"bitswap_onnx.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "BitswapError",
    "Campaign",
    "ControlFailedError",
    "DataError",
    "Dataset",
    "Fault",
    "FaultList",
    "FaultListError",
    "Goal",
    "Injection",
    "InterruptedRunError",
    "Judgement",
    "Kind",
    "MissingExtraError",
    "Model",
    "ModelError",
    "NeuronReceipt",
    "Preprocessing",
    "Question",
    "Receipt",
    "ResolvedInjection",
    "RunError",
    "RunOptions",
    "SamplingRequest",
    "Settings",
    "Site",
    "Target",
    "Until",
    "apply",
    "compare",
    "convert",
    "crosscheck",
    "estimate_rates",
    "evaluate_robustness",
    "export_keras",
    "export_torch",
    "find_targets",
    "generate_faults",
    "load_dataset",
    "load_model",
    "parse_goal",
    "prepare",
    "read_design",
    "read_fault_list",
    "resolve",
    "rewrite",
    "run_campaign",
    "run_neurons",
    "run_until",
    "save_model",
    "sweep_errors",
    "write_fault_list",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'bitswap_onnx' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
