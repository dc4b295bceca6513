"""Fault lists that are drawn in rounds: each round depends on the outcomes of those before."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitswap_onnx.campaign.drawing_record import DrawingRecord
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.graph.coverage import Coverage

#: The file of a run directory with the interim estimates of a campaign that draws its own faults.
INTERIM_ESTIMATES_NAME = "until.csv"


@dataclass(frozen=True)
class Addition:
    """The injections of one round, and the record of all rounds up to it. Both are committed together."""

    injections: Sequence[Injection]
    drawing: DrawingRecord

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a store from this round on. A store that is ``growing`` is not complete yet."""
        return {"until": self.drawing.stored(), "growing": True}


class AdaptiveList(ABC):
    """A fault list that grows in rounds: `more` plans the next round from the outcomes of all earlier ones.

    The rounds so far are read from the store, never from memory.
    """

    #: The first round.
    pilot: Addition

    #: How many of the model's stored bits can be drawn.
    coverage: Coverage

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that a run shows in place of the file name of a list."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """The SHA-256 of the settings that must stay the same on a resume. A run records it in place of a list's hash."""

    @abstractmethod
    def more(self, store: Store) -> Addition | None:
        """Return the next round, None where the list ends. All injections in ``store`` have run.

        The record of a round is committed with its injections; at the end of the list, this method stores the last record.
        """

    @abstractmethod
    def write(self, store: Store, path: Path) -> None:
        """Write the interim estimates of all rounds."""
