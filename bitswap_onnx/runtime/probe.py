"""Judges whether a lane may be used, by trying it on some inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.runtime.golden_values import GoldenValues
from bitswap_onnx.runtime.lanes import Block, FaultyPath, Lane
from bitswap_onnx.runtime.model_lanes import WholeLanes
from bitswap_onnx.runtime.packed import PackedLane
from bitswap_onnx.runtime.planted_faults import plant

#: Inputs to try a lane with, rounded up to whole batches; fewer, but at least one batch, where their values do not fit
#: the memory.
PROBED_INPUTS = 32


@dataclass(frozen=True, eq=False)
class Probe:
    """Tries lanes against the whole model.

    ``golden`` has the inputs to try with, in whole batches; ``values_for`` tells which golden values a lane gets.
    """

    model: Model
    sites: Mapping[str, NeuronSite]
    whole_lanes: WholeLanes
    golden: GoldenValues
    values_for: Callable[[Lane], frozenset[str]]

    def accepts(self, lane: Lane, path: FaultyPath) -> bool:
        """Whether a lane is exact, and exact for planted faults too; False if the runtime cannot load or run it."""
        try:
            return self.is_exact(lane) and self.is_exact_for_planted_faults(lane, path)
        except ModelError:
            return False

    def is_exact(self, lane: Lane) -> bool:
        """Whether the scores keep the golden bits on a lane in other batches: rows rotated by one, and one half twice.

        An operator that mixes the inputs of a batch may give the same in any order, but not beside other inputs.
        """
        block = self._block(lane)
        order = np.arange(block.count)
        if isinstance(lane, PackedLane) and not lane.keeps_places(block):
            return False
        return all(bool(lane.control(block, rows).all()) for rows in (np.roll(order, 1), order // 2))

    def is_exact_for_planted_faults(self, lane: Lane, path: FaultyPath) -> bool:
        """Whether planted faults give the same scores on a lane as in the whole model."""
        block = self._block(lane)
        plants = plant(self.model, path, self.sites)
        expected = np.stack([block.scores] * len(plants))
        found = expected.copy()
        for scores, tried in ((expected, self.whole_lanes.lane(path)), (found, lane)):
            for faulty in tried.run(plants, block):
                for number, part in zip(faulty.numbers, faulty.parts, strict=True):
                    scores[number, faulty.rows[part]] = faulty.scores[part]
        return np.array_equal(found, expected, equal_nan=True)

    def _block(self, lane: Lane) -> Block:
        """Return the block of inputs that a lane is tried with: as many of the inputs as fit the memory together."""
        _, block = next(self.golden.blocks(self.values_for(lane), 0, len(self.golden.inputs)))
        return block
