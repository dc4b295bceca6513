"""Fault lists that are drawn in rounds: what comes next depends on the outcomes so far."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bitswap_onnx.campaign.store import Store
from bitswap_onnx.faults.fault import Injection

#: The file of a run directory that says how such a list came about.
GROWTH_NAME = "until.csv"


class Addition(NamedTuple):
    """A round's injections, and the settings that a store has from then on; both are committed together.

    A store whose setting ``growing`` is true is not complete: nobody knows yet whether that was all.
    """

    injections: Sequence[Injection]
    settings: dict[str, Any]


class GrowingList(Protocol):
    """What decides how a list goes on behind its first round; a store alone says how far it has come."""

    @property
    def name(self) -> str:
        """What stands for the list's file name."""

    @property
    def identity(self) -> str:
        """What stands for the hash of the list: equal where everything that decides about it is."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that a store has beside the first round."""

    def more(self, store: Store) -> Addition | None:
        """Return the next round, now that all injections in ``store`` have run, or None where that was all.

        The settings of a round are committed with it; what the end settles, this puts into the store itself.
        """

    def write(self, store: Store, path: Path) -> None:
        """Write how the list came about."""
