"""Fault + targets → receipt: the exact tensor, element, old and new bits, or an error that says what would fit."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from bitswap_onnx.errors import FaultListError, nearest
from bitswap_onnx.faults.bits import FORMATS, BitFormat, Bits, decode, edit_one, encode, parse_pattern, to_bits
from bitswap_onnx.faults.fault import BIT_KINDS, SATISFIABLE_KINDS, Fault, Injection, Kind
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.targets import Target, find_targets

BitOrder = Literal["lsb", "msb"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one fault changes: ``clean_bits`` and ``faulty_bits`` are the stored element's bits without and with it.

    ``element`` is the flat position (row-major) in the tensor. ``bit`` counts from the least significant bit, whatever
    order the list used, and is None for mask and set faults.
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
class ResolvedInjection:
    """An injection with its receipts, one per fault, in the list's order."""

    id: str
    receipts: tuple[Receipt, ...]

    @property
    def path(self) -> tuple[str, ...]:
        """The faulty path: the tensors it touches, sorted."""
        return tuple(sorted({receipt.target.tensor for receipt in self.receipts}))

    @property
    def edits(self) -> dict[str, list[tuple[int, int]]]:
        """What to rewrite: tensor key → (flat element, XOR mask) pairs."""
        edits: dict[str, list[tuple[int, int]]] = {}
        for receipt in self.receipts:
            edits.setdefault(receipt.target.tensor, []).append((receipt.element, receipt.mask))
        return edits

    @property
    def changes(self) -> bool:
        """Whether any bit changes; if none does, every input is masked by definition."""
        return any(receipt.mask for receipt in self.receipts)


class Resolver:
    """Finds what faults hit in one model; keeps its targets and the tensors that were read."""

    def __init__(self, model: Model, bit_order: BitOrder = "lsb") -> None:
        self.model = model
        self.bit_order = bit_order
        self._bits: dict[str, Bits] = {}
        self._addresses: dict[str, tuple[str, str]] = {}

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """All targets of the model, in graph order."""
        return find_targets(self.model)

    @cached_property
    def _by_layer(self) -> dict[str, list[tuple[str, Target]]]:
        """Layer name → (parameter name, target); a tensor's own key is a layer name of last resort."""
        table: dict[str, list[tuple[str, Target]]] = {}
        for target in self.targets:
            for layer, parameter in target.names:
                table.setdefault(layer, []).append((parameter, target))
        for target in self.targets:
            table.setdefault(target.tensor, [(target.parameter, target)])
        return table

    def resolve(self, injection: Injection) -> ResolvedInjection:
        """Return the injection's receipts.

        Raises FaultListError, with the list's line, for an unknown layer (naming the nearest), an ambiguous one, an
        index outside the shape, a bit outside the dtype, a flip or mask without effect, and two faults on one bit.
        """
        receipts = tuple(self._receipt(fault) for fault in injection.faults)
        taken: dict[tuple[str, int], int] = {}
        for receipt in receipts:
            place, bits = (receipt.target.tensor, receipt.element), _claimed_bits(receipt)
            if taken.get(place, 0) & bits:
                raise _error(receipt.fault, f"injection {injection.id} has two faults on one bit ({receipt.fault})")
            taken[place] = taken.get(place, 0) | bits
        return ResolvedInjection(injection.id, receipts)

    def find(self, fault: Fault) -> Target:
        """Return the target that a fault names by layer and parameter; raises FaultListError as `resolve` does."""
        named = self._by_layer.get(fault.layer)
        if named is None:
            raise _error(
                fault, f"unknown layer {fault.layer!r}; the nearest are {nearest(fault.layer, self._by_layer)}"
            )
        wanted = fault.parameter or "weight"
        matches = {t.tensor: t for _, t in named if t.role == wanted}
        if not matches:
            own = fault.parameter is None  # a tensor named by its own key needs no parameter
            matches = {t.tensor: t for p, t in named if (t.tensor == fault.layer if own else p == wanted)}
        if not matches:
            has = ", ".join(f"{t.role} ({p})" if p != t.role else p for p, t in named)
            raise _error(fault, f"layer {fault.layer!r} has no {wanted}, it has {has}; name one in column Parameter")
        if len(matches) > 1:
            tensors = ", ".join(matches)
            raise _error(
                fault, f"{fault.layer!r} {wanted} is ambiguous: it could be {tensors}; use one of these as Layer"
            )
        return next(iter(matches.values()))

    def address(self, target: Target) -> tuple[str, str]:
        """Return the (layer, parameter) under which a list finds ``target`` again: by its role if that is unique."""
        if target.tensor not in self._addresses:
            choices = ((target.layer, target.role), (target.layer, target.parameter), (target.tensor, target.parameter))
            self._addresses[target.tensor] = next(
                (choice for choice in choices if self._leads_to(choice, target)), choices[-1]
            )
        return self._addresses[target.tensor]

    def _leads_to(self, address: tuple[str, str], target: Target) -> bool:
        try:
            return self.find(Fault(address[0], (), parameter=address[1])) is target
        except FaultListError:
            return False

    def _receipt(self, fault: Fault) -> Receipt:
        target = self.find(fault)
        element = _flat_index(fault, target)
        clean = int(self._tensor_bits(target.tensor)[element])
        bit = self._bit(fault, target)
        faulty = edit_one(clean, fault.kind, _operand(fault, bit, target), FORMATS[target.dtype])
        if faulty == clean and fault.kind not in SATISFIABLE_KINDS:
            raise _error(fault, f"the fault changes nothing ({fault})")
        return Receipt(fault, target, element, bit, clean, faulty)

    def _bit(self, fault: Fault, target: Target) -> int | None:
        if fault.kind not in BIT_KINDS:
            return None
        width = FORMATS[target.dtype].width
        if fault.bit is None or not 0 <= fault.bit < width:
            name = f"{target.layer}.{target.parameter}"
            raise _error(fault, f"bit {fault.bit} is outside {target.dtype} (0-{width - 1}) for {name}")
        return width - 1 - fault.bit if self.bit_order == "msb" else fault.bit

    def _tensor_bits(self, key: str) -> Bits:
        if key not in self._bits:
            self._bits[key] = to_bits(self.model.tensor(key)).reshape(-1)
        return self._bits[key]


