"""The plan of a campaign: a fault list that is checked to its last row before anything is written."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from bitswap_onnx.campaign.adaptive_list import Addition
from bitswap_onnx.campaign.dependent_neurons import DependentNeurons
from bitswap_onnx.campaign.reach import find_unreachable
from bitswap_onnx.campaign.schedule import join_paths
from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.campaign.stored_settings import NOT_KEPT
from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.fault import BitOrder, Injection
from bitswap_onnx.faults.fault_list import FaultList, has_neurons, list_fingerprint
from bitswap_onnx.faults.in_memory import given_faults
from bitswap_onnx.graph.coverage import Coverage, coverage_of_tensors
from bitswap_onnx.graph.receipts import ResolvedInjection
from bitswap_onnx.graph.resolve import Resolver
from bitswap_onnx.graph.sites import NeuronSite, is_site
from bitswap_onnx.outcome import Golden
from bitswap_onnx.runtime.observe import Observer
from bitswap_onnx.sampling.design import ListDesign, design_path, read_design
from bitswap_onnx.sampling.input_blocks import InputSample, PerInjection, sample_inputs
from bitswap_onnx.sampling.population import population_coverage


@dataclass(frozen=True, eq=False)
class CheckedList:
    """A fault list whose rows all exist in the model of ``setup``; made by `check_list`.

    ``sample``: the inputs that each injection runs over. ``observer`` reads the golden bits of its neurons. ``fingerprint``:
    the list's hash. ``paths``: the faulty paths of its injections. ``design``: the design file beside the list, None
    if there is none or it does not fit; ``design_notes``: the reason why it does not fit.
    """

    injections: Iterable[Injection]
    setup: Setup
    sample: InputSample
    resolver: Resolver
    observer: Observer
    fingerprint: str
    paths: frozenset[tuple[str, ...]]
    design: ListDesign | None
    design_notes: tuple[str, ...]

    @property
    def coverage(self) -> Coverage | None:
        """How many of the model's stored bits the design's population is; without a design, the tensors that the list hits.

        None for a list of neurons alone.
        """
        if self.design is not None:  # designs of older versions do not state it
            regions, span = self.design.regions, self.design.request.span
            return self.design.coverage or population_coverage(self.setup.model, regions, span)
        tensors = {key for path in self.paths for key in path if not is_site(key)}
        return coverage_of_tensors(self.setup.model, tensors) if tensors else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user: choices that were made automatically, and warnings."""
        return (*self.setup.notes, *self.sample.notes, *self.design_notes)

    def write(self, store: Store, settings: dict[str, Any], golden: Golden, stop: threading.Event) -> None:
        """Commit settings and list, with the golden bits of its neurons."""
        bits = self.observer.bits(self.setup.pieces(stop), golden.scores)
        joined = join_paths(self.paths)
        store.create(settings, self._resolved(bits), self.resolver.address, self.sample.block_of, joined)

    def extend(self, store: Store, addition: Addition) -> None:
        """Commit the injections of the next round, unchecked: the list drew them from the model's own parameters."""
        resolved = map(self.resolver.resolve, addition.injections)
        store.extend(addition.settings, resolved, self.resolver.address, self.sample.block_of)

    def _resolved(self, bits: Iterable[int]) -> Iterator[ResolvedInjection]:
        """Resolve the list again; raises FaultListError if it has changed since it was checked."""
        dependent = DependentNeurons(self.setup.slicer, self.resolver)
        fingerprint, remaining_bits = "", iter(bits)
        for injection, running_hash in list_fingerprint(self.injections):
            fingerprint = running_hash
            resolved = self.resolver.resolve(injection)
            clean_bits = {r.row: next(remaining_bits, None) for r in resolved.neurons if r.fault.input is not None}
            hidden = dependent.rows(resolved)
            neurons = (
                replace(r, hidden=True) if r.row in hidden else replace(r, clean_bits=clean_bits.get(r.row))
                for r in resolved.neurons
            )
            yield replace(resolved, neurons=tuple(neurons)) if resolved.neurons else resolved
        if fingerprint != self.fingerprint:
            raise FaultListError("the fault list changed while the campaign began; run it again")


