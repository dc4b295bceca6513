"""Random bit errors: which bits flip, independently of each other, at each of several rates, in each of several repeats.

In one repeat every bit of the population has one threshold, uniform on (0, 1), and flips at every rate above it. So the
flips at one rate include the flips at every lower rate, which makes rates comparable, and the number of flips among B
bits at rate r is Binomial(B, r). Only the flips at the highest rate are drawn: their number, their positions (distinct,
chosen uniformly) and their thresholds as fractions of that rate. Time and memory grow with the flips, not with the
bits.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.reach import leave_out_unreachable
from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.errors import BitswapError, ModelError
from bitswap_onnx.experiments.sweep.rates import check_rates
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.faults.fault import Fault, Injection, Site
from bitswap_onnx.graph.resolve import Resolver
from bitswap_onnx.graph.site_choice import select_sites
from bitswap_onnx.graph.sites import NeuronSite, find_sites
from bitswap_onnx.graph.targets import select_targets

#: Most faults of one campaign of drawn faults. Each is a row in the store and some 200 bytes of memory.
MAX_FAULTS = 20_000_000

SweepSite = Literal["weights", "neurons", "both"]


@dataclass(frozen=True, slots=True)
class BitRegion:
    """Bits that errors can hit: elements of ``width`` bits in ``shape``, of a stored parameter or of a layer's neurons.

    ``site`` None: the stored ``parameter`` of ``layer``. Otherwise the neurons at that site, whose bits count once for
    each of ``inputs`` inputs of the dataset. Bits are numbered by input, then element (row-major), then bit (least
    significant first).
    """

    layer: str
    shape: tuple[int, ...]
    width: int
    parameter: str | None = None
    site: Site | None = None
    inputs: int = 1

    @property
    def bits(self) -> int:
        """Number of bits."""
        return self.inputs * math.prod(self.shape) * self.width

    def faults(self, positions: NDArray[np.int64]) -> list[Fault]:
        """Return the flips of the bits at ``positions`` (flips,), each at least 0 and below `bits`."""
        elements, bits = np.divmod(positions, self.width)
        inputs, elements = np.divmod(elements, math.prod(self.shape))
        axes = [axis.tolist() for axis in np.unravel_index(elements, self.shape)] if self.shape else []
        indices = list(zip(*axes, strict=True)) if axes else [()] * len(positions)
        return [
            Fault(
                self.layer,
                index,
                bit,
                parameter=self.parameter,
                site=self.site,
                input=None if self.site is None else number,
            )
            for index, bit, number in zip(indices, bits.tolist(), inputs.tolist(), strict=True)
        ]


@dataclass(frozen=True, eq=False)
class BitErrors:
    """The bits that flip in one repeat at the highest rate: distinct ``positions`` (flips,), ascending.

    ``thresholds`` (flips,): each bit flips at rates above its threshold, a fraction in [0, 1) of the highest rate.
    """

    positions: NDArray[np.int64]
    thresholds: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One repeat at one rate: the number of flips, and the id of the injection that makes them (empty for no flips)."""

    rate: float
    repeat: int
    flips: int
    injection: str


@dataclass(frozen=True)
class SweepPlan:
    """The points of a sweep of ``bits`` bits, by rate and then repeat; points with the same flips share an injection."""

    bits: int
    points: tuple[SweepPoint, ...]
    injections: tuple[Injection, ...]

    @property
    def description(self) -> str:
        """One line for people: what is about to run."""
        flipped = sum(point.flips > 0 for point in self.points)
        faults = sum(len(injection.faults) for injection in self.injections)
        return (
            f"bit errors among {self.bits:,} bits: {flipped} of {len(self.points)} points have flips; "
            f"{len(self.injections)} injections, {faults:,} flips in all"
        )


#: Finds the regions of a setup's model that match a pattern; all regions for None.
RegionFinder = Callable[[Setup, str | None], list[BitRegion]]


def find_regions(
    setup: Setup, layers: str | None, site: SweepSite, exclude: str | None = None
) -> tuple[Setup, tuple[BitRegion, ...]]:
    """Return the bits that errors can hit: of stored parameters, of the outputs of layers with kernels, or of both.

    Neurons that faults cannot reach are left out, and a note of the returned setup names their layers
    (`bitswap_onnx.campaign.reach`). Raises ModelError for a pattern that matches nothing.
    """
    setup, neurons = _open_neurons(setup, exclude) if site != "weights" else (setup, ())
    hit: RegionFinder = partial(_named_neurons, neurons=neurons)
    finders: dict[SweepSite, tuple[RegionFinder, ...]] = {
        "weights": (_stored,),
        "neurons": (hit,),
        "both": (_stored, hit),
    }
    chosen: dict[BitRegion, None] = {}
    for pattern in layers.split(",") if layers is not None else [None]:
        refused: list[ModelError] = []
        for find in finders[site]:
            try:
                chosen |= dict.fromkeys(find(setup, pattern))
            except ModelError as error:
                refused.append(error)
        if len(refused) == len(finders[site]):
            raise refused[0]
    left_out = frozenset(_stored(setup, exclude)) if exclude and site != "neurons" else frozenset()
    return setup, tuple(region for region in chosen if region not in left_out)


