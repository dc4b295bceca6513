"""Fault lists that grow in rounds: the next faults depend on the outcomes so far."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bitswap_onnx.campaign.store import Store
from bitswap_onnx.faults.fault import Injection

#: The file of a run directory with the interim estimate after each round.
GROWTH_NAME = "until.csv"


class Addition(NamedTuple):
    """The injections of one round, and settings of the store; both are committed together.

    While the setting ``growing`` is true, more rounds may follow, so the store is not complete.
    """

    injections: Sequence[Injection]
    settings: dict[str, Any]


class GrowingList(Protocol):
    """A fault list that continues after its first round. Its progress is in the store alone."""

    @property
    def name(self) -> str:
        """The name that a run shows in place of the file name of a list."""

    @property
    def identity(self) -> str:
        """The hash that a run stores for the list; it covers everything that decides which faults come."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that are stored with the first round."""

    def more(self, store: Store) -> Addition | None:
        """Return the next round, or None if the list is complete. All injections in ``store`` have run.

        The settings of a round are committed with its injections. At the end, this method itself stores the last
        settings.
        """

    def write(self, store: Store, path: Path) -> None:
        """Write the interim estimate after each round to ``path``."""
