"""The record of a campaign that draws its own faults: a setting of its store."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.sampling.rounds import Round
from bitswap_onnx.sampling.strata import StratumPart


@dataclass(frozen=True, kw_only=True)
class DrawingRecord:
    """The draws of a campaign so far. With the model, the record gives the same faults again; alone, the stratum of each.

    ``scheme``: the name of the planner; ``kinds``: of the faults. ``with_replacement``: each draw was from all faults of
    its stratum. ``strata``: their names; ``populations``: the number of faults in each; ``parts``: their faults by layer
    and bit, None if not known. ``rounds``: in order, each with its target half width in ``margins``.
    ``interim_estimates``: one or more for each finished round, since a resumed campaign may have another goal.
    """

    scheme: str
    kinds: tuple[str, ...]
    seed: int
    with_replacement: bool
    strata: tuple[str, ...]
    populations: tuple[int, ...]
    parts: tuple[StratumPart, ...] | None
    rounds: tuple[Round, ...] = ()
    margins: tuple[float, ...] = ()
    interim_estimates: tuple[InterimEstimate, ...] = ()

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """Return the record of `stored` data."""
        parts = stored["parts"]
        rounds = stored["rounds"]
        return cls(
            scheme=stored["scheme"],
            kinds=tuple(stored["kinds"]),
            seed=stored["seed"],
            with_replacement=stored["again"],
            strata=tuple(stored["strata"]),
            populations=tuple(stored["populations"]),
            parts=parts
            and tuple(StratumPart(number, layer, name, tuple(bits), each) for number, layer, name, bits, each in parts),
            rounds=tuple(Round(row["draws"], row["probabilities"] and tuple(row["probabilities"])) for row in rounds),
            margins=tuple(row["margin"] for row in rounds),
            interim_estimates=tuple(InterimEstimate(**row) for row in stored["looks"]),
        )

    def stored(self) -> dict[str, Any]:
        """Return plain data, under the keys of the first version."""
        rounds = zip(self.rounds, self.margins, strict=True)
        return {
            "scheme": self.scheme,
            "kinds": self.kinds,
            "seed": self.seed,
            "again": self.with_replacement,
            "strata": self.strata,
            "populations": self.populations,
            "parts": self.parts,
            "rounds": [
                {"draws": drawn.draws, "probabilities": drawn.probabilities, "margin": margin}
                for drawn, margin in rounds
            ],
            "looks": [estimate._asdict() for estimate in self.interim_estimates],
        }

    def with_round(self, planned: Round, margin: float) -> Self:
        """Return the record with one more round, planned for an interval of half width ``margin``."""
        return replace(self, rounds=(*self.rounds, planned), margins=(*self.margins, margin))

    def with_estimate(self, estimate: InterimEstimate) -> Self:
        """Return the record with one more interim estimate."""
        return replace(self, interim_estimates=(*self.interim_estimates, estimate))
