"""Where a model may be taken apart in some numerics, argued from its operators; probes come on top of it."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from bitswap_onnx.graph.places import is_known, unsettled
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.runtime.place_check import keeps_rows
from bitswap_onnx.runtime.session import Numerics

#: What fusion ``deployed`` folds into the layer before it; blocked kernels do so with the first one.
_FOLDED = ("BatchNormalization", "Mul", "Add", "Sub", "Div")


@dataclass(frozen=True, eq=False)
class CutRules:
    """The rules for one model, as ``slicer`` has it, in ``numerics``."""

    slicer: Slicer
    numerics: Numerics
    _tried: dict[int, bool] = field(default_factory=dict)

    def parts_fold(self, starts: Iterable[int]) -> bool:
        """Whether a part that starts with these nodes may compute a parameter otherwise than the whole model does.

        Blocked kernels make a convolution of a batch norm whose input is blocked, and round its parameters when it is
        loaded. Fusion ``deployed`` folds a batch norm, and what else scales and shifts channels, into the layer before. Such
        a difference shows for some parameters only, so that no probe is sure to find it.
        """
        numerics = self.numerics
        folded = _FOLDED if numerics.fusion == "deployed" else _FOLDED[:1] if numerics.layout == "blocked" else ()
        nodes = (self.slicer.nodes[start] for start in starts)
        return any(node.op_type in folded and not self.slicer.constants.isdisjoint(node.input) for node in nodes)

    def may_cut(self, cuts: Collection[str]) -> bool:
        """Whether the model may be cut at some values: the table of operators has all of the part behind them.

        Nor may a cut part what is folded (`parts_fold`) or summed in one kernel (`parts_sum`), or be at half precision on
        the CPU, which computes in single and rounds where a value is handed on: that is not at each of them.
        """
        inner = [cut for cut in cuts if cut not in self.slicer.inputs]
        if self.numerics.provider == "cpu" and any(self._is_half(cut) for cut in inner):
            return False
        if self.parts_fold(self._first_readers(inner)) or any(map(self.parts_sum, inner)):
            return False
        return all(is_known(self.slicer.nodes[i]) for i in self._behind(cuts))

    def rows_may_move(self, cuts: Collection[str]) -> bool:
        """Whether rows of the part behind ``cuts`` keep their bits in any place of a batch."""
        return self.may_cut(cuts) and all(map(self._keeps_rows, unsettled(self.slicer, self._behind(cuts))))

    def parts_sum(self, cut: str) -> bool:
        """Whether a value may be summed up within the convolution that makes it, so that no cut lies between.

        Blocked kernels and fusion ``deployed`` do so with a sum that alone reads a convolution, or its batch norm. Of two
        such operands they take one, and a part that lacks it takes the other: the order of additions differs.
        """
        if self.numerics.layout == "plain" and self.numerics.fusion == "framework":
            return False
        nodes, maker, readers = self.slicer.nodes, self.slicer.producer.get(cut), self.slicer.readers.get(cut, ())
        summed = len(readers) == 1 and nodes[readers[0]].op_type in ("Add", "Sum")
        return summed and maker is not None and nodes[maker].op_type in ("Conv", "BatchNormalization")

    def _keeps_rows(self, index: int) -> bool:
        if index not in self._tried:
            self._tried[index] = keeps_rows(self.slicer, self.numerics, index)
        return self._tried[index]

    def _behind(self, cuts: Collection[str]) -> set[int]:
        return self.slicer.between(cuts, (self.slicer.output,))

    def _first_readers(self, cuts: Collection[str]) -> Iterator[int]:
        """Yield the nodes of the part behind ``cuts`` that read one of them."""
        behind = self._behind(cuts)
        return (reader for cut in cuts for reader in self.slicer.readers.get(cut, ()) if reader in behind)

    def _is_half(self, name: str) -> bool:
        dtype = self.slicer.dtype(name)
        return dtype.itemsize == 2 and dtype.kind in "fV"  # numpy has no kind for bfloat16
