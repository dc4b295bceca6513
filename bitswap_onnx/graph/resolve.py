"""Resolve faults: find the exact tensor or neuron that each one hits, and the bits that it changes, as a receipt."""

import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import get_args

import numpy as np

from bitswap_onnx.errors import BitswapError, FaultListError, nearest
from bitswap_onnx.faults.bits import FORMATS, BitFormat, Bits, edit_one, encode, parse_pattern, to_bits
from bitswap_onnx.faults.fault import BIT_KINDS, SATISFIABLE_KINDS, BitOrder, Fault, Injection, Kind
from bitswap_onnx.graph.edits import ALL_INPUTS
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.neurons import bake, operation
from bitswap_onnx.graph.receipts import NeuronReceipt, Receipt, ResolvedInjection
from bitswap_onnx.graph.signature import model_input
from bitswap_onnx.graph.sites import NeuronSite, find_sites
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.targets import Target, find_targets
from bitswap_onnx.graph.weights import rewrite

#: The batch size that shapes are inferred for by default.
_BATCH = 32


class Resolver:
    """Resolves faults in one model; keeps its targets, its sites and the tensors that it has read.

    ``slicer`` gives the shapes of neurons (default: those of the model's declared input). ``inputs`` is the number of
    inputs in the dataset, if it is known. Raises BitswapError for another ``bit_order``.
    """

    def __init__(
        self, model: Model, bit_order: BitOrder = "lsb", slicer: Slicer | None = None, inputs: int | None = None
    ) -> None:
        if bit_order not in get_args(BitOrder):
            raise BitswapError(f"`bit_order`: expected {' or '.join(get_args(BitOrder))}, found {bit_order!r}")
        self.model = model
        self.bit_order = bit_order
        self.inputs = inputs
        self._slicer = slicer
        self._bits: dict[str, Bits] = {}
        self._addresses: dict[str, tuple[str, str]] = {}

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """All targets of the model, in graph order."""
        return find_targets(self.model)

    @cached_property
    def _by_layer(self) -> dict[str, list[tuple[str, Target]]]:
        """Layer name → (parameter name, target) pairs; a tensor's key is a layer name where no layer has that name."""
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
        index outside the shape, a bit outside the dtype, an input outside the dataset, a flip or mask that changes
        nothing, and two faults on one bit.
        """
        receipts: list[Receipt] = []
        neurons: list[NeuronReceipt] = []
        for row, fault in enumerate(injection.faults):
            if fault.site is None:
                receipts.append(self._receipt(fault))
            else:
                neurons.append(self._neuron(fault, row))
        _refuse_overlaps(injection, receipts, neurons)
        return ResolvedInjection(injection.id, tuple(receipts), tuple(neurons))

    @cached_property
    def sites(self) -> tuple[NeuronSite, ...]:
        """All neuron sites of the model, in execution order."""
        slicer = self._slicer
        if slicer is None:
            spec = model_input(self.model)
            slicer = Slicer(self.model, self.model.proto.graph.output[0].name, spec.batch or _BATCH, spec.shape)
        return find_sites(slicer)

    @cached_property
    def _by_site(self) -> dict[tuple[str, str], NeuronSite]:
        return {(site.layer, site.site.value): site for site in self.sites}

    def find_site(self, fault: Fault) -> NeuronSite:
        """Return the site that a fault names; raises FaultListError, with the nearest layers, if there is none."""
        assert fault.site is not None
        site = self._by_site.get((fault.layer, fault.site.value))
        if site is None:
            near = nearest(fault.layer, dict.fromkeys(layer for layer, side in self._by_site if side == fault.site))
            raise _error(
                fault, f"no layer {fault.layer!r} with an {fault.site} that has a row per input; the nearest are {near}"
            )
        return site

    def find(self, fault: Fault) -> Target:
        """Return the target that a fault names by layer and parameter; raises FaultListError as `resolve` does."""
        named = self._by_layer.get(fault.layer)
        if named is None:
            raise _error(
                fault, f"unknown layer {fault.layer!r}; the nearest are {nearest(fault.layer, self._by_layer)}"
            )
        targets = list({target.tensor: target for _, target in named}.values())
        wanted = fault.parameter or "weight"
        matches = [target for target in targets if target.role == wanted]
        if fault.parameter is None:  # a tensor named by its own key needs no parameter
            own = [target for target in targets if target.tensor == fault.layer]
            matches = own if len(matches) != 1 and own else matches
        elif len(matches) != 1:
            exact = {target.tensor: target for parameter, target in named if wanted in (parameter, target.tensor)}
            matches = list(exact.values()) or matches
        if not matches:
            has = ", ".join(f"{t.role} ({p})" if p != t.role else p for p, t in named)
            raise _error(fault, f"layer {fault.layer!r} has no {wanted}, it has {has}; name one in column Parameter")
        if len(matches) > 1:
            raise _error(fault, self._ambiguity(fault.layer, wanted, matches))
        return matches[0]

    def _ambiguity(self, layer: str, wanted: str, matches: list[Target]) -> str:
        """Return the message about several tensors that a fault may mean, with the names that tell them apart."""
        names = [next((p for p, t in self._by_layer[layer] if t is target), target.tensor) for target in matches]
        if len(set(names)) == len(names):
            return f"layer {layer!r} has {len(names)} of {wanted}: {', '.join(names)}; name one in column Parameter"
        tensors = ", ".join(target.tensor for target in matches)
        return f"{layer!r} {wanted} is ambiguous: it could be {tensors}; use one of these as Layer"

    def address(self, target: Target) -> tuple[str, str]:
        """Return the (layer, parameter) by which a list finds ``target`` again: with its role if that is unique.

        ``weight`` as parameter may be left out.
        """
        if target.tensor not in self._addresses:
            own, choices = target.tensor, [(target.layer, target.role), (target.layer, target.parameter)]
            choices += [(own, target.parameter), (target.layer, own)]
            self._addresses[target.tensor] = next(
                (choice for choice in choices if self._leads_to(choice, target)), choices[-1]
            )
        return self._addresses[target.tensor]

    def _leads_to(self, address: tuple[str, str], target: Target) -> bool:
        layer, parameter = address
        try:
            return self.find(Fault(layer, (), parameter=None if parameter == "weight" else parameter)) is target
        except FaultListError:
            return False

    def _receipt(self, fault: Fault) -> Receipt:
        target = self.find(fault)
        element = _flat_index(fault, target)
        clean = int(self._tensor_bits(target.tensor)[element])
        fmt, name = FORMATS[target.dtype], f"{target.layer}.{target.parameter}"
        bit = self._bit(fault, fmt, name)
        faulty = edit_one(clean, fault.kind, _operand(fault, bit, fmt, name), fmt)
        if faulty == clean and fault.kind not in SATISFIABLE_KINDS:
            raise _error(fault, f"the fault changes nothing ({fault})")
        return Receipt(fault, target, element, bit, clean, faulty)

    def _neuron(self, fault: Fault, row: int) -> NeuronReceipt:
        site = self.find_site(fault)
        name = f"the {site.site} of {site.layer}"
        element = site.element(fault.index) if _is_inside(fault.index, site.shape) else None
        if element is None:
            raise _error(fault, f"index {fault.index} is outside {name}, whose shape is {site.shape}")
        if fault.input is not None and not 0 <= fault.input < (self.inputs or sys.maxsize):
            known = "from 0" if self.inputs is None else f"0-{self.inputs - 1}"
            raise _error(fault, f"input {fault.input} is outside the data, whose inputs are {known}")
        bit = self._bit(fault, site.format, name)
        keep, toggle = operation(fault.kind, _operand(fault, bit, site.format, name), site.format)
        if fault.kind is Kind.MASK and not toggle:
            raise _error(fault, f"the fault changes nothing ({fault})")
        return NeuronReceipt(fault, site, row, element, bit, keep, toggle)

    def _bit(self, fault: Fault, fmt: BitFormat, name: str) -> int | None:
        if fault.kind not in BIT_KINDS:
            return None
        width = fmt.width
        if fault.bit is None or not 0 <= fault.bit < width:
            raise _error(fault, f"bit {fault.bit} is outside {fmt.name} (0-{width - 1}) for {name}")
        return width - 1 - fault.bit if self.bit_order == "msb" else fault.bit

    def _tensor_bits(self, key: str) -> Bits:
        if key not in self._bits:
            self._bits[key] = to_bits(self.model.tensor(key)).reshape(-1)
        return self._bits[key]


def resolve(model: Model, injections: Iterable[Injection], bit_order: BitOrder = "lsb") -> Iterator[ResolvedInjection]:
    """Yield the receipts of every injection in ``model``; errors as `Resolver.resolve`.

    ``bit_order`` says how the list counts bits: ``lsb`` (bit 0 is the least significant) or ``msb`` (bit 0 is the sign);
    raises BitswapError for another one.
    """
    resolver = Resolver(model, bit_order)
    return map(resolver.resolve, injections)


def apply(model: Model, injection: ResolvedInjection) -> Model:
    """Return a standalone model that contains an injection: rewritten tensors, and flip nodes for its neurons."""
    edits = injection.edits
    faulty = rewrite(model, edits.weights)
    sites = {receipt.site.key: receipt.site for receipt in injection.neurons}
    return bake(faulty, edits.neurons, sites) if edits.neurons else faulty


def _operand(fault: Fault, bit: int | None, fmt: BitFormat, name: str) -> int:
    """Return what `bitswap_onnx.faults.bits.edit` takes for this fault: a bit number, a mask or a pattern."""
    if bit is not None:
        return bit
    try:
        if fault.kind is Kind.MASK and parse_pattern(fault.value or "") is None:
            raise FaultListError(f"a mask is written like 0x80000001, found {fault.value!r}")
        return encode(fault.value or "", fmt)
    except FaultListError as error:
        raise _error(fault, f"{error} for {name}") from None


def _refuse_overlaps(injection: Injection, receipts: list[Receipt], neurons: list[NeuronReceipt]) -> None:
    """Raise FaultListError for two faults on one bit; a neuron fault of all inputs overlaps those of single inputs."""
    claims = [(r.target.tensor, r.element, ALL_INPUTS, _claimed_bits(r), r.fault) for r in receipts]
    claims += [(n.site.key, n.element, n.edit.input, _claimed_bits(n), n.fault) for n in neurons]
    taken: dict[tuple[str, int, int], int] = {}
    by_some_input: dict[tuple[str, int], int] = {}
    for key, element, number, bits, fault in claims:
        before = taken.get((key, element, ALL_INPUTS), 0) | taken.get((key, element, number), 0)
        if number == ALL_INPUTS:
            before |= by_some_input.get((key, element), 0)
        else:
            by_some_input[key, element] = by_some_input.get((key, element), 0) | bits
        if before & bits:
            raise _error(fault, f"injection {injection.id} has two faults on one bit ({fault})")
        taken[key, element, number] = taken.get((key, element, number), 0) | bits


def _claimed_bits(receipt: Receipt | NeuronReceipt) -> int:
    match receipt.fault.kind:
        case Kind.SET:
            return (1 << receipt.format.width) - 1
        case Kind.MASK:
            return receipt.mask if isinstance(receipt, Receipt) else receipt.toggle
        case _:
            assert receipt.bit is not None
            return 1 << receipt.bit


def _flat_index(fault: Fault, target: Target) -> int:
    if not _is_inside(fault.index, target.shape):
        name = f"{target.layer}.{target.parameter}"
        raise _error(fault, f"index {fault.index} is outside {name}, whose shape is {target.shape}")
    return int(np.ravel_multi_index(fault.index, target.shape)) if target.shape else 0


def _is_inside(index: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(index) == len(shape) and all(0 <= i < n for i, n in zip(index, shape, strict=True))


def _error(fault: Fault, message: str) -> FaultListError:
    return FaultListError(f"{fault.where}: {message}" if fault.where else message)
