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
    """A layer under faults: shares of right answers, critical and nonfinite inferences, and what the layer holds.

    ``bits``: those that faults can hit there. ``largest``: the largest finite magnitude that it takes in.
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
    """A ranking: ``order`` are layers by number, ``curve`` its S-curve in percent."""

    name: str
    order: LayerOrder
    score: RankingScore
    curve: Values
    risk: ResidualRisk


@dataclass(frozen=True, eq=False)
class RankingComparison:
    """Two rankings beside each other; ``difference`` is None with the oracle, which knows the units that score it."""

    first: str
    second: str
    agreement: RankAgreement
    difference: ScoreDifference | None


@dataclass(frozen=True, eq=False)
class Robustness:
    """What a model's layers do under faults, and how rankings of them do.

    ``golden``: the share of right answers without faults; not ``labelled``: an answer is right if it is the golden one.
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
    """Return where a report's tables, everything as JSON and the figures lie, by what they are."""
    tables = {name: run / f"{network}_{name}.csv" for name in ("layers", "rankings", "curves", "pairs")}
    return tables | {suffix: run / f"{network}_rank.{suffix}" for suffix in ("json", "svg", "png")}
