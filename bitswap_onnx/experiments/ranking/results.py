"""Results of a ranking experiment: the effect of faults in each layer, and the quality of each ranking."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitswap_onnx.errors import amount
from bitswap_onnx.experiments.ranking.layer_faults import RankingSite
from bitswap_onnx.experiments.ranking.residual_risk import ResidualRisk
from bitswap_onnx.graph.costs import LayerCost
from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.rankings import LayerOrder, RankAgreement, RankingScore, ScoreDifference
from bitswap_onnx.tables import Tabular, percent, require_pandas

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class LayerRobustness:
    """A layer under faults: its shares of correct, critical and nonfinite inferences, and its size.

    ``bits``: the number of bits that faults can hit there. ``largest``: the largest finite magnitude in the layer's
    input.
    """

    number: int
    kind: str
    cost: LayerCost
    bits: int
    largest: float
    correct: float
    critical: float
    nonfinite: float

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.cost.layer


@dataclass(frozen=True, eq=False)
class ScoredRanking:
    """A ranking with its score: ``order`` has layers by number, ``curve`` is the S-curve in percent."""

    name: str
    order: LayerOrder
    score: RankingScore
    curve: Values
    risk: ResidualRisk


@dataclass(frozen=True, eq=False)
class RankingComparison:
    """Two rankings compared. ``difference`` is None with the oracle, which is ordered by the units that score it."""

    first: str
    second: str
    agreement: RankAgreement
    difference: ScoreDifference | None


@dataclass(frozen=True, eq=False, repr=False)
class Robustness(Tabular):
    """The effect of faults in each layer of a model, and the quality of each ranking of the layers.

    ``golden``: the share of correct predictions without faults. Not ``labelled``: a prediction is correct if it is the
    golden one. ``frame()`` has a row per layer, ``ranking_frame()`` one per ranking, as the CSV files.
    """

    notebook_columns = ("number", "layer", "type", "accuracy", "critical", "nonfinite", "parameters", "macs", "bits")

    run: Path
    network: str
    dataset: str
    where: RankingSite
    inputs: int
    trials: int
    seed: int
    golden: float
    labelled: bool
    layers: tuple[LayerRobustness, ...]
    rankings: tuple[ScoredRanking, ...]
    pairs: tuple[RankingComparison, ...]
    notes: tuple[str, ...]

    def headline(self) -> str:
        """Return what ran, and the layer with the highest critical share."""
        worst = max(self.layers, key=lambda layer: layer.critical)
        return (
            f"{self.network} on {self.dataset}: {amount(len(self.layers), 'layer')} under faults in {self.where}, "
            f"{worst.name} {percent(worst.critical)} critical; {amount(len(self.rankings), 'ranking')}; run {self.run}"
        )

    def table_rows(self) -> Iterable[dict[str, Any]]:
        """Return the numbers of each layer."""
        from bitswap_onnx.experiments.ranking.report import layer_rows

        return layer_rows(self)

    def ranking_frame(self) -> "pd.DataFrame":
        """Return the scores of the rankings as a pandas DataFrame; raises MissingExtraError without pandas."""
        from bitswap_onnx.experiments.ranking.report import ranking_rows

        return require_pandas().DataFrame(list(ranking_rows(self)))

    def plot(self) -> "Figure":
        """Return a figure: S-curves and residual risk of the rankings. Raises MissingExtraError without matplotlib."""
        from bitswap_onnx.experiments.ranking.figure import ranking_panels
        from bitswap_onnx.report.figures import draw_figure

        return draw_figure(ranking_panels(self))


def ranking_files(run: Path, network: str) -> dict[str, Path]:
    """Return the files of a report by kind: the tables by name, the JSON with everything, and the figures."""
    tables = {name: run / f"{network}_{name}.csv" for name in ("layers", "rankings", "curves", "pairs")}
    return tables | {suffix: run / f"{network}_rank.{suffix}" for suffix in ("json", "svg", "png")}
