"""Rules for where a model may be cut under given numerics, argued from its operators; probes check them as well."""

from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from bitswap_onnx.graph.places import is_known, unsettled
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.runtime.place_check import between_rows, keeps_rows, structure, transposition
from bitswap_onnx.runtime.session import Numerics

#: Operators that fusion ``deployed`` folds into the layer before; blocked kernels fold the first one.
_FOLDED = ("BatchNormalization", "Mul", "Add", "Sub", "Div")


@dataclass(frozen=True, eq=False)
class CutRules:
    """The rules for the model of ``slicer`` under ``numerics``."""

    slicer: Slicer
    numerics: Numerics
    _kept: dict[Hashable, bool] = field(default_factory=dict, init=False)

    def parts_fold(self, starts: Iterable[int]) -> bool:
        """Whether a part that starts with these nodes may round a parameter otherwise than the whole model.

        Blocked kernels replace a batch norm whose input is blocked by a convolution, and round its parameters at loading.
        Fusion ``deployed`` folds a batch norm, or another operator that scales or shifts channels, into the layer before.
        Only some parameters show the difference, so no probe is sure to find it.
        """
        numerics = self.numerics
        folded = _FOLDED if numerics.fusion == "deployed" else _FOLDED[:1] if numerics.layout == "blocked" else ()
        nodes = (self.slicer.nodes[start] for start in starts)
        return any(node.op_type in folded and not self.slicer.constants.isdisjoint(node.input) for node in nodes)

    def may_cut(self, cuts: Collection[str], outputs: Collection[str] = ()) -> bool:
        """Whether the part between the values ``cuts`` and ``outputs`` (default: the scores) may run on its own.

        The table of operators must have all nodes behind them. A cut may not separate nodes that are folded (`parts_fold`)
        or summed in one kernel (`parts_sum`), or a transposition from its readers: the runtime moves it past them, and they
        then add in another order, which values of 0 do not show. Under `apart` it may: a flip node stands at such a value.
        On the CPU a cut value may not have half precision: kernels compute in single precision and round only some values
        between nodes, but a cut rounds each.
        """
        inner = [cut for cut in cuts if cut not in self.slicer.inputs]
        if self.numerics.provider == "cpu" and any(self._is_half(cut) for cut in inner):
            return False
        behind = self.slicer.between(cuts, outputs or (self.slicer.output,))
        if self.parts_fold(self._first_readers(inner, behind)) or any(map(self.parts_sum, inner)):
            return False
        if not self.numerics.apart and any(transposition(self.slicer, cut) for cut in inner):
            return False
        return all(is_known(self.slicer.nodes[i]) for i in behind)

    def rows_may_move(self, cuts: Collection[str], outputs: Collection[str] = ()) -> bool:
        """Whether rows of the part between ``cuts`` and ``outputs`` keep their bits at any place; includes `may_cut`."""
        behind = self.slicer.between(cuts, outputs or (self.slicer.output,))
        return self.may_cut(cuts, outputs) and all(map(self._keeps_rows, unsettled(self.slicer, behind)))

    def parts_sum(self, cut: str) -> bool:
        """Whether the convolution that makes a value may also compute the sum that reads it, so that no cut lies between.

        Blocked kernels and fusion ``deployed`` do so for a sum that is the only reader of a convolution or of its batch
        norm. Where both operands are such values the runtime chooses one; a part that lacks it would take the other, and
        the order of additions would differ.
        """
        if self.numerics.layout == "plain" and self.numerics.fusion == "framework":
            return False
        nodes, maker, readers = self.slicer.nodes, self.slicer.producer.get(cut), self.slicer.readers.get(cut, ())
        summed = len(readers) == 1 and nodes[readers[0]].op_type in ("Add", "Sum")
        return summed and maker is not None and nodes[maker].op_type in ("Conv", "BatchNormalization")

    def _keeps_rows(self, index: int) -> bool:
        """Return `keeps_rows`, which is tried once for all nodes that compute alike."""
        if index not in self._kept:
            nodes = between_rows(self.slicer, index)
            alike = structure(self.slicer, nodes)
            if alike not in self._kept:
                self._kept[alike] = keeps_rows(self.slicer, self.numerics, nodes)
            self._kept[index] = self._kept[alike]
        return self._kept[index]

    def _first_readers(self, cuts: Collection[str], behind: Collection[int]) -> Iterator[int]:
        """Yield the nodes ``behind`` some cuts that read one of them."""
        return (reader for cut in cuts for reader in self.slicer.readers.get(cut, ()) if reader in behind)

    def _is_half(self, name: str) -> bool:
        dtype = self.slicer.dtype(name)
        return dtype.itemsize == 2 and dtype.kind in "fV"  # numpy has no kind for bfloat16
