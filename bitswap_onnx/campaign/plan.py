"""A fault list as a campaign runs it: every row resolved before anything is written, neurons looked at."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitswap_onnx.campaign.adaptive_list import Addition
from bitswap_onnx.campaign.reach import shut_in
from bitswap_onnx.campaign.schedule import join_paths
from bitswap_onnx.campaign.setup import Settings, Setup, for_neurons, prepare
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.faults.fault_list import FaultList, has_neurons, read_fault_list
from bitswap_onnx.faults.fault_list import list_fingerprint as list_fingerprint
from bitswap_onnx.graph.receipts import ResolvedInjection
from bitswap_onnx.graph.resolve import BitOrder, Resolver
from bitswap_onnx.graph.sites import NeuronSite, output_key
from bitswap_onnx.outcome import Golden
from bitswap_onnx.runtime.observe import Observer
from bitswap_onnx.sampling.design import ListDesign, design_path, read_design
from bitswap_onnx.sampling.input_blocks import InputSample, PerInjection, sample_inputs


class CheckedList:
    """A fault list of a model that is ready to run: resolved once to check it, and once more for the store.

    ``sample`` says which inputs each injection runs over; ``design``, once it is checked, how the list was drawn, if that
    lies beside it.
    """

    def __init__(self, injections: Iterable[Injection], setup: Setup, bit_order: BitOrder, sample: InputSample) -> None:
        self.injections = injections
        self.setup = setup
        self.sample = sample
        self.resolver = Resolver(setup.model, bit_order, setup.slicer, len(setup.dataset))
        self.observer = Observer(setup.running_slicer, setup.numerics, setup.output)
        self.paths: set[tuple[str, ...]] = set()
        self.fingerprint = ""
        self.design: ListDesign | None = None
        self._design_notes: tuple[str, ...] = ()
        self._cones: dict[str, frozenset[int]] = {}
        self._sites: dict[str, tuple[NeuronSite, str]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided where the user said nothing, and which inputs an injection runs over."""
        return (*self.setup.notes, *self.sample.notes, *self._design_notes)

    def check(self) -> str:
        """Resolve the whole list, so that its last row is known to be right before anything is written; return its hash."""
        for _, digest in list_fingerprint(self._checked()):
            self.fingerprint = digest
        self._reach_sites()
        self._find_design()
        return self.fingerprint

    def _reach_sites(self) -> None:
        """Raise FaultListError for the first neuron that faults cannot get at."""
        if not self._sites:
            return
        shut = shut_in(self.setup, [site for site, _ in self._sites.values()])
        if shut:
            site, where = shut[0], self._sites[shut[0].key][1]
            at = f"{where}: " if where else ""
            raise FaultListError(
                f"{at}the {site.site} of {site.layer} lies inside a fused kernel of ONNX Runtime; a flip node there would "
                f"change the clean scores ({len(shut)} such sites in this list); leave it out or choose another layer"
            )

    def _find_design(self) -> None:
        """Look for the design beside the list, so that the run's estimates weight by it; one that does not fit is said."""
        path = design_path(self.injections.path) if isinstance(self.injections, FaultList) else None
        if path is None or not path.is_file():
            return
        try:
            found = read_design(path)
        except FaultListError as error:
            self._design_notes = (f"{error}; the run does not keep it",)
            return
        stored = {target.tensor: (target.dtype, target.shape) for target in self.resolver.targets}
        why = None
        if found.list_sha256 != self.fingerprint:
            why = "not the design of this list, by its hash"
        elif any(stored.get(region.tensor) != (region.format, region.shape) for region in found.regions):
            why = "drawn from a model that has other parameters"
        elif self.resolver.bit_order != "lsb":
            why = "counts bits from the lowest"
        if why is None:
            self.design = found
        else:
            self._design_notes = (f"{path}: {why}; the run does not keep it",)

    def _checked(self) -> Iterator[Injection]:
        seen: set[str] = set()
        for injection in self.injections:
            if injection.id in seen:
                raise FaultListError(f"injection {injection.id} is given twice; give each its own id")
            seen.add(injection.id)
            resolved = self.resolver.resolve(injection)
            if self.sample.length is not None:
                _refuse_named_inputs(injection)
            self.paths.add(resolved.path)
            self.observer.want(resolved.neurons)
            for receipt in resolved.neurons:
                self._sites.setdefault(receipt.site.key, (receipt.site, receipt.fault.where))
            yield injection
        if not seen:
            raise FaultListError("the fault list has no injections")

    def write(self, store: Store, settings: dict[str, Any], golden: Golden, stop: threading.Event) -> None:
        """Commit settings and list, which is checked, with the bits that its neurons have without a fault."""
        bits = self.observer.bits(self.setup.pieces(stop), golden.scores)
        resolved = self._resolved(bits)
        joined = join_paths(self.paths)
        settings = settings | {"design": self.design and self.design.text}
        store.create(settings, resolved, self.resolver.address, self.sample.block_of, joined)

    def extend(self, store: Store, addition: Addition) -> None:
        """Commit what comes next in a list that grows: faults of stored parameters, which are known to be right."""
        resolved = map(self.resolver.resolve, addition.injections)
        store.extend(addition.settings, resolved, self.resolver.address, self.sample.block_of)

    def _resolved(self, bits: Iterable[int]) -> Iterator[ResolvedInjection]:
        """Resolve the list again, and refuse one that changed since it was checked."""
        fault_hash, seen = "", iter(bits)
        for injection, running_hash in list_fingerprint(self.injections):
            fault_hash = running_hash
            found = self.resolver.resolve(injection)
            bits_of = {r.row: next(seen, None) for r in found.neurons if r.fault.input is not None}
            hidden = self._behind(found)
            neurons = (
                replace(r, hidden=True) if r.row in hidden else replace(r, clean_bits=bits_of.get(r.row))
                for r in found.neurons
            )
            yield replace(found, neurons=tuple(neurons)) if found.neurons else found
        if fault_hash != self.fingerprint:
            raise FaultListError("the fault list changed while the campaign began; run it again")

    def _behind(self, injection: ResolvedInjection) -> set[int]:
        """Return the rows of the neurons that see another fault of the injection: their golden bits are not what it hits."""
        if len(injection.path) < 2:
            return set()
        keys: dict[int | None, set[str]] = {None: {receipt.target.tensor for receipt in injection.receipts}}
        for receipt in injection.neurons:
            keys.setdefault(receipt.fault.input, set()).add(receipt.site.key)
        return {
            receipt.row
            for receipt in injection.neurons
            if receipt.fault.input is not None
            and any(self._sees(receipt.site, key) for key in keys[None] | keys[receipt.fault.input])
        }

    def _sees(self, site: NeuronSite, key: str) -> bool:
        """Whether what is at a site depends on what a fault at another one, or in a tensor, changes."""
        if key == output_key(site.value):
            return key != site.key
        return self.setup.slicer.producer.get(site.value) in self._changed(key)

    def _changed(self, key: str) -> frozenset[int]:
        """Return the nodes that see a fault in a tensor or at a site."""
        if key not in self._cones:
            slicer = self.setup.slicer
            site = next((site for site in self.resolver.sites if site.key == key), None)
            if site is None:
                starts = slicer.users(key)
            elif key == output_key(site.value):
                starts = slicer.readers.get(site.value, ())
            else:
                starts = (slicer.producer[site.made],)
            self._cones[key] = slicer.cone(starts)
        return self._cones[key]