def _stored(setup: Setup, pattern: str | None) -> list[BitRegion]:
    resolver = Resolver(setup.model)
    chosen = {target.tensor for target in select_targets(setup.model, pattern)}
    regions = []
    for target in resolver.targets:
        if target.tensor in chosen:
            layer, parameter = resolver.address(target)
            regions.append(BitRegion(layer, target.shape, FORMATS[target.dtype].width, parameter))
    return regions


def _open_neurons(setup: Setup, exclude: str | None) -> tuple[Setup, tuple[NeuronSite, ...]]:
    """Return the outputs of layers with kernels that faults can reach."""
    kernels = [entry for entry in find_sites(setup.slicer) if entry.role == "kernel" and entry.site is Site.OUTPUT]
    chosen = select_sites(kernels, exclude=exclude)
    return leave_out_unreachable(setup, chosen) if chosen else (setup, ())


def _named_neurons(setup: Setup, pattern: str | None, neurons: Sequence[NeuronSite]) -> list[BitRegion]:
    inputs = len(setup.dataset)
    return [
        BitRegion(entry.layer, entry.shape, entry.format.width, site=entry.site, inputs=inputs)
        for entry in select_sites(neurons, pattern)
    ]


def draw_errors(bits: int, rate: float, seed: np.random.SeedSequence) -> BitErrors:
    """Draw which of ``bits`` bits flip at ``rate``, the highest rate, and their thresholds."""
    rng = np.random.default_rng(seed)
    flips = int(rng.binomial(bits, rate))
    positions = np.sort(rng.choice(bits, flips, replace=False, shuffle=False))
    return BitErrors(positions, rng.random(flips))


def faults_at(regions: Sequence[BitRegion], positions: NDArray[np.int64]) -> list[Fault]:
    """Return the flips at ascending ``positions``, which number the bits of all ``regions`` one after the other."""
    starts = np.cumsum([0, *(region.bits for region in regions)])
    cuts = np.searchsorted(positions, starts)
    faults: list[Fault] = []
    for region, start, (first, stop) in zip(regions, starts, pairwise(cuts), strict=False):
        if first < stop:
            faults += region.faults(positions[first:stop] - start)
    return faults


def plan_sweep(regions: Sequence[BitRegion], rates: Iterable[float], repeats: int, seed: int) -> SweepPlan:
    """Draw every repeat at every rate.

    Repeat k draws from ``SeedSequence(seed, spawn_key=(k,))`` alone. So more repeats leave the earlier repeats
    unchanged. Other rates below the same highest rate leave the flips of the remaining rates unchanged. Another highest
    rate, seed or population (model, layers, site, for neurons the number of inputs) changes all draws.

    Raises BitswapError as `check_rates` does, and for fewer than one repeat, regions without bits, and more expected
    flips than `MAX_FAULTS`.
    """
    rates = check_rates(rates)
    if repeats < 1:
        raise BitswapError(f"`repeats`: expected a positive number, found {repeats}")
    bits = sum(region.bits for region in regions)
    if not bits:
        raise BitswapError("there are no bits to flip: the model has no such weights or neurons; choose other `layers`")
    _check_number(bits, rates, repeats)
    points: list[SweepPoint] = []
    injections: list[Injection] = []
    for repeat in range(repeats):
        errors = draw_errors(bits, rates[-1], np.random.SeedSequence(seed, spawn_key=(repeat,)))
        faults = faults_at(regions, errors.positions)
        identifier, before = "", 0
        for rate in rates:
            flipped = errors.thresholds < rate / rates[-1]
            flips = int(np.count_nonzero(flipped))
            if flips > before:
                identifier, before = f"{rate!r}_r{repeat}", flips
                injections.append(Injection(identifier, tuple(compress(faults, flipped))))
            points.append(SweepPoint(rate, repeat, flips, identifier))
    return SweepPlan(bits, tuple(sorted(points, key=lambda point: (point.rate, point.repeat))), tuple(injections))


def _check_number(bits: int, rates: Sequence[float], repeats: int) -> None:
    """Raise BitswapError for a sweep that expects more than `MAX_FAULTS` faults."""
    total = 0.0
    for rate in rates:
        total += repeats * bits * rate
        if total > MAX_FAULTS:
            raise BitswapError(
                f"`rates`: at {rate:g}, {bits:,} bits have {bits * rate:,.0f} flips in each of {repeats} repeats: with "
                f"the rates below it {total:,.0f} faults in all, more than {MAX_FAULTS:,}; leave out the highest rates, "
                "or take fewer repeats or `layers`"
            )
