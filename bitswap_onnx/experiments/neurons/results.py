"""Results of a neuron campaign: shares of misclassified, critical and nonfinite inferences per layer.

Shares are of inferences: each input of the dataset once per trial. The input is the sampling unit; its trials, and for
the total its layers, are a cluster. Everything is conditional on the layers. `bitswap_onnx.stats.proportion` gives
intervals.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitswap_onnx.errors import amount
from bitswap_onnx.faults.fault import BitOrder
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.stats.proportion import Proportion
from bitswap_onnx.tables import Tabular, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL_LAYERS = "all layers"


@dataclass(frozen=True, slots=True)
class TargetLayer:
    """A layer whose output is hit: its ``number`` in the selection and the shape of its weight, if it has one."""

    number: int
    site: NeuronSite
    weight_shape: tuple[int, ...] | None

    def injection(self, trial: int) -> str:
        """Return the id of the layer's injection in a trial."""
        return f"L{self.number:02d}_t{trial}"


@dataclass(frozen=True, slots=True)
class LayerShares:
    """The outcomes of one layer, or of all layers together (``layer`` None).

    ``misclassified`` counts among inputs whose golden prediction is the label (None without labels); ``critical`` and
    ``nonfinite`` count among all inputs.
    """

    layer: TargetLayer | None
    misclassified: Proportion | None
    critical: Proportion
    nonfinite: Proportion


@dataclass(frozen=True, repr=False)
class NeuronCampaign(Tabular):
    """A finished campaign over ``inputs``, of which ``correct`` are golden-correct (None without labels).

    ``rows``: the layers in order, then all layers together. ``bit``: the bit that is flipped, None for a random one;
    0 is the least significant, or the sign where ``bit_order`` is ``msb``.
    ``is_classifier``: critical means another prediction, not an exceeded tolerance. ``detailed``: a file lists every
    misclassification. ``frame()`` has a row per layer, as the CSV file; the last one is all layers together.
    """

    notebook_columns = ("number", "layer", "type", "misclassified_share", "critical_share", "nonfinite_share")

    run: Path
    network: str
    dataset: str
    seed: int
    inputs: int
    trials: int
    bit: int | None
    bit_order: BitOrder
    correct: int | None
    rows: tuple[LayerShares, ...]
    is_classifier: bool
    detailed: bool

    @property
    def layers(self) -> list[TargetLayer]:
        """The layers, in order."""
        return [row.layer for row in self.rows if row.layer is not None]

    @property
    def files(self) -> tuple[Path, ...]:
        """``<model>_<dataset>_<seed>.txt`` and ``.csv``, and ``_detailed.txt`` for a ``detailed`` campaign."""
        return neuron_files(self.run, self.network, self.dataset, self.seed)[: 3 if self.detailed else 2]

    def headline(self) -> str:
        """Return what ran, and the critical share over all layers."""
        share = percent(self.rows[-1].critical.share)
        return (
            f"{self.network} on {self.dataset}: {amount(len(self.layers), 'layer')}, {share} critical; run {self.run}"
        )

    def table_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the numbers of each layer."""
        from bitswap_onnx.experiments.neurons.report import neuron_rows

        return neuron_rows(self)

    def plot(self) -> "Figure":
        """Return a figure: the share of every layer with its interval. Raises MissingExtraError without matplotlib."""
        from bitswap_onnx.experiments.neurons.figure import neuron_panels
        from bitswap_onnx.report.figures import draw_figure

        return draw_figure(neuron_panels(self))


def neuron_files(run: Path, network: str, dataset: str, seed: int) -> tuple[Path, ...]:
    """Return all files that a campaign can write: text, numbers, misclassifications, SVG and PNG."""
    ends = (".txt", ".csv", "_detailed.txt", ".svg", ".png")
    return tuple(run / f"{network}_{dataset}_{seed}{end}" for end in ends)
