"""What neurons are in the golden run: the clean side of their receipts, and how large they get."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.dataset import batches
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


def shut_sites(
    slicer: Slicer, numerics: Numerics, sites: Sequence[NeuronSite], inputs: NDArray[Any]
) -> tuple[NeuronSite, ...]:
    """Return those of ``sites`` at which a flip node without a fault, or a look at the value, changes scores.

    ``slicer`` has the model at the opset of flip nodes. All sites are tried together first, then one by one; at half
    precision one by one alone, since where the runtime rounds depends on what stands beside a node.
    """
    golden = open_session(slicer.model, numerics, slicer.output).run(inputs)
    halves = any(np.dtype(site.format.dtype).itemsize == 2 for site in sites)
    if not halves and _keep_bits(slicer, numerics, sites, inputs, golden):
        return ()
    return tuple(site for site in sites if not _keep_bits(slicer, numerics, [site], inputs, golden))


def _keep_bits(
    slicer: Slicer, numerics: Numerics, sites: Sequence[NeuronSite], inputs: NDArray[Any], golden: Scores
) -> bool:
    """Whether flip nodes without a fault at some sites, and then their values taken out, leave all scores golden."""
    names = sorted({site.value for site in sites} - {*slicer.inputs, slicer.output})
    fed = {name: array for site in sites for name, array in flips({}, (), site).feeds(site).items()}
    try:
        flipped = open_part(instrument(slicer.model, sites), numerics)
        looked_at = open_part(slicer.extract(slicer.inputs, [*names, slicer.output]), numerics)
        for number, (batch, count) in enumerate(batches(inputs, numerics.batch_size)):
            feeds = {slicer.inputs[0]: batch}
            expected = golden[number * numerics.batch_size :][:count]
            for part, more in ((flipped, fed), (looked_at, {})):
                (scores,) = part.values([slicer.output], feeds | more)
                if not (flat(scores)[:count] == expected).all():
                    return False
    except ModelError:  # a value of a type that arrays cannot hold
        return False
    return True


@dataclass(eq=False)
class Observer:
    """Collects the neurons of a list, looks at those of faults that name their input, and hands their bits back."""

    slicer: Slicer
    numerics: Numerics
    output: str
    _values: dict[str, int] = field(default_factory=dict)
    _wanted: list[tuple[int, int, int]] = field(default_factory=list)

    def want(self, receipts: Iterable[NeuronReceipt]) -> None:
        """Note the neurons of some receipts; `bits` gives them in the same order."""
        for receipt in receipts:
            if receipt.fault.input is not None:
                value = self._values.setdefault(receipt.site.value, len(self._values))
                self._wanted.append((value, receipt.fault.input, receipt.element))

    def bits(self, pieces: Iterable[NDArray[np.generic]], golden: Scores) -> list[int]:
        """Return the bits of the neurons, looked at while the inputs (in ``pieces``, in order) run once more.

        Raises ControlFailedError if the scores are others when the neurons are looked at.
        """
        if not self._wanted:
            return []
        wanted = np.array(self._wanted, np.int64).reshape(-1, 3)
        found = np.zeros(len(wanted), np.uint64)
        order = np.argsort(wanted[:, 1], kind="stable")
        run = batches_of(pieces, self.numerics.batch_size)
        first, part = 0, self._part(self._values)
        for batch, count in run:
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

    def _part(self, names: Iterable[str]) -> Submodel:
        made = sorted({*names, self.output} - set(self.slicer.inputs))
        return open_part(self.slicer.extract(self.slicer.inputs, made), self.numerics)

    def _run(self, part: Submodel, batch: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
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
