"""``inject``: the campaign."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from bitswap_onnx.campaign.adaptive_list import GROWTH_NAME
from bitswap_onnx.campaign.executor import Running
from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.setup import Settings
from bitswap_onnx.cli import console
from bitswap_onnx.cli.options import BitOrderOption, ModelPath, with_shared
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.sampling.input_blocks import parse_per_injection
from bitswap_onnx.until.run import Reached, Until, run_until


@with_shared
def command(
    model: ModelPath,
    settings: Settings,
    running: Running,
    until: Until | None,
    faults: Annotated[
        Path | None, typer.Argument(metavar="FAULTS", help="A fault list (CSV), or --until.", show_default=False)
    ] = None,
    bit_order: BitOrderOption = "lsb",
    save_outputs: Annotated[bool, typer.Option("--save-outputs", help="Keep all scores as .npy files.")] = False,
    per_input: Annotated[bool, typer.Option("--per-input", help="Keep every input's outcome (parquet).")] = False,
    inputs_per_injection: Annotated[
        str | None,
        typer.Option(
            metavar="auto|N",
            help="Run each injection over a block of N inputs of its own, drawn with --seed, in whole batches; auto: one "
            "batch, since another fault tells more than more inputs of the same one. Default: all inputs.",
        ),
    ] = None,
) -> None:
    """Run every injection of a fault list, or faults drawn until a share is known; write a run directory."""
    if (faults is None) == (until is None):
        raise typer.BadParameter("expected a fault list (FAULTS) or --until 'critical±0.1%@99%', one of them")
    if until is not None and bit_order != "lsb":
        raise BitswapError(
            "--bit-order msb: expected lsb with --until, which has no list; --bits counts from the lowest"
        )
    own, reached = parse_per_injection(inputs_per_injection), None
    with watched(running) as watching:
        if until is not None:
            reached = run_until(
                model,
                until,
                settings=settings,
                inputs_per_injection=own,
                save_outputs=save_outputs,
                per_input=per_input,
                on_look=print_look,
                **watching,
            )
        elif faults is not None:
            campaign = run_campaign(
                model,
                faults,
                settings=settings,
                bit_order=bit_order,
                inputs_per_injection=own,
                save_outputs=save_outputs,
                per_input=per_input,
                **watching,
            )
    console.print_campaign(reached.campaign if reached else campaign)
    if reached:
        print_reached(reached)


def print_look(found: InterimEstimate) -> None:
    """Print to stderr what is known after a round."""
    console.print_notes_aside([f"round {found.round}: {_known(found)}"])


def print_reached(reached: Reached) -> None:
    """Print what is known in the end."""
    last, goal = reached.looks[-1], reached.until.goal
    known = f"{100 * goal.level:g} %, whenever one looks"
    if reached.is_census:
        known = "every fault has run"
    elif reached.until.scheme == "iterative":
        known = f"Wald's {100 * goal.level:g} %, which does not hold when one looks again and again"
    quantity = goal.quantity.replace("_", "-")
    if reached.until.scheme == "stratified":
        console.out.print("shares above are those of the faults drawn, of which some strata have more than their part")
    console.out.print(f"{quantity}, over all faults that could be drawn: {_known(last)}; {known}")
    if reached.until.scheme == "stratified":
        console.out.print(f"the iterative method plans {last.iterative:,} faults for this margin at this share")
    console.out.print(f"rounds: {reached.campaign.run / GROWTH_NAME}")


def _known(found: InterimEstimate) -> str:
    low, mean, high = (f"{100 * share:.4g}" for share in (found.low, found.mean, found.high))
    half = f"{100 * found.half_width:.3g}"
    return (
        f"{mean} %, between {low} and {high} (half width {half}), from {found.injections:,} injections, "
        f"{found.inferences:,} inferences"
    )


@contextmanager
def watched(running: Running) -> Iterator[Running]:
    """Give how a campaign is to run with all that a person sees of it: progress and notes, and Ctrl-C ends it well."""
    with console.progress() as on_progress:
        yield running | Running(on_progress=on_progress, on_notes=console.print_notes_aside, stop=stop_on_signal())


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
