"""How a statistical fault list is drawn from a model, and the design beside it that lets estimates weight it."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from bitswap_onnx.errors import BitswapError, FaultListError, one_line
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.faults.fault_list import write_fault_list
from bitswap_onnx.files import replacing
from bitswap_onnx.graph.model import Model
from bitswap_onnx.sampling.draws import Sample
from bitswap_onnx.sampling.population import bit_distances, find_population
from bitswap_onnx.sampling.sizes import Rounding, normal_quantile, proportions_of, sample_size
from bitswap_onnx.sampling.strata import Pattern, Region, Stratum, stratify

SamplingScheme = Literal["network", "layer", "bit-layer", "data-aware", "exhaustive", "per-target"]
Population = Literal["flips", "stuck_at"]

#: What the sidecar says it is, and which form of it.
_FORMAT = "bitswap-onnx fault list design"
_VERSION = 1
#: What sizes do not depend on, by scheme.
_IDLE = {
    "data-aware": ("proportion",),
    "exhaustive": ("margin", "confidence", "t", "proportion", "rounding", "population"),
    "per-target": ("margin", "confidence", "t", "proportion", "rounding", "population"),
}
#: Kinds that a place counts for in sizes, where the user says so.
_KINDS_PER_BIT = {"flips": 1, "stuck_at": 2}


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """What to draw: ``faults generate``'s options.

    ``margin`` e and ``confidence`` (or its normal quantile ``t``) are what a stratum's share is to be known with, if it is
    ``proportion`` p; data-aware sizes take p from the weights. ``number``: injections per target, of ``per-target`` alone.
    ``population``: how many faults a bit counts for in sizes, 1 (flips) or 2 (stuck_at); None: its kinds.
    """

    scheme: SamplingScheme = "network"
    margin: float = 0.01
    confidence: float = 0.99
    t: float | None = None
    proportion: float = 0.5
    rounding: Rounding = "nearest"
    number: int | None = None
    kinds: tuple[Kind, ...] = (Kind.FLIP,)
    population: Population | None = None
    layers: str | None = None
    exclude: str | None = None
    parameters: str = "weight"
    bits: str | None = None
    multiplicity: int = 1
    burst: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value in (
            ("margin", self.margin),
            ("confidence", self.confidence),
            ("proportion", self.proportion),
        ):
            if not 0 < value < 1:
                raise BitswapError(f"--{option}: expected a number between 0 and 1, both excluded, found {value:g}")
        if self.t is not None and not 0 < self.t < math.inf:
            raise BitswapError(f"--t: expected a positive number, found {self.t:g}")
        if (self.scheme == "per-target") != (self.number is not None):
            raise BitswapError("--number: expected with --scheme per-target, and only there: injections per target")
        if self.number is not None and self.number < 1:
            raise BitswapError(f"--number: expected a positive number, found {self.number}")
        Pattern(self.kinds)  # refuses wrong ones
        if self.multiplicity < 1:
            raise BitswapError(f"--multiplicity: expected a positive number, found {self.multiplicity}")
        if self.multiplicity > 1 and (self.scheme == "data-aware" or (self.scheme == "exhaustive" and not self.burst)):
            raise BitswapError(f"--multiplicity: expected 1 with --scheme {self.scheme}, found {self.multiplicity}")

    @property
    def pattern(self) -> Pattern:
        """What one injection is."""
        return Pattern(self.kinds, self.multiplicity, self.burst and self.multiplicity > 1)

    @property
    def quantile(self) -> float:
        """The t of the sizes."""
        return normal_quantile(self.confidence) if self.t is None else self.t


@dataclass(frozen=True, slots=True)
class StratumDesign:
    """One stratum of a list: ``size`` injections, ids from ``first`` on, drawn from ``population`` of them.

    ``counted`` is the N and ``p`` the proportion that the size was computed from; p is None where none was needed.
    ``layer`` and ``parameter`` are None where it has several.
    """

    name: str
    layer: str | None
    parameter: str | None
    bits: tuple[int, ...]
    population: int
    counted: int
    p: float | None
    first: int
    size: int


@dataclass(frozen=True, slots=True)
class ListDesign:
    """How a list was drawn: the request, the model, the regions drawn from, the strata in list order, the list's hash."""

    request: SamplingRequest
    t: float
    model: str
    model_sha256: str
    regions: tuple[Region, ...]
    strata: tuple[StratumDesign, ...]
    population: int
    size: int
    list_sha256: str

    @property
    def text(self) -> str:
        """What `parse_design` reads: JSON with one line per entry, and per element of a list."""
        entries = []
        for key, value in {"format": _FORMAT, "version": _VERSION, **asdict(self)}.items():
            rows = ",\n".join(f"  {json.dumps(element)}" for element in value) if isinstance(value, tuple) else ""
            entries.append(f" {json.dumps(key)}: " + (f"[\n{rows}\n ]" if rows else json.dumps(value)))
        return "{\n" + ",\n".join(entries) + "\n}\n"

    @property
    def sampled(self) -> tuple[Stratum, ...]:
        """What each of its strata was drawn from."""
        return stratify(self.regions, _STRATA[self.request.scheme])


