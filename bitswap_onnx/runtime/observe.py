"""Values of neurons in the golden run: their clean bits for receipts, and their largest magnitudes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.batches import batches
from bitswap_onnx.errors import ControlFailedError, ModelError
from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.graph.neurons import flips, instrument
from bitswap_onnx.graph.receipts import NeuronReceipt
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.lanes import flat
from bitswap_onnx.runtime.session import Numerics, open_session
from bitswap_onnx.runtime.submodel import Submodel, open_part


def largest_values(
    slicer: Slicer, numerics: Numerics, names: Sequence[str], pieces: Iterable[NDArray[np.generic]]
) -> list[float]:
    """Return the largest finite magnitude of each value ``names`` of the clean model, over all inputs in ``pieces``."""
    computed = sorted(set(names) - set(slicer.inputs))
    part = open_part(slicer.extract(slicer.inputs, computed), numerics) if computed else None
    largest = dict.fromkeys(names, 0.0)
    for batch, count in batches_of(pieces, numerics.batch_size):
        values = {slicer.inputs[0]: batch}
        values |= dict(zip(part.outputs, part.run(values), strict=True)) if part else {}
        for name in largest:
            magnitudes = np.abs(values[name][:count].astype(np.float64))
            largest[name] = max(largest[name], float(magnitudes[np.isfinite(magnitudes)].max(initial=0.0)))
    return [largest[name] for name in names]


def unreachable_sites(
    slicer: Slicer, numerics: Numerics, sites: Sequence[NeuronSite], inputs: NDArray[Any]
) -> tuple[NeuronSite, ...]:
    """Return the ``sites`` that faults cannot hit: a flip node without a fault there, or reading the value, changes scores.

    ``slicer`` has the model at the opset of flip nodes. All sites are tried together first, then one by one; at half
    precision only one by one, since the places where the runtime rounds depend on the neighbours of a node.
    """
    golden = open_session(slicer.model, numerics, slicer.output).run(inputs)
    halves = any(np.dtype(site.format.dtype).itemsize == 2 for site in sites)
    if not halves and _keep_bits(slicer, numerics, sites, inputs, golden):
        return ()
    return tuple(site for site in sites if not _keep_bits(slicer, numerics, [site], inputs, golden))


def _keep_bits(
    slicer: Slicer, numerics: Numerics, sites: Sequence[NeuronSite], inputs: NDArray[Any], golden: Scores
) -> bool:
    """Whether all scores stay golden with flip nodes without a fault at ``sites``, and with the sites' values as outputs."""
    names = sorted({site.value for site in sites} - {*slicer.inputs, slicer.output})
    fed = {name: array for site in sites for name, array in flips({}, (), site).feeds(site).items()}
    try:
        flipped = open_part(instrument(slicer.model, sites), numerics)
        observed = open_part(slicer.extract(slicer.inputs, [*names, slicer.output]), numerics)
        for number, (batch, count) in enumerate(batches(inputs, numerics.batch_size)):
            feeds = {slicer.inputs[0]: batch}
            expected = golden[number * numerics.batch_size :][:count]
            for part, more in ((flipped, fed), (observed, {})):
                (scores,) = part.values([slicer.output], feeds | more)
                if not (flat(scores)[:count] == expected).all():
                    return False
    except ModelError:  # a value of a type that arrays cannot hold
        return False
    return True


@dataclass(eq=False)
class Observer:
    """Collects the neurons of faults that name their input, and returns their bits in the golden run."""

    slicer: Slicer
    numerics: Numerics
    output: str
    _values: dict[str, int] = field(default_factory=dict)
    _wanted: list[tuple[int, int, int]] = field(default_factory=list)

    def want(self, receipts: Iterable[NeuronReceipt]) -> None:
        """Add the neurons of some receipts; `bits` returns their bits in the same order."""
        for receipt in receipts:
            if receipt.fault.input is not None:
                value = self._values.setdefault(receipt.site.value, len(self._values))
                self._wanted.append((value, receipt.fault.input, receipt.element))

    def bits(self, pieces: Iterable[NDArray[np.generic]], golden: Scores) -> list[int]:
        """Return the bits of the neurons, from one more run over the inputs (in ``pieces``, in order).

        Raises ControlFailedError if that run has other scores than ``golden``.
        """
        if not self._wanted:
            return []
        wanted = np.array(self._wanted, np.int64).reshape(-1, 3)
        neuron_bits = np.zeros(len(wanted), np.uint64)
        order = np.argsort(wanted[:, 1], kind="stable")
        run = batches_of(pieces, self.numerics.batch_size)
        first, part = 0, self._part(self._values)
        for batch, count in run:
            values = self._run(part, batch)
            if not self._keeps(values, count, golden[first : first + count]):
                raise ControlFailedError(
                    "the clean model has other scores when its neurons are read; results would be wrong, none are "
                    "written: use another `batch_size` or `provider`, and please report it"
                )
            low, high = np.searchsorted(wanted[order, 1], [first, first + count])
            self._read(values, wanted, neuron_bits, order[low:high], first)
            first += count
        return [int(bits) for bits in neuron_bits]

    def _part(self, names: Iterable[str]) -> Submodel:
        computed = sorted({*names, self.output} - set(self.slicer.inputs))
        return open_part(self.slicer.extract(self.slicer.inputs, computed), self.numerics)

    def _run(self, part: Submodel, batch: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
        values = {self.slicer.inputs[0]: batch}
        return values | dict(zip(part.outputs, part.run(values), strict=True))

    def _keeps(self, values: dict[str, NDArray[np.generic]], count: int, golden: Scores) -> bool:
        return bool((values[self.output][:count].reshape(count, -1) == golden).all())

    def _read(
        self,
        values: dict[str, NDArray[np.generic]],
        wanted: NDArray[np.int64],
        neuron_bits: NDArray[np.uint64],
        rows: NDArray[np.intp],
        first: int,
    ) -> None:
        """Fill ``rows`` of ``neuron_bits`` from the ``values`` of the batch that begins at input ``first``."""
        for name, number in self._values.items():
            value_rows = rows[wanted[rows, 0] == number]
            if len(value_rows):
                bits = to_bits(np.ascontiguousarray(values[name])).reshape(len(values[name]), -1)
                neuron_bits[value_rows] = bits[wanted[value_rows, 1] - first, wanted[value_rows, 2]]


def batches_of(pieces: Iterable[NDArray[np.generic]], size: int) -> Iterator[tuple[NDArray[np.generic], int]]:
    """Yield the batches of inputs that come in ``pieces``, each with its number of inputs; the rest is padding."""
    for piece in pieces:
        yield from batches(piece, size)