def _refuse_named_inputs(injection: Injection) -> None:
    """Raise FaultListError for a fault of one input: if its injection ran over others, it would never happen."""
    for fault in injection.faults:
        if fault.input is not None:
            raise FaultListError(
                f"{f'{fault.where}: ' if fault.where else ''}injection {injection.id}: --inputs-per-injection draws the "
                f"inputs of each injection, found a fault that names its own, {fault.input}; leave the option out"
            )


def check_list(
    model: str | Path | Setup,
    faults: str | Path | Iterable[Injection],
    settings: Settings,
    bit_order: BitOrder,
    per_injection: PerInjection,
) -> CheckedList:
    """Read a list and prepare its model, with the numerics that neurons need if it has any.

    Raises ModelError for a model that takes no flip nodes where the list needs them, BitswapError as `sample_inputs`.
    """
    injections = read_fault_list(faults) if isinstance(faults, str | Path) else tuple(faults)
    neurons = has_neurons(injections)
    if not isinstance(model, Setup):
        model = prepare(Path(model), for_neurons(settings) if neurons else settings)
    if neurons and not model.neurons:
        model = replace(model, neurons=True, numerics=replace(model.numerics, apart=True), _clean=[])
    sample = sample_inputs(per_injection, len(model.dataset), model.numerics.batch_size, model.seed)
    return CheckedList(injections, model, bit_order, sample)
