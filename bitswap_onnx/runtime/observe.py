"""What neurons are in the golden run: the clean side of their receipts, and how large they get."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.dataset import batches
from bitswap_onnx.errors import ControlFailedError, ModelError
from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.graph.receipts import NeuronReceipt
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.part import Part, open_part
from bitswap_onnx.runtime.session import Numerics


def largest_values(
    slicer: Slicer, numerics: Numerics, names: Sequence[str], pieces: Iterable[NDArray[np.generic]]
) -> list[float]:
    """Return the largest finite magnitude that each value takes in the clean model, over all inputs in ``pieces``."""
    made = sorted(set(names) - set(slicer.inputs))
    part = open_part(slicer.extract(slicer.inputs, made), numerics) if made else None
    largest = dict.fromkeys(names, 0.0)
    for batch, count in batches_of(pieces, numerics.batch_size):
        values = {slicer.inputs[0]: batch}
        values |= dict(zip(part.outputs, part.run(values), strict=True)) if part else {}
        for name in largest:
            magnitudes = np.abs(values[name][:count].astype(np.float64))
            largest[name] = max(largest[name], float(magnitudes[np.isfinite(magnitudes)].max(initial=0.0)))
    return [largest[name] for name in names]


@dataclass(eq=False)
class Observer:
    """Collects the neurons of a list, looks at those of faults that name their input, and hands their bits back."""

    slicer: Slicer
    numerics: Numerics
    output: str
    _labels: dict[str, str] = field(default_factory=dict)
    _values: dict[str, int] = field(default_factory=dict)
    _wanted: list[tuple[int, int, int]] = field(default_factory=list)

    def want(self, receipts: Iterable[NeuronReceipt]) -> None:
        """Note the neurons of some receipts; `bits` gives them in the same order."""
        for receipt in receipts:
            self._labels.setdefault(receipt.site.value, f"the {receipt.site.site} of {receipt.site.layer}")
            if receipt.fault.input is not None:
                value = self._values.setdefault(receipt.site.value, len(self._values))
                self._wanted.append((value, receipt.fault.input, receipt.element))

    def bits(self, pieces: Iterable[NDArray[np.generic]], golden: Scores) -> list[int]:
        """Return the bits of the neurons, looked at while the inputs (in ``pieces``, in order) run once more.

        Raises ModelError for a value that the runtime computes together with others, so that other scores follow where a
        fault can get at it; ControlFailedError if that shows in a later batch alone.
        """
        if not self._labels:
            return []
        wanted = np.array(self._wanted, np.int64).reshape(-1, 3)
        found = np.zeros(len(wanted), np.uint64)
        order = np.argsort(wanted[:, 1], kind="stable")
        run = batches_of(pieces, self.numerics.batch_size)
        first, part = 0, self._part(self._values)
        for batch, count in run:
            if not first:
                self._check(batch, count, golden)
            if not len(wanted):
                break
            values = self._run(part, batch)
            if not self._keeps(values, count, golden[first : first + count]):
                raise ControlFailedError(
                    "the clean model has other scores when its neurons are looked at; results would be wrong, none are "
                    "written: use another --batch-size or --provider, and please report it"
                )
            low, high = np.searchsorted(wanted[order, 1], [first, first + count])
            self._read(values, wanted, found, order[low:high], first)
            first += count
        return [int(bits) for bits in found]

    def _check(self, batch: NDArray[np.generic], count: int, golden: Scores) -> None:
        """Refuse values at which faults cannot get without changing more, as far as the first batch tells."""

        def keeps(names: Iterable[str]) -> bool:
            return self._keeps(self._run(self._part(names), batch), count, golden[:count])

        wrong = [] if keeps(self._labels) else [name for name in self._labels if not keeps([name])]
        if wrong:
            more = f" ({len(wrong)} such layers in this list)" if len(wrong) > 1 else ""
            raise ModelError(
                f"{self.slicer.model.name}: {self._labels[wrong[0]]} lies within what ONNX Runtime computes in one piece: "
                f"other scores follow where a fault can get at it{more}; choose another layer or its other side"
            )

    def _part(self, names: Iterable[str]) -> Part:
        made = sorted({*names, self.output} - set(self.slicer.inputs))
        return open_part(self.slicer.extract(self.slicer.inputs, made), self.numerics)

    def _run(self, part: Part, batch: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
        values = {self.slicer.inputs[0]: batch}
        return values | dict(zip(part.outputs, part.run(values), strict=True))

    def _keeps(self, values: dict[str, NDArray[np.generic]], count: int, golden: Scores) -> bool:
        return bool((values[self.output][:count].reshape(count, -1) == golden).all())

    def _read(
        self,
        values: dict[str, NDArray[np.generic]],
        wanted: NDArray[np.int64],
        found: NDArray[np.uint64],
        rows: NDArray[np.intp],
        first: int,
    ) -> None:
        for name, number in self._values.items():
            own = rows[wanted[rows, 0] == number]
            if len(own):
                bits = to_bits(np.ascontiguousarray(values[name])).reshape(len(values[name]), -1)
                found[own] = bits[wanted[own, 1] - first, wanted[own, 2]]


def batches_of(pieces: Iterable[NDArray[np.generic]], size: int) -> Iterator[tuple[NDArray[np.generic], int]]:
    """Yield the batches of inputs that come in pieces, each with how many of its rows are inputs."""
    for piece in pieces:
        yield from batches(piece, size)
