"""Keeps lanes loaded, as far as memory holds them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from bitswap_onnx.runtime.lanes import FaultyPath, Lane


@dataclass(eq=False)
class LaneCache:
    """Lanes that stay loaded, one per faulty path, within ``memory`` bytes; the lane used last always stays.

    ``lanes`` are in the order of use, the one that was not used for longest first; it is the first to go.
    """

    memory: int
    lanes: dict[FaultyPath, Lane] = field(default_factory=dict, init=False)

    def get(self, path: FaultyPath, make: Callable[[], Lane]) -> Lane:
        """Return the lane of a path, which ``make`` makes if it is not loaded."""
        lane = self.lanes.pop(path, None)
        self.lanes[path] = lane = make() if lane is None else lane
        while len(self.lanes) > 1 and sum(loaded.loaded_bytes for loaded in self.lanes.values()) > self.memory:
            del self.lanes[next(iter(self.lanes))]
        return lane

    def drop(self, path: FaultyPath) -> None:
        """Forget the lane of a path, if there is one."""
        self.lanes.pop(path, None)
