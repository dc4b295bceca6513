"""``inject``: the campaign."""

import os
import signal
import sys
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Annotated

import typer

from bitswap_onnx.audit import parse_audit
from bitswap_onnx.campaign import run_campaign
from bitswap_onnx.cli import console
from bitswap_onnx.cli.options import (
    AuditSize,
    BitOrder,
    Engine,
    Faults,
    Memory,
    Model,
    Out,
    Resume,
    Workers,
    parse_size,
    with_settings,
)
from bitswap_onnx.prepare import Settings


@with_settings
def command(
    model: Model,
    faults: Faults,
    settings: Settings,
    out: Out = None,
    resume: Resume = False,
    workers: Workers = None,
    engine: Engine = "auto",
    memory: Memory = None,
    audit: AuditSize = "10",
    bit_order: BitOrder = "lsb",
    save_outputs: Annotated[bool, typer.Option("--save-outputs", help="Keep all scores as .npy files.")] = False,
    per_input: Annotated[bool, typer.Option("--per-input", help="Keep every input's outcome (parquet).")] = False,
) -> None:
    """Run every injection of a fault list over a dataset and write a run directory."""
    with console.progress() as on_progress:
        campaign = run_campaign(
            model,
            faults,
            settings=settings,
            run=out,
            resume=resume,
            workers=workers,
            engine=engine,
            memory=parse_size(memory, "--memory"),
            audit=parse_audit(audit),
            bit_order=bit_order,
            save_outputs=save_outputs,
            per_input=per_input,
            on_progress=on_progress,
            on_notes=print_notes,
            stop=stop_on_signal(),
        )
    console.print_campaign(campaign)


def print_notes(notes: Iterable[str]) -> None:
    """Print notes to stderr."""
    for note in notes:
        sys.stderr.write(f"{note}\n")


def stop_on_signal() -> threading.Event:
    """Return an event that the first Ctrl-C or SIGTERM sets; a second one ends the process at once."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            if sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h")  # the progress bar had hidden the cursor
                sys.stderr.flush()
            os._exit(130)
        stop.set()
        sys.stderr.write("\nstopping after the units at hand; once more to stop at once\n")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return stop
