"""Receipts: the exact tensor or neuron that a fault hits, and the bits that it changes."""

from collections.abc import Iterator
from dataclasses import dataclass

from bitswap_onnx.faults.bits import FORMATS, BitFormat, decode
from bitswap_onnx.faults.fault import Fault
from bitswap_onnx.graph.edits import ALL_INPUTS, InjectionEdits, NeuronEdit, WeightEdit
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.graph.targets import Target


@dataclass(frozen=True, slots=True)
class Receipt:
    """The change that one fault makes in a stored tensor: the element's ``clean_bits`` become ``faulty_bits``.

    ``element`` is the flat position (row-major) in the tensor. ``bit`` counts from the least significant bit, whatever
    the list's bit order; it is None for mask and set faults.
    """

    fault: Fault
    target: Target
    element: int
    bit: int | None
    clean_bits: int
    faulty_bits: int

    @property
    def format(self) -> BitFormat:
        """The element's format."""
        return FORMATS[self.target.dtype]

    @property
    def mask(self) -> int:
        """The bits that change."""
        return self.clean_bits ^ self.faulty_bits

    @property
    def clean_value(self) -> float | int:
        """The element's value without the fault."""
        return decode(self.clean_bits, self.format)

    @property
    def faulty_value(self) -> float | int:
        """The element's value with this fault alone."""
        return decode(self.faulty_bits, self.format)

    @property
    def effect(self) -> str:
        """``none``, ``changed``, or ``changed in NODE;NODE`` for a tensor that several nodes use."""
        if not self.mask:
            return "none"
        users = self.target.users
        return "changed" if len(users) == 1 else f"changed in {';'.join(users)}"


@dataclass(frozen=True, slots=True)
class NeuronReceipt:
    """The change that one fault makes in a neuron: its bits become (bits & ``keep``) ^ ``toggle``.

    ``element`` is the flat position in a row of the site's value, ``row`` the fault's position in its injection.
    ``clean_bits`` are the neuron's bits in the golden run, if the fault is of one input and the neuron has been
    observed there. They are None for a fault of all inputs, and for a ``hidden`` neuron: one that lies behind other
    faults of the injection, so that its bits before this fault are not the golden ones.
    """

    fault: Fault
    site: NeuronSite
    row: int
    element: int
    bit: int | None
    keep: int
    toggle: int
    clean_bits: int | None = None
    hidden: bool = False

    @property
    def format(self) -> BitFormat:
        """The neuron's format."""
        return self.site.format

    @property
    def faulty_bits(self) -> int | None:
        """The neuron's bits with the fault, None if the clean bits are not known."""
        return None if self.clean_bits is None else (self.clean_bits & self.keep) ^ self.toggle

    @property
    def edit(self) -> NeuronEdit:
        """The fault as engines take it."""
        number = ALL_INPUTS if self.fault.input is None else self.fault.input
        return NeuronEdit(number, self.element, self.keep, self.toggle)

    @property
    def effect(self) -> str:
        """``none``, ``changed``, ``per input`` (it differs by input), or ``behind other faults`` (a hidden neuron)."""
        if self.hidden:
            return "behind other faults"
        if self.clean_bits is None:
            return "per input"
        return "none" if self.clean_bits == self.faulty_bits else "changed"


@dataclass(frozen=True, slots=True)
class ResolvedInjection:
    """An injection with one receipt per fault: ``receipts`` of stored parameters, and those of ``neurons``."""

    id: str
    receipts: tuple[Receipt, ...]
    neurons: tuple[NeuronReceipt, ...] = ()

    @property
    def rows(self) -> Iterator[Receipt | NeuronReceipt]:
        """All receipts, in the list's order."""
        neurons = {receipt.row: receipt for receipt in self.neurons}
        stored = iter(self.receipts)
        return (neurons.get(row) or next(stored) for row in range(len(neurons) + len(self.receipts)))

    @property
    def path(self) -> tuple[str, ...]:
        """The faulty path: the tensors and sites it touches, sorted."""
        return tuple(sorted({r.target.tensor for r in self.receipts} | {r.site.key for r in self.neurons}))

    @property
    def edits(self) -> InjectionEdits:
        """The changes of stored tensors and of neurons."""
        weights: dict[str, list[WeightEdit]] = {}
        neurons: dict[str, list[NeuronEdit]] = {}
        for receipt in self.receipts:
            weights.setdefault(receipt.target.tensor, []).append(WeightEdit(receipt.element, receipt.mask))
        for neuron in self.neurons:
            neurons.setdefault(neuron.site.key, []).append(neuron.edit)
        return InjectionEdits(weights, neurons)

    @property
    def inputs(self) -> tuple[int, ...] | None:
        """The inputs that the injection runs over, sorted: those that its faults name, or None for all."""
        named = {receipt.fault.input for receipt in self.neurons}
        return (
            None if self.receipts or None in named else tuple(sorted(number for number in named if number is not None))
        )

    @property
    def changes(self) -> bool:
        """Whether any bit can change; if none does, every input is masked by definition."""
        return bool(self.neurons) or any(receipt.mask for receipt in self.receipts)