def check_list(setup: Setup, faults: object, bit_order: BitOrder, per_injection: PerInjection) -> CheckedList:
    """Resolve all of a list (`given_faults`) and return it with the setup that it needs: numerics for neurons if it has any.

    Raises FaultListError for the first row that is wrong, for an empty list and for a neuron that faults cannot hit,
    ModelError for a model that takes no flip nodes where the list needs them, BitswapError as `sample_inputs`.
    """
    injections = given_faults(faults)
    if has_neurons(injections):
        setup = setup.with_neurons()
    sample = sample_inputs(per_injection, len(setup.dataset), setup.batch_size, setup.seed)
    checker = _Checker(setup, sample, Resolver(setup.model, bit_order, setup.slicer, len(setup.dataset)))
    fingerprint = ""
    for _, running_hash in list_fingerprint(checker.checked(injections)):
        fingerprint = running_hash
    _refuse_unreachable(setup, checker.sites)
    design, notes = _find_design(injections, checker.resolver, fingerprint)
    return CheckedList(
        injections,
        setup,
        sample,
        checker.resolver,
        checker.observer,
        fingerprint,
        frozenset(checker.paths),
        design,
        notes,
    )


@dataclass(eq=False)
class _Checker:
    """Checks injections one by one, and collects their faulty paths and neuron sites, each with its place in the list."""

    setup: Setup
    sample: InputSample
    resolver: Resolver
    paths: set[tuple[str, ...]] = field(default_factory=set)
    sites: dict[str, tuple[NeuronSite, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.observer = Observer(self.setup.clean_slicer, self.setup.numerics, self.setup.output)

    def checked(self, injections: Iterable[Injection]) -> Iterator[Injection]:
        """Yield the injections, each of them checked."""
        ids: set[str] = set()
        for injection in injections:
            if injection.id in ids:
                raise FaultListError(f"injection {injection.id} is given twice; give each its own id")
            ids.add(injection.id)
            resolved = self.resolver.resolve(injection)
            if self.sample.length is not None:
                _refuse_named_inputs(injection)
            self.paths.add(resolved.path)
            self.observer.want(resolved.neurons)
            for receipt in resolved.neurons:
                self.sites.setdefault(receipt.site.key, (receipt.site, receipt.fault.where))
            yield injection
        if not ids:
            raise FaultListError("the fault list has no injections")


def _refuse_unreachable(setup: Setup, sites: dict[str, tuple[NeuronSite, str]]) -> None:
    """Raise FaultListError for the first neuron that faults cannot hit."""
    shut = find_unreachable(setup, [site for site, _ in sites.values()]) if sites else ()
    if shut:
        site, where = shut[0], sites[shut[0].key][1]
        at = f"{where}: " if where else ""
        raise FaultListError(
            f"{at}the {site.site} of {site.layer} lies inside a fused kernel of ONNX Runtime; a flip node there would "
            f"change the clean scores ({len(shut)} such sites in this list); leave it out or choose another layer"
        )


def _find_design(
    injections: Iterable[Injection], resolver: Resolver, fingerprint: str
) -> tuple[ListDesign | None, tuple[str, ...]]:
    """Return the design beside a list file, by which estimates weight its injections; or none, and a note that says why."""
    path = design_path(injections.path) if isinstance(injections, FaultList) else None
    if path is None or not path.is_file():
        return None, ()
    try:
        design = read_design(path)
    except FaultListError as error:
        return None, (f"{error}{NOT_KEPT}",)
    stored = {target.tensor: (target.dtype, target.shape) for target in resolver.targets}
    why = None
    if design.list_sha256 != fingerprint:
        why = "not the design of this list, by its hash"
    elif any(stored.get(region.tensor) != (region.format, region.shape) for region in design.regions):
        why = "drawn from a model that has other parameters"
    elif resolver.bit_order != "lsb":
        why = "the design counts bits from the least significant, this run from the sign"
    return (design, ()) if why is None else (None, (f"{path}: {why}{NOT_KEPT}",))


def _refuse_named_inputs(injection: Injection) -> None:
    """Raise FaultListError for a fault of one input, which would never happen if its injection ran over others."""
    for fault in injection.faults:
        if fault.input is not None:
            raise FaultListError(
                f"{f'{fault.where}: ' if fault.where else ''}injection {injection.id}: `inputs_per_injection` draws the "
                f"inputs of each injection, found a fault that names its own, {fault.input}; leave one of them out"
            )
