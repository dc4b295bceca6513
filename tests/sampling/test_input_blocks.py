"""The inputs that an injection runs over: whole batches, drawn evenly, by its id."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from bitswap_onnx.data.chunks import Chunk, chunks
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.sampling.input_blocks import InputSample, parse_per_injection, sample_inputs


@pytest.mark.parametrize(("text", "expected"), [("auto", "auto"), ("1", 1), ("0032", 32), (None, None)])
def test_parsed(text: str | None, expected: object) -> None:
    assert parse_per_injection(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "32 ", "AUTO", "all", "1" * 30])
def test_wrong_text(text: str) -> None:
    with pytest.raises(
        BitswapError, match="`inputs_per_injection`: expected auto or a number of inputs from 1 on, found"
    ):
        parse_per_injection(text)


@pytest.mark.parametrize("number", [0, -3, "32", 1.5])
def test_wrong_numbers(number: object) -> None:
    with pytest.raises(BitswapError, match=f"from 1 on, found {number!r}"):
        sample_inputs(number, 20, 8, 0)  # type: ignore[arg-type]


OVER = "inputs: each injection runs over "


@pytest.mark.parametrize(
    ("per_injection", "length", "note"),
    [
        (None, None, ""),
        ("auto", 8, f"{OVER}8 inputs of its own, drawn with seed 5 (nested)"),
        (8, 8, f"{OVER}8 inputs of its own, drawn with seed 5 (nested)"),
        (9, 16, f"{OVER}16 inputs of its own (9 in whole batches of 8), drawn with seed 5 (nested)"),
        (17, None, f"{OVER}all 20; `inputs_per_injection` 24 (17 in whole batches of 8) is not fewer"),
        (80, None, f"{OVER}all 20; `inputs_per_injection` 80 is not fewer"),
    ],
)
def test_whole_batches(per_injection: int | None, length: int | None, note: str) -> None:
    sample = sample_inputs(per_injection, 20, 8, 5)
    assert (sample.length, "".join(sample.notes)) == (length, note)
    assert sample.design == ("all" if length is None else "nested")
    assert sample.identity == (None if length is None else {"per_injection": length, "seed": 5})
    assert (sample.block_of("a") is None) == (length is None)


def test_the_draw_is_the_documented_one() -> None:
    """Sha256sum of ``7/inputs/L3-12`` begins with 6101a27a879eb1eb, and that number is 559 modulo 846."""
    assert InputSample(846, 32, 7).block_of("L3-12") == Chunk(544, 576)


@given(st.integers(2, 3000), st.integers(1, 40), st.integers(0, 2**40), st.text(min_size=1, max_size=9))
def test_a_block_is_a_chunk_and_lies_in_the_longer_one(inputs: int, length: int, seed: int, name: str) -> None:
    block = InputSample(inputs, length, seed).block_of(name)
    longer = InputSample(inputs, 2 * length, seed).block_of(name)
    assert block in chunks(inputs, length)
    assert longer in chunks(inputs, 2 * length)
    assert block is not None
    assert longer is not None
    assert longer.first <= block.first < block.stop <= longer.stop


@pytest.mark.parametrize("seed", [0, 1, 12])
@pytest.mark.parametrize(("inputs", "length"), [(846, 32), (20, 16), (96, 32)])
def test_blocks_are_drawn_in_proportion_to_their_inputs(inputs: int, length: int, seed: int) -> None:
    sample = InputSample(inputs, length, seed)
    drawn = [sample.block_of(str(number)) for number in range(20_000)]
    parts = chunks(inputs, length)
    counts = np.array([drawn.count(part) for part in parts])
    assert counts.sum() == len(drawn)
    sizes = np.array([len(part) for part in parts])
    assert chisquare(counts, sizes / inputs * len(drawn)).pvalue > 0.001


def test_seeds_draw_apart() -> None:
    """Two seeds agree on a block as often as chance has it: one in ten, of 2,000."""
    pairs = [[InputSample(320, 32, seed).block_of(str(i)) for i in range(2000)] for seed in (0, 1)]
    assert 150 < sum(a == b for a, b in zip(*pairs, strict=True)) < 250