def design_path(path: Path) -> Path:
    """Return where the design of a fault list lies: ``F.csv`` → ``F.design.json``."""
    return path.with_suffix(".design.json")


def generate_faults(model: Model, request: SamplingRequest, path: Path) -> ListDesign:
    """Draw a fault list from ``model``, write it to ``path`` and its design beside it, and return the design.

    Raises BitswapError for filters that leave nothing, for a stratum without room for one injection and for what was asked
    for and changes nothing, RunError where nothing can be written.
    """
    _refuse_idle(request)
    regions, strata, sample = plan_sample(model, request)
    digest = write_fault_list(path, sample, sample.examples)
    totals = sum(entry.population for entry in strata), sum(sample.sizes)
    design = ListDesign(request, request.quantile, model.name, model.sha256, regions, strata, *totals, digest)
    with replacing(design_path(path)) as file:
        file.write(design.text)
    return design


def _refuse_idle(request: SamplingRequest) -> None:
    """Raise BitswapError for what a user set and the list would not depend on."""
    idle = dict.fromkeys(_IDLE.get(request.scheme, ()), f"--scheme {request.scheme}")
    if request.t is not None:
        idle = {"confidence": "--t"} | idle
    for field in fields(request):
        if field.name in idle and getattr(request, field.name) != field.default:
            raise BitswapError(f"--{field.name}: with {idle[field.name]} nothing depends on it; leave it out")
    if request.burst and request.multiplicity == 1:
        raise BitswapError("--burst: expected with --multiplicity, the number of neighbouring bits, 2 or more; found 1")


def plan_sample(model: Model, request: SamplingRequest) -> tuple[tuple[Region, ...], tuple[StratumDesign, ...], Sample]:
    """Return what ``request`` draws from, its strata, and the sample itself, which is drawn when it is iterated."""
    pattern = request.pattern
    span = request.multiplicity if pattern.burst else 1
    regions = find_population(model, request.layers, request.exclude, request.parameters, request.bits, span)
    strata = stratify(regions, _STRATA[request.scheme])
    known = bit_distances(model, regions) if request.scheme == "data-aware" else {}
    proportions = {name: proportions_of(distances.tolist()) for name, distances in known.items()}
    first, designs = 0, []
    for stratum in strata:
        designs.append(_design(stratum, request, proportions, first))
        first += designs[-1].size
    return regions, tuple(designs), Sample(strata, tuple(entry.size for entry in designs), pattern, request.seed)


