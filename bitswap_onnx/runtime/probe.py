"""Judges whether a lane may be used, by trying it on some inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.edits import InjectionEdits
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.runtime.chain import Arrays, orders, same_numbers
from bitswap_onnx.runtime.common_batches import CommonBatches, Rest
from bitswap_onnx.runtime.golden_block import GoldenBlock
from bitswap_onnx.runtime.model_lanes import StagesLane, WholeLane
from bitswap_onnx.runtime.neuron_lane import NeuronLane
from bitswap_onnx.runtime.packed import PackedLane
from bitswap_onnx.runtime.planted_faults import plant

#: Inputs to try lanes and chains with, rounded up to whole batches; fewer of large models.
PROBED_INPUTS = 32

ChainLane = PackedLane | NeuronLane | StagesLane


@dataclass(frozen=True, eq=False)
class Probe:
    """Tries lanes on the golden ``block``: a lane of one stage against the stage, the chain against the whole model."""

    model: Model
    sites: Mapping[str, NeuronSite]
    block: GoldenBlock

    def accepts(self, lane: PackedLane | NeuronLane, stages: StagesLane) -> bool:
        """Whether a lane makes what ``stages`` makes, clean and with planted faults; False if the runtime cannot run it."""
        try:
            return self.is_exact(lane) and self.is_exact_for_planted_faults(lane, stages)
        except ModelError:
            return False

    def is_exact(self, lane: PackedLane | NeuronLane) -> bool:
        """Whether clean values keep the golden bits on a lane: channels in any row of a stretch, rows in any order."""
        if isinstance(lane, PackedLane) and not (lane.keeps_channels(self.block) and lane.keeps_dense_channels()):
            return False
        return isinstance(lane.place, int) or self._keeps_rows(lane.place, self.block.inner(lane.inner))

    def is_exact_for_planted_faults(self, lane: PackedLane | NeuronLane, stages: StagesLane) -> bool:
        """Whether planted faults give the same values on a lane as in the stage with the faults in it."""
        plants = list(enumerate(plant(self.model, stages.path, self.sites)))
        expected, made = (self._run(each, plants, stages.last) for each in (stages, lane))
        return all(self._are_equal(number, expected, made, stages.last) for number, _ in plants)

    def is_exact_chain(self, stages: StagesLane, whole: WholeLane) -> bool:
        """Whether the chain gives the whole model's scores, clean and with planted faults in some stages."""
        plants = list(enumerate(plant(self.model, stages.path, self.sites)))
        end, output = self.block.chain.count, self.block.chain.slicer.output
        try:
            if self.block.golden_inputs < self.block.count:
                return False
            made = self._run(stages, plants, end)
        except ModelError:
            return False
        owners, inputs, scores = [], [], []
        for faulty in whole.run(plants, self.block):
            owners.append(np.full(len(faulty.rows), faulty.numbers[0]))
            inputs.append(faulty.rows)
            scores.append(faulty.scores)
        shape = self.block.border(end)[output].shape[1:]
        values = {output: np.concatenate(scores).reshape(-1, *shape)}
        expected = _Rows(np.concatenate(owners), np.concatenate(inputs), values)
        return all(self._are_equal(number, expected, made, end) for number, _ in plants)

    def _keeps_rows(self, rest: Rest, golden: Arrays) -> bool:
        behind, size = self.block.border(rest.stage + 1), self.block.size
        part = rest.part
        for order in orders(self.block.rows):
            for first in range(0, len(order), size):
                rows = order[first : first + size]
                made = part.run({name: golden[name][rows] for name in rest.names})
                if not all(map(same_numbers, made, (behind[name][rows] for name in part.outputs))):
                    return False
        return True

    def _run(self, lane: ChainLane, plants: list[tuple[int, InjectionEdits]], end: int) -> "_Rows":
        common = CommonBatches(self.block, end)
        lane.run(plants, self.block, common)
        common.drain()
        if common.lost:
            raise ModelError("golden rows were lost")
        return _Rows(*common.collected())

    def _are_equal(self, number: int, expected: "_Rows", made: "_Rows", end: int) -> bool:
        golden = self.block.border(end)
        for name in self.block.chain.borders[end]:
            arrays = (rows.full(number, name, golden[name][: self.block.count]) for rows in (expected, made))
            if not same_numbers(*arrays):
                return False
        return True


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows that faults changed: their injections (``owners``), inputs and values."""

    owners: NDArray[np.intp]
    inputs: NDArray[np.intp]
    values: Arrays

    def full(self, number: int, name: str, golden: NDArray[Any]) -> NDArray[Any]:
        """Return a value of one injection for all inputs: golden where it changed nothing."""
        array = golden.copy()
        rows = self.owners == number
        if rows.any():
            array[self.inputs[rows]] = self.values[name][rows]
        return array
