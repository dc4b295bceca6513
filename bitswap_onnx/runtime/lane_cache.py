"""Keeps lanes loaded, as far as memory holds them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from bitswap_onnx.runtime.lanes import FaultyPath


class _Lane(Protocol):
    @property
    def loaded_bytes(self) -> int:
        """Estimated bytes that it keeps in memory between runs."""


_AnyLane = TypeVar("_AnyLane", bound=_Lane)


@dataclass(eq=False)
class LaneCache(Generic[_AnyLane]):
    """Lanes that stay loaded, one per faulty path, within ``memory`` bytes; the lane used last always stays.

    ``lanes`` are in the order of use, the one that was not used for longest first; it is the first to go.
    """

    memory: int
    lanes: dict[FaultyPath, _AnyLane] = field(default_factory=dict, init=False)

    def get(self, path: FaultyPath, make: Callable[[], _AnyLane]) -> _AnyLane:
        """Return the lane of a path, which ``make`` makes if it is not loaded."""
        lane = self.lanes.pop(path, None)
        self.lanes[path] = lane = make() if lane is None else lane
        while len(self.lanes) > 1 and sum(loaded.loaded_bytes for loaded in self.lanes.values()) > self.memory:
            del self.lanes[next(iter(self.lanes))]
        return lane

    def drop(self, path: FaultyPath) -> None:
        """Forget the lane of a path, if there is one."""
        self.lanes.pop(path, None)
