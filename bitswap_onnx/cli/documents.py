"""The JSON documents of commands that write files: their keys are those of these files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitswap_onnx.campaign.run import Campaign
    from bitswap_onnx.experiments.neurons.results import NeuronCampaign
    from bitswap_onnx.experiments.sweep.results import Sweep
    from bitswap_onnx.until.run import Reached


def campaign_document(campaign: "Campaign", reached: "Reached | None") -> dict[str, Any]:
    """Return a campaign: ``golden`` as golden.json has it, counts as results.csv names them, ``until`` as until.csv."""
    summary = campaign.summary
    worst = ("injection", "layer", "fault", "critical", "inputs")
    return {
        "golden": json.loads((campaign.run / "golden.json").read_text(encoding="utf-8")),
        "injections": summary.injections,
        "totals": summary.totals,
        "bit_classes": [
            {"bit_class": name, "injections": number, **counts} for name, number, counts in summary.bit_classes
        ],
        "worst": [dict(zip(worst, row, strict=True)) for row in summary.worst],
        "until": None if reached is None else [estimate._asdict() for estimate in reached.interim_estimates],
    }


def neuron_document(campaign: "NeuronCampaign", files: Sequence[Path]) -> dict[str, Any]:
    """Return the rows of the CSV file of ``neurons``."""
    from bitswap_onnx.experiments.neurons.report import neuron_rows

    about = ("network", "dataset", "seed", "inputs", "trials", "bit", "bit_order", "correct")
    return {
        **{name: getattr(campaign, name) for name in about},
        "layers": list(neuron_rows(campaign)),
        "files": [str(path) for path in files],
    }


def sweep_document(sweep: "Sweep", files: Sequence[Path]) -> dict[str, Any]:
    """Return the rows of the CSV file of ``sweep``; rate 0 is the golden run."""
    from bitswap_onnx.experiments.sweep.report import rate_rows

    return {
        **{name: getattr(sweep, name) for name in ("network", "dataset", "bits", "inputs")},
        "rates": list(rate_rows(sweep)),
        "files": [str(path) for path in files],
    }


def document_of(written: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Return the JSON file that a command has written, with the paths of all its ``files``."""
    document: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    return {**document, "files": [str(path) for path in files]}
