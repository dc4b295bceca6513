"""Campaigns that run until a share is known precisely enough."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from bitswap_onnx.campaign.keywords import Keywords, with_keywords
from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.campaign.run import Campaign, prepare_run, run_campaign
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.errors import BitswapError, amount
from bitswap_onnx.estimates.rates import shares_of
from bitswap_onnx.sampling.input_blocks import sample_inputs
from bitswap_onnx.tables import Tabular, percent
from bitswap_onnx.until.drawn_list import DrawnList, Until
from bitswap_onnx.until.goal import Goal

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Reached(Tabular):
    """A finished campaign, its interim estimates (one or more for each round), and whether every fault has run.

    ``frame()`` has a row per interim estimate, as until.csv.
    """

    campaign: Campaign
    until: Until
    interim_estimates: tuple[InterimEstimate, ...]
    is_census: bool

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.campaign.run

    def headline(self) -> str:
        """Return the goal and the last estimate."""
        last, golden = self.interim_estimates[-1], self.campaign.golden
        low, high = percent(last.low), percent(last.high)
        return (
            f"{golden['network']} on {golden['dataset']}: {self.until.goal.quantity} {percent(last.mean)}, "
            f"between {low} and {high}, after {amount(last.injections, 'injection', ',')}; run {self.run}"
        )

    def table_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the interim estimates."""
        yield from (estimate._asdict() for estimate in self.interim_estimates)

    def plot(self) -> "Figure":
        """Return a figure: the estimate and its interval after each round, cut at twice the last upper end.

        Raises MissingExtraError without matplotlib.
        """
        from bitswap_onnx.report.figures import Curve, Panel, draw_figure

        estimates = self.interim_estimates
        low, mean, high = 100 * np.array([(one.low, one.mean, one.high) for one in estimates]).T
        quantity = self.until.goal.quantity.replace("_", " ")
        curve = Curve(quantity, np.array([one.injections for one in estimates]), mean, low, high)
        axes = str(self.until.goal), "injections", f"{quantity}, %"
        shown = min(float(low.min()), 0.0), max(2 * float(high[-1]), float(mean.max()), 1e-9)
        return draw_figure([Panel(*axes, [curve], x_whole=True, y_range=shown)])


def run_until(
    model: object,
    goal: Until | Goal | str,
    data: object = None,
    *,
    on_interim_estimate: Callable[[InterimEstimate], None] | None = None,
    settings: Settings = Settings(),
    options: RunOptions = RunOptions(),
    **keywords: Unpack[Keywords],
) -> Reached:
    """Run faults of ``model``, drawn with the settings' seed, until the goal is reached or all faults have run.

    ``model``, ``data`` and ``keywords`` are as in `run_campaign`. ``goal``: text like ``critical±0.1%@99%``, or an `Until`,
    which also says which faults are drawn. The run directory also gets ``until.csv``, the interim estimate after each
    round; ``on_interim_estimate`` is called with each. With ``resume``, a finished run continues to another margin or
    confidence. Its intervals remain valid. Raises what `bitswap_onnx.campaign.run.run_campaign` raises, and BitswapError
    for a quantity that the model's outcomes do not have.
    """
    until = goal if isinstance(goal, Until) else Until(goal=goal)
    settings, options = with_keywords(data, settings, options, keywords)
    setup = prepare_run(model, settings, options)
    sample = sample_inputs(options.inputs_per_injection, len(setup.dataset), setup.batch_size, setup.seed)
    _check_quantity(setup, until.goal.quantity)
    drawn = DrawnList(setup, until, on_interim_estimate, own_inputs=sample.length is not None)
    campaign = run_campaign(setup, drawn, options=options)
    with reading(campaign.run) as store:
        record = store.drawing
    assert record is not None
    return Reached(campaign, until, record.interim_estimates, drawn.is_census)


def _check_quantity(setup: Setup, quantity: str) -> None:
    one_fault = np.ones(1, np.int64)
    counts = dict.fromkeys(setup.criterion.applying(setup.dataset.labels is not None), one_fault)
    quantities = shares_of(one_fault, counts)
    if quantity not in quantities:
        raise BitswapError(f"`until`: expected one of {', '.join(quantities)}, found {quantity!r}")
