"""Results of a ranking experiment: the effect of faults in each layer, and the quality of each ranking."""

from dataclasses import dataclass
from pathlib import Path

from bitswap_onnx.experiments.ranking.layer_faults import RankingSite
from bitswap_onnx.experiments.ranking.residual_risk import ResidualRisk
from bitswap_onnx.graph.costs import LayerCost
from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.rankings import LayerOrder, RankAgreement, RankingScore, ScoreDifference


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


@dataclass(frozen=True, eq=False)
class Robustness:
    """The effect of faults in each layer of a model, and the quality of each ranking of the layers.

    ``golden``: the share of correct predictions without faults. Not ``labelled``: a prediction is correct if it is the
    golden one.
    """

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


def ranking_files(run: Path, network: str) -> dict[str, Path]:
    """Return the files of a report by kind: the tables by name, the JSON with everything, and the figures."""
    tables = {name: run / f"{network}_{name}.csv" for name in ("layers", "rankings", "curves", "pairs")}
    return tables | {suffix: run / f"{network}_rank.{suffix}" for suffix in ("json", "svg", "png")}
