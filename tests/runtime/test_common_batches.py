"""Rows of many injections share batches: each comes out as alone, and golden rows among them are watched."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitswap_onnx.runtime.chain import Arrays, Chain
from bitswap_onnx.runtime.common_batches import CommonBatches
from bitswap_onnx.runtime.golden_block import GoldenBlock
from bitswap_onnx.runtime.session import Numerics
from tests.networks import MODELS
from tests.runtime.chains import chain_of

pytestmark = pytest.mark.usefixtures("divided")


def block_of(size: int, count: int = 12) -> GoldenBlock:
    chain, x, scores = chain_of(MODELS["residual"], Numerics(batch_size=size))
    return GoldenBlock(x[:count], scores[:count], size, 0, chain, 1 << 30)


def add(common: CommonBatches, border: int, owners: list[int], inputs: list[int], shift: float) -> None:
    """Add golden rows with ``shift`` added to each number."""
    golden = common.block.border(border)
    rows = np.array(inputs, np.intp)

    def write(arrays: Arrays, part: slice) -> None:
        for name, array in arrays.items():
            array[...] = golden[name][rows[part]] + np.float32(shift)

    common.add(border, golden, np.array(owners, np.intp), rows, write)
    common.finish(owners)


def alone(chain: Chain, block: GoldenBlock, border: int, row: int, shift: float) -> NDArray[Any]:
    """The scores of one such row, in a batch of its copies."""
    values = {
        name: np.ascontiguousarray(np.repeat(array[row : row + 1] + np.float32(shift), block.size, axis=0))
        for name, array in block.border(border).items()
    }
    scores: NDArray[Any] = chain.run_through(border, chain.count, values)[chain.slicer.output][0]
    return scores


@pytest.mark.parametrize("size", [1, 3, 4, 8, 12])
def test_every_row_comes_out_as_alone(size: int) -> None:
    """Rows that enter at three borders, fewer and more than a batch."""
    block = block_of(size)
    common = CommonBatches(block, block.chain.count)
    added = {0: (1, [3, 4, 11]), 1: (4, [*range(12)]), 2: (2, [0])}
    for owner, (border, inputs) in added.items():
        add(common, border, [owner] * len(inputs), inputs, 0.5 + owner)
    common.drain()
    found = common.scores([0, 1, 2])
    assert not common.lost
    for owner, part in enumerate(found.parts):
        border, inputs = added[owner]
        assert sorted(found.rows[part].tolist()) == inputs
        for row, scores in zip(found.rows[part], found.scores[part], strict=True):
            assert np.array_equal(scores, alone(block.chain, block, border, int(row), 0.5 + owner))


@pytest.mark.parametrize("size", [1, 4, 8, 12])
@pytest.mark.parametrize("rows", [1, 30])
def test_golden_rows_tell_of_a_stage_that_rounds_otherwise(
    size: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = block_of(size)
    assert block.golden_inputs == 12
    right, last = Chain.run, block.chain.count - 1

    def wrong(self: Chain, number: int, values: Arrays) -> Arrays:
        made = right(self, number, values)
        return {name: np.nextafter(array, np.float32(9)) for name, array in made.items()} if number == last else made

    monkeypatch.setattr(Chain, "run", wrong)
    common = CommonBatches(block, block.chain.count)
    add(common, 2, [0] * rows, [number % 12 for number in range(rows)], 1.0)
    common.drain()
    assert common.lost


def test_rows_that_did_not_run_are_loud() -> None:
    common = CommonBatches(block_of(8), 5)
    add(common, 2, [0], [1], 1.0)
    with pytest.raises(AssertionError, match="rows of some injections did not run"):
        common.scores([0])
    common.drain()
    with pytest.raises(AssertionError, match="rows of some injections did not run"):
        common.scores([0, 1])


def test_golden_values_are_computed_again_where_the_memory_is_short() -> None:
    plenty = block_of(4)
    short = GoldenBlock(plenty.inputs, plenty.scores, 4, 0, plenty.chain, 1)
    for border in (5, 2, 3, 0, 6, plenty.chain.count):
        for name, array in plenty.border(border).items():
            assert np.array_equal(short.border(border)[name], array)
        assert len(short._borders) == 2 or border == 0
    assert short.golden_inputs == 12


def test_the_last_batch_is_filled_up() -> None:
    block = block_of(8, count=11)
    assert block.rows == 16
    assert block.golden_inputs == 11
    assert np.array_equal(block.border(0)["x"][11:], np.repeat(block.inputs[10:11], 5, axis=0))


@pytest.mark.parametrize("border", [2, -1])
def test_no_rows_are_never_written(border: int) -> None:
    """As of neuron faults that name other inputs; at the end of the chain as at any border."""

    def write(*_: Any) -> None:
        raise AssertionError("there is nothing to write")

    block = block_of(8)
    place, nobody = border % (block.chain.count + 1), np.empty(0, np.intp)
    common = CommonBatches(block, block.chain.count)
    common.add(place, block.border(place), nobody, nobody, write)
    common.finish([0])
    common.drain()
    assert common.scores([0]).bounds == [0, 0]
