"""The incremental engine, exact and fast: a fault costs its own stage of the model and those behind it.

The model is divided into a chain of stages (`bitswap_onnx.runtime.chain`). A faulty path with few injections runs its
stages with the faults in them; where many injections are to come, a faster lane stands in for its stage, if one is exact
(`bitswap_onnx.runtime.lane_search`). The rows that faults have changed then share batches in the stages behind. What cannot
be divided runs as the whole model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from bitswap_onnx.graph.edits import InjectionEdits
from bitswap_onnx.runtime.common_batches import CommonBatches
from bitswap_onnx.runtime.golden_block import GoldenBlock
from bitswap_onnx.runtime.lane_search import LaneSearch
from bitswap_onnx.runtime.lanes import Block, FaultyPath, FaultyScores
from bitswap_onnx.runtime.model_lanes import StagesLane, WholeLane
from bitswap_onnx.runtime.stopwatch import STOPWATCH


@dataclass(eq=False)
class IncrementalEngine(LaneSearch):
    """Runs injections over all ``inputs``, on the lanes that the search finds.

    ``lost``: the golden rows that ran along in the last `run_all` and did not stay golden.
    """

    lost: int = field(default=0, init=False)
    _block: GoldenBlock | None = field(default=None, init=False)

    @STOPWATCH.span("controls")
    def control(self, path: FaultyPath, first: int, stop: int) -> int:
        """Return how many of the inputs ``first`` to ``stop`` stay golden on the way of ``path``: all, or it is not exact.

        The whole model runs with no change in the path's tensors; the chain runs clean, from its start to its end. Stages
        that are loaded together, or with flip nodes, run with no change besides.
        """
        lane = self.lane(path)
        if isinstance(lane, WholeLane):
            return lane.control(self._inputs(first, stop))
        blocks = (block for _, block in self._blocks(first, stop))
        if isinstance(lane, StagesLane):
            return sum(min(block.golden_inputs, lane.control(block)) for block in blocks)
        return sum(block.golden_inputs for block in blocks)

    def _inputs(self, first: int, stop: int) -> Block:
        return Block(self.inputs[first:stop], self.scores[first:stop], self.numerics.batch_size, first)

    def run(
        self, path: FaultyPath, injections: Sequence[InjectionEdits], first: int, stop: int
    ) -> Iterator[tuple[int, FaultyScores]]:
        """As `run_all`, for one path."""
        return self.run_all([(path, injections)], first, stop)

    def run_all(
        self, work: Sequence[tuple[FaultyPath, Sequence[InjectionEdits]]], first: int, stop: int
    ) -> Iterator[tuple[int, FaultyScores]]:
        """Yield the scores of injections of several paths over the inputs ``first`` to ``stop``.

        Each item is (start, scores), with rows counted from the input ``start``; every injection comes for every input
        once. Injections are numbered through all of ``work``. At the end ``lost`` is the number of golden rows that ran
        along and did not stay golden: not 0 means that the scores are wrong.
        """
        self.lost = 0
        numbered: list[tuple[FaultyPath, list[tuple[int, InjectionEdits]]]] = []
        count = 0
        for path, injections in work:
            numbered.append((path, list(enumerate(injections, count))))
            count += len(injections)
        whole = [each for each in numbered if isinstance(self.lane(each[0]), WholeLane)]
        for path, ordered in whole:
            lane = self._whole_lanes.lane(path)
            yield from ((first, faulty) for faulty in lane.run(ordered, self._inputs(first, stop)))
        chained = [each for each in numbered if each not in whole]
        if chained:
            for start, block in self._blocks(first, stop):
                yield start, self._run_chained(chained, block)

    def _run_chained(
        self, work: Sequence[tuple[FaultyPath, list[tuple[int, InjectionEdits]]]], block: GoldenBlock
    ) -> FaultyScores:
        common = CommonBatches(block, self.chain.count)
        for path, injections in work:
            lane = self.lane(path)
            assert not isinstance(lane, WholeLane)
            lane.run(injections, block, common)
        common.drain()
        self.lost += common.lost
        return common.scores([number for _, injections in work for number, _ in injections])

    def _make_block(self, first: int, stop: int) -> GoldenBlock:
        inputs, scores = self.inputs[first:stop], self.scores[first:stop]
        return GoldenBlock(inputs, scores, self.numerics.batch_size, first, self.chain, self.memory // 2)

    def _blocks(self, first: int, stop: int) -> Iterator[tuple[int, GoldenBlock]]:
        """Yield (first input, block) for the inputs ``first`` to ``stop``, in blocks whose golden values fit the memory.

        The last block is kept.
        """
        size = self.numerics.batch_size
        step = size * max(1, self.memory // 2 // (size * self._bytes_per_input))
        for start in range(first, stop, step):
            end = min(start + step, stop)
            if self._block is None or (self._block.first, self._block.count) != (start, end - start):
                self._block = None
                self._block = self._make_block(start, end)
            yield start, self._block

    @cached_property
    def _bytes_per_input(self) -> int:
        """Bytes of golden values that one stage needs for an input: both its borders, and all values within."""
        return max(self.chain.stage_bytes(stage) for stage in range(self.chain.count))