def read_design(path: str | Path) -> ListDesign:
    """Read a design that `generate_faults` wrote.

    Raises FaultListError for a file that is missing, and as `parse_design`.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        raise FaultListError(f"{path}: cannot read the design of the fault list: {error.strerror}") from None
    return parse_design(text, str(path))


def parse_design(text: str, where: str) -> ListDesign:
    """Return the design that a text holds; ``where`` it stands is for messages.

    Raises FaultListError for one that is none, is of another version, or does not add up.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.pop("format", None) != _FORMAT:
        raise FaultListError(f"{where}: not the design of a fault list; expected what faults generate wrote")
    version = record.pop("version", None)
    if version != _VERSION:
        raise FaultListError(
            f"{where}: expected a design of version {_VERSION}, found {version!r}; generate the list again"
        )
    try:
        design = _parse(record)
        ends = list(accumulate((entry.size for entry in design.strata), initial=0))
        whole = [entry.first for entry in design.strata] == ends[:-1] and design.size == ends[-1]
        whole = whole and design.population == sum(entry.population for entry in design.strata)
        whole = whole and all(0 < entry.size <= entry.population for entry in design.strata)
        populations = [(one.name, design.request.pattern.population(one.slots)) for one in design.sampled]
        whole = whole and populations == [(entry.name, entry.population) for entry in design.strata]
        whole = whole and all(max(one.bits) < FORMATS[one.format].width for one in design.regions)
    except (BitswapError, KeyError, TypeError, ValueError) as error:
        raise FaultListError(f"{where}: damaged ({one_line(error)}); generate the list again") from None
    if not whole:
        raise FaultListError(f"{where}: damaged: its strata do not add up to the list; generate the list again")
    return design


def _parse(record: dict[str, Any]) -> ListDesign:
    request = record["request"] | {"kinds": tuple(map(Kind, record["request"]["kinds"]))}
    regions = (
        Region(**(entry | {key: tuple(entry[key]) for key in ("address", "shape", "bits")}))
        for entry in record["regions"]
    )
    strata = (StratumDesign(**(entry | {"bits": tuple(entry["bits"])})) for entry in record["strata"])
    return ListDesign(
        **(record | {"request": SamplingRequest(**request), "regions": tuple(regions), "strata": tuple(strata)})
    )


#: What the strata of a scheme are: bits whose regions get the same name.
_STRATA: dict[str, Callable[[Region, int], str]] = {
    "network": lambda region, bit: "network",
    "layer": lambda region, bit: region.layer,
    "bit-layer": lambda region, bit: f"{region.layer} bit {bit}",
    "data-aware": lambda region, bit: f"{region.layer} bit {bit}",
    "exhaustive": lambda region, bit: region.layer,
    "per-target": lambda region, bit: region.tensor,
}


def _design(
    stratum: Stratum, request: SamplingRequest, proportions: dict[str, tuple[float, ...]], first: int
) -> StratumDesign:
    pattern = request.pattern
    population = pattern.population(stratum.slots)
    if not population:
        raise BitswapError(
            f"--multiplicity: expected at most {stratum.slots}, the bits of {stratum.name}, found {request.multiplicity}"
        )
    counted = pattern.population(stratum.slots, _KINDS_PER_BIT.get(request.population or "", len(pattern.kinds)))
    p, size = None, population
    if request.number is not None:
        size = request.number
    elif request.scheme != "exhaustive":
        own = [proportions[region.format][bit] for region in stratum.regions for bit in region.bits if proportions]
        p = max(own, default=request.proportion)
        size = sample_size(counted, request.margin, request.quantile, p, request.rounding)
    layers = {region.layer for region in stratum.regions}
    parameters = {region.address[1] or "weight" for region in stratum.regions}
    return StratumDesign(
        name=stratum.name,
        layer=layers.pop() if len(layers) == 1 else None,
        parameter=parameters.pop() if len(parameters) == 1 else None,
        bits=stratum.bits,
        population=population,
        counted=counted,
        p=p,
        first=first,
        size=min(size, population),
    )
