"""``inject``: the campaign."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from bitswap_onnx.campaign.options import RunOptions, starting_workers
from bitswap_onnx.cli import console, summary
from bitswap_onnx.cli.documents import campaign_document
from bitswap_onnx.cli.option_groups import data_option, output_option
from bitswap_onnx.cli.option_types import BitOrderOption, FaultsIfAny, ModelPath
from bitswap_onnx.cli.options import with_shared
from bitswap_onnx.cli.view import View
from bitswap_onnx.errors import BitswapError, amount
from bitswap_onnx.sampling.input_blocks import parse_per_injection

if TYPE_CHECKING:
    from bitswap_onnx.campaign.records import InterimEstimate
    from bitswap_onnx.campaign.run import Campaign
    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.until.drawn_list import Until
    from bitswap_onnx.until.run import Reached


@with_shared
def command(
    model: ModelPath,
    settings: "Settings",
    options: RunOptions,
    until: "Until | None",
    view: View,
    faults: FaultsIfAny = None,
    bit_order: BitOrderOption = "lsb",
    save_outputs: Annotated[
        bool, output_option("--save-outputs", help="Keep the scores of every inference as .npy files.")
    ] = False,
    per_input: Annotated[
        bool, output_option("--per-input", help="Keep the outcome of every inference in per_input.parquet.")
    ] = False,
    inputs_per_injection: Annotated[
        str | None,
        data_option(
            metavar="auto|N",
            help="Run each injection over N inputs of its own, drawn with --seed, in whole batches; auto: one batch, since "
            "another fault tells more than more inputs of the same fault. Default: all inputs.",
        ),
    ] = None,
) -> None:
    """Run every injection of a fault list, or draw faults until a share is known (--until); write a run directory."""
    if faults is None and until is None:
        raise typer.BadParameter("expected a fault list (FAULTS), or a goal like --until 'critical±0.1%@99%'")
    if faults is not None and until is not None:
        raise typer.BadParameter(f"--until draws its own faults: leave out {faults}, or --until to run that list")
    if until is not None and bit_order != "lsb":
        raise BitswapError(
            "--bit-order msb: expected lsb with --until, which reads no list; --bits counts from the least significant"
        )
    reached = None
    options = replace(
        options,
        bit_order=bit_order,
        inputs_per_injection=parse_per_injection(inputs_per_injection),
        save_outputs=save_outputs,
        per_input=per_input,
    )
    with starting_workers(options, settings.provider) as ready, watched(ready, view) as watched_options:
        if until is not None:
            from bitswap_onnx.until.run import run_until  # while the workers load

            reached = run_until(
                model,
                until,
                settings=settings,
                options=watched_options,
                on_interim_estimate=partial(print_interim_estimate, view),
            )
            campaign = reached.campaign
        else:
            from bitswap_onnx.campaign.run import run_campaign  # while the workers load

            campaign = run_campaign(model, faults, settings=settings, options=watched_options)
    view.print(campaign.run, partial(campaign_document, campaign, reached), partial(_print, campaign, reached))


def _print(campaign: "Campaign", reached: "Reached | None") -> None:
    if reached:
        print_reached(reached)
    summary.print_totals(campaign)
    summary.print_campaign(campaign, _sample_title(reached) if reached else summary.OUTCOMES)


def _sample_title(reached: "Reached") -> str:
    """Return the title of the outcomes of faults that were drawn."""
    if reached.is_census:
        return summary.OUTCOMES
    odds = "; strata drawn more often than others weigh more here than in the estimate above"
    return f"The sample: {summary.OUTCOMES.lower()}" + odds * (reached.until.scheme == "stratified")


def print_interim_estimate(view: View, estimate: "InterimEstimate") -> None:
    """Print the estimate after a round to stderr."""
    view.print_notes_aside([f"round {estimate.round}: {_share(estimate)}, from {_size(estimate)}"])


def print_reached(reached: "Reached") -> None:
    """Print the final estimate, from how many faults it is, and how far it can be trusted."""
    from bitswap_onnx.campaign.adaptive_list import INTERIM_ESTIMATES_NAME

    last, goal = reached.interim_estimates[-1], reached.until.goal
    level = f"{100 * goal.level:g} %"
    validity = f"{level} confidence, valid after every round"
    if reached.is_census:
        validity = "every fault has run"
    elif reached.until.scheme == "iterative":
        validity = f"Wald's {level} interval, too narrow where it is checked after every round"
    quantity = goal.quantity.replace("_", "-")
    console.out.print(
        f"{quantity}: {_share(last)}, over all faults that could be drawn; from {_size(last)}; {validity}"
    )
    if reached.until.scheme == "stratified":
        planned = amount(last.iterative, "fault", ",")
        console.out.print(f"for this margin and this share, the iterative method plans {planned}")
    console.out.print(f"estimate after each round: {reached.campaign.run / INTERIM_ESTIMATES_NAME}")


def _share(estimate: "InterimEstimate") -> str:
    low, mean, high = (f"{100 * share:.4g}" for share in (estimate.low, estimate.mean, estimate.high))
    return f"{mean} % of inferences, between {low} and {high} % (half width {100 * estimate.half_width:.3g})"


def _size(estimate: "InterimEstimate") -> str:
    return f"{amount(estimate.injections, 'injection', ',')}, {amount(estimate.inferences, 'inference', ',')}"


@contextmanager
def watched(options: RunOptions, view: View) -> Iterator[RunOptions]:
    """Give the options of a run with progress and notes on the terminal, and a stop on Ctrl-C that loses nothing."""
    with view.progress() as on_progress:
        yield replace(options, on_progress=on_progress, on_notes=view.print_notes_aside, stop=stop_on_signal())


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
        sys.stderr.write("\nstopping after the current units of work; press Ctrl-C again to stop at once\n")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return stop
