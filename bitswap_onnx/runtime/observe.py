"""What neurons are in the golden run: the clean side of their receipts, and how large they get."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.dataset import batches
from bitswap_onnx.errors import ControlFailedError
from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.graph.receipts import NeuronReceipt
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.part import open_part
from bitswap_onnx.runtime.session import Numerics


def largest_values(
    slicer: Slicer, numerics: Numerics, names: Sequence[str], pieces: Iterable[NDArray[np.generic]]
) -> list[float]:
    """Return the largest finite magnitude that each value takes in the clean model, over all inputs in ``pieces``."""
    made = sorted(set(names) - set(slicer.inputs))
    part = open_part(slicer.extract(slicer.inputs, made), numerics) if made else None
    largest = dict.fromkeys(names, 0.0)
    for piece in pieces:
        for batch, count in batches(piece, numerics.batch_size):
            values = {slicer.inputs[0]: batch}
            values |= dict(zip(part.outputs, part.run(values), strict=True)) if part else {}
            for name in largest:
                magnitudes = np.abs(values[name][:count].astype(np.float64))
                finite = magnitudes[np.isfinite(magnitudes)]
                largest[name] = max(largest[name], float(finite.max(initial=0.0)))
    return [largest[name] for name in names]


@dataclass(eq=False)
class Observer:
    """Collects the neurons of faults that name their input, looks at all in one clean run, and hands the bits back."""

    slicer: Slicer
    numerics: Numerics
    output: str
    _values: dict[str, int] = field(default_factory=dict)
    _wanted: list[tuple[int, int, int]] = field(default_factory=list)
    _bits: NDArray[np.uint64] | None = None

    def want(self, receipts: Iterable[NeuronReceipt]) -> None:
        """Note the neurons of some receipts; `bits` gives them in the same order."""
        for receipt in receipts:
            if receipt.fault.input is not None:
                value = self._values.setdefault(receipt.site.value, len(self._values))
                self._wanted.append((value, receipt.fault.input, receipt.element))

    def bits(self, pieces: Iterable[NDArray[np.generic]], golden: Scores) -> Iterable[int]:
        """Return the bits of the neurons, looked at while the inputs (in ``pieces``, in order) run once more.

        Raises ControlFailedError if the run that hands out their values does not have the golden scores.
        """
        wanted = np.array(self._wanted, np.int64).reshape(-1, 3)
        found = np.zeros(len(wanted), np.uint64)
        order = np.argsort(wanted[:, 1], kind="stable")
        names = sorted({*self._values, self.output} - set(self.slicer.inputs))
        part = open_part(self.slicer.extract(self.slicer.inputs, names), self.numerics)
        first = 0
        for piece in pieces if len(wanted) else ():
            for batch, count in batches(piece, self.numerics.batch_size):
                values = dict(zip(part.outputs, part.run({self.slicer.inputs[0]: batch}), strict=True))
                values |= {self.slicer.inputs[0]: batch}
                scores = values[self.output][:count].reshape(count, -1)
                if not (scores == golden[first : first + count]).all():
                    raise ControlFailedError(
                        "the clean model has other scores when its neurons are looked at; results would be wrong, none "
                        "are written: use another --batch-size or --provider, and please report it"
                    )
                low, high = np.searchsorted(wanted[order, 1], [first, first + count])
                self._read(values, wanted, found, order[low:high], first)
                first += count
        return found.tolist()

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
