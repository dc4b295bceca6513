"""Golden values: the values of the clean model at the cuts, in blocks of inputs that fit the memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.dataset import batches
from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.stretches import ROWS
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.lanes import Block
from bitswap_onnx.runtime.memory import aligned_empty
from bitswap_onnx.runtime.session import Numerics, open_session
from bitswap_onnx.runtime.stopwatch import STOPWATCH
from bitswap_onnx.runtime.submodel import Submodel, open_part, to_device


@dataclass(eq=False)
class GoldenValues:
    """Computes values of the clean model in ``slicer`` for ``inputs`` (n, ...) with known ``scores``, in ``memory`` bytes.

    ``device``: where the values stay; None: in arrays of the host.
    """

    slicer: Slicer
    numerics: Numerics
    inputs: NDArray[Any]
    scores: Scores
    memory: int
    device: str | None = None
    _prefix: tuple[frozenset[str], Submodel] | None = field(default=None, init=False)
    _last: tuple[tuple[int, int, frozenset[str]], Block] | None = field(default=None, init=False)

    def blocks(self, names: frozenset[str], first: int, stop: int) -> Iterator[tuple[int, Block]]:
        """Yield (first input, block) for the inputs ``first`` to ``stop``, with the values ``names``."""
        if not names:
            scores = self.scores[first:stop]
            yield first, Block(self.inputs[first:stop], {}, scores, self.numerics.batch_size, first)
            return
        size = self.numerics.batch_size
        step = size * max(1, self.memory // (size * self.bytes_per_input(names)))
        for start in range(first, stop, step):
            yield start, self._block_of(start, min(start + step, stop), names)

    def to_probe(self, model: Model, least: int) -> "GoldenValues":
        """Return the golden values of whole batches, ``least`` inputs or more: the first ones, filled up with random ones.

        ``model``: the whole clean model, which gives the scores of the random inputs.
        """
        size = self.numerics.batch_size
        count = math.ceil(least / size) * size
        if len(self.inputs) >= count:
            return replace(self, inputs=self.inputs[:count], scores=self.scores[:count])
        inputs = np.concatenate([self.inputs, _random_inputs_like(self.inputs, count - len(self.inputs))])
        return replace(self, inputs=inputs, scores=open_session(model, self.numerics, self.slicer.output).run(inputs))

    def fits(self, names: frozenset[str]) -> bool:
        """Whether a batch of the values fits the memory."""
        return self.bytes_per_input(names) * self.numerics.batch_size <= self.memory

    def keeps_scores(self, names: frozenset[str]) -> bool:
        """Whether the clean model keeps its golden scores on the first batch when ``names`` are outputs too."""
        computed = sorted((names | {self.slicer.output}) - set(self.slicer.inputs))
        batch, count = next(batches(self.inputs, self.numerics.batch_size))
        try:
            part = open_part(self.slicer.extract(self.slicer.inputs, computed), self.numerics)
            scores = part.run({self.slicer.inputs[0]: batch})[part.outputs.index(self.slicer.output)]
        except ModelError:  # a type that arrays cannot hold
            return False
        return bool((scores.reshape(len(batch), -1)[:count] == self.scores[:count]).all())

    def bytes_per_input(self, names: frozenset[str] | set[str]) -> int:
        """Return the bytes per input of the values ``names``, plus `ROWS` times the largest of them and the scores.

        A stretch makes that many faulty copies.
        """
        sizes = [self.slicer.row_bytes(name) for name in names]
        return sum(sizes) + ROWS * (max(sizes, default=0) + self.scores[:1].nbytes)

    def _block_of(self, first: int, stop: int, names: frozenset[str]) -> Block:
        """Return a block of golden values; the last block is kept, and its memory is used again."""
        key = first, stop, names
        if self._last is None or self._last[0] != key:
            spare = self._last[1].values if self._last and self._last[0][2] == names else {}
            self._last = None  # on a device, two blocks may be too many
            inputs = self.inputs[first:stop]
            values = self._values(inputs, names, spare)
            self._last = key, Block(inputs, values, self.scores[first:stop], self.numerics.batch_size, first)
        return self._last[1]

    @STOPWATCH.span("golden")
    def _values(self, inputs: NDArray[Any], names: frozenset[str], spare: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Return the values ``names`` of ``inputs``; the arrays in ``spare`` are overwritten."""
        if self.device is not None:
            return self._device_values(inputs, names, self.device)
        size = self.numerics.batch_size
        rows = math.ceil(len(inputs) / size) * size
        values = {}
        for name in names:
            shape = (rows, *(self.slicer.dims(name) or ())[1:])
            fits = name in spare and len(spare[name]) >= rows
            values[name] = spare[name][:rows] if fits else aligned_empty(shape, self.slicer.dtype(name))
        (source,) = self.slicer.inputs
        computed = names - {source}
        for number, (batch, _) in enumerate(batches(inputs, size)):
            rows_of_batch = slice(number * size, (number + 1) * size)
            if source in names:
                values[source][rows_of_batch] = batch
            if computed:
                self._prefix_to(computed).run_into(
                    {source: batch}, {name: values[name][rows_of_batch] for name in computed}
                )
        return values

    def _device_values(self, inputs: NDArray[Any], names: frozenset[str], device: str) -> dict[str, list[Any]]:
        values: dict[str, list[Any]] = {name: [] for name in names}
        (source,) = self.slicer.inputs
        computed = names - {source}
        for batch, _ in batches(inputs, self.numerics.batch_size):
            batch_values = {source: to_device(batch, device)}
            if computed:
                part = self._prefix_to(computed)
                batch_values |= dict(
                    zip(part.outputs, part.run_on({source: batch_values[source]}, device), strict=True)
                )
            for name in names:
                values[name].append(batch_values[name])
        return values

    def _prefix_to(self, names: frozenset[str]) -> Submodel:
        """Return the clean prefix whose outputs are ``names``; the last one stays loaded."""
        if self._prefix is None or self._prefix[0] != names:
            self._prefix = names, open_part(self.slicer.extract(self.slicer.inputs, sorted(names)), self.numerics)
        return self._prefix[1]


def _random_inputs_like(inputs: NDArray[Any], count: int) -> NDArray[Any]:
    """Return ``count`` random inputs made from ``inputs`` (n, ...): the numbers of each shuffled, floats scaled down."""
    draw = np.random.default_rng(0)
    rows = np.stack([draw.permutation(inputs[i % len(inputs)].reshape(-1)) for i in range(count)])
    if inputs.dtype.kind == "f":
        rows = (rows * draw.uniform(0.1, 1.0, rows.shape)).astype(inputs.dtype)
    return rows.reshape(count, *inputs.shape[1:])
