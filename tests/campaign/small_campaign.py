"""A campaign of a small network: its faults, and how tests run it."""

import csv
from pathlib import Path
from typing import Any

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import Campaign, run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault import Fault, Injection, Kind

INPUTS, BATCH = 20, 8


def faults() -> list[Injection]:
    """Single flips of all bits, and one injection of every other kind."""
    flips = [Injection(f"flip{bit}", (Fault("conv", (bit % 3, 0, bit % 2, 1), bit),)) for bit in range(32)]
    return [
        *flips,
        Injection("variance", (Fault("bn", (1,), 31, parameter="bn_var"),)),
        Injection("bias", (Fault("fc", (2,), 30, parameter="bias"),)),
        Injection("nan", (Fault("fc", (2, 7), None, Kind.SET, "nan"),)),
        Injection("mask", (Fault("fc", (0, 0), None, Kind.MASK, "0x40000001"),)),
        Injection("several", (Fault("conv", (0, 0, 0, 0), 29), Fault("fc", (3,), 5, parameter="bias"))),
        Injection("stuck", (Fault("conv", (0, 0, 0, 0), 30, Kind.STUCK_AT_1),)),
        Injection("satisfied", (Fault("conv", (0, 0, 0, 0), 30, Kind.STUCK_AT_0),)),
    ]


def run(model: Path, run_dir: Path, injections: Any = None, **options: Any) -> Campaign:
    setup = prepare(model, options.pop("settings", Settings(batch_size=BATCH)))
    return run_campaign(setup, injections or faults(), options=RunOptions(**{"run": run_dir, "workers": 1, **options}))


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "results.csv").open() as file:
        return list(csv.DictReader(file))
