"""``inject``: the campaign."""

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from bitswap_onnx.campaign import run_campaign
from bitswap_onnx.cli import console
from bitswap_onnx.cli.options import BitOrder, Faults, Model, with_shared
from bitswap_onnx.execute import Running
from bitswap_onnx.prepare import Settings


@with_shared
def command(
    model: Model,
    faults: Faults,
    settings: Settings,
    running: Running,
    bit_order: BitOrder = "lsb",
    save_outputs: Annotated[bool, typer.Option("--save-outputs", help="Keep all scores as .npy files.")] = False,
    per_input: Annotated[bool, typer.Option("--per-input", help="Keep every input's outcome (parquet).")] = False,
) -> None:
    """Run every injection of a fault list over a dataset and write a run directory."""
    with watched(running) as watching:
        campaign = run_campaign(
            model,
            faults,
            settings=settings,
            bit_order=bit_order,
            save_outputs=save_outputs,
            per_input=per_input,
            **watching,
        )
    console.print_campaign(campaign)


@contextmanager
def watched(running: Running) -> Iterator[Running]:
    """Give how a campaign is to run with all that a person sees of it: progress and notes, and Ctrl-C ends it well."""
    with console.progress() as on_progress:
        yield running | Running(on_progress=on_progress, on_notes=print_notes, stop=stop_on_signal())


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