def resolve(model: Model, injections: Iterable[Injection], bit_order: BitOrder = "lsb") -> Iterator[ResolvedInjection]:
    """Yield the receipts of every injection in ``model``; errors as `Resolver.resolve`.

    ``bit_order`` says how the list counts bits: ``lsb`` (bit 0 is the least significant) or ``msb`` (bit 0 is the sign).
    """
    resolver = Resolver(model, bit_order)
    return map(resolver.resolve, injections)


def _operand(fault: Fault, bit: int | None, target: Target) -> int:
    """Return what `bitswap_onnx.faults.bits.edit` takes for this fault: a bit number, a mask or a pattern."""
    if bit is not None:
        return bit
    fmt = FORMATS[target.dtype]
    try:
        if fault.kind is Kind.MASK and parse_pattern(fault.value or "") is None:
            raise FaultListError(f"a mask is written like 0x80000001, found {fault.value!r}")
        return encode(fault.value or "", fmt)
    except FaultListError as error:
        raise _error(fault, f"{error} for {target.layer}.{target.parameter}") from None


def _claimed_bits(receipt: Receipt) -> int:
    match receipt.fault.kind:
        case Kind.SET:
            return (1 << receipt.format.width) - 1
        case Kind.MASK:
            return receipt.mask
        case _:
            assert receipt.bit is not None
            return 1 << receipt.bit


def _flat_index(fault: Fault, target: Target) -> int:
    inside = len(fault.index) == len(target.shape) and all(
        0 <= i < n for i, n in zip(fault.index, target.shape, strict=True)
    )
    if not inside:
        name = f"{target.layer}.{target.parameter}"
        raise _error(fault, f"index {fault.index} is outside {name}, whose shape is {target.shape}")
    return int(np.ravel_multi_index(fault.index, target.shape)) if target.shape else 0


def _error(fault: Fault, message: str) -> FaultListError:
    return FaultListError(f"{fault.where}: {message}" if fault.where else message)
