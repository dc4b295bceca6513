"""Statistical fault lists drawn from a model, and written with their designs."""

from pathlib import Path

import onnx

from bitswap_onnx.errors import BitswapError, check_path
from bitswap_onnx.faults.fault_list import write_fault_list
from bitswap_onnx.files import replacing
from bitswap_onnx.graph.model import Model, load_model
from bitswap_onnx.sampling.design import ListDesign, StratumDesign, design_path
from bitswap_onnx.sampling.draws import Sample
from bitswap_onnx.sampling.population import bit_distances, find_population, population_coverage
from bitswap_onnx.sampling.request import STRATUM_NAMES, SamplingRequest, refuse_idle
from bitswap_onnx.sampling.sizes import proportions_of, sample_size
from bitswap_onnx.sampling.strata import Region, Stratum, stratify

#: Faults that a bit counts for in sizes, by `SamplingRequest.population`.
_KINDS_PER_BIT = {"flips": 1, "stuck_at": 2}


def generate_faults(
    model: Model | str | Path | onnx.ModelProto, request: SamplingRequest, path: str | Path
) -> ListDesign:
    """Draw a fault list from ``model``, write it to ``path`` and its design beside it, and return the design.

    ``model``: as `load_model` takes it, or a `Model`, such as `export_torch` and `export_keras` return.
    Raises BitswapError for filters that leave nothing, for a stratum with fewer places than an injection needs, and for
    a field of the request that has no effect; RunError where the files cannot be written.
    """
    model, path = load_model(model), check_path("path", path)
    refuse_idle(request)
    regions, strata, sample = plan_sample(model, request)
    digest = write_fault_list(path, sample, sample.examples)
    totals = sum(entry.population for entry in strata), sum(sample.sizes)
    covered = population_coverage(model, regions, request.span)
    design = ListDesign(request, request.quantile, model.name, model.sha256, regions, strata, *totals, digest, covered)
    with replacing(design_path(path)) as file:
        file.write(design.text)
    return design


def plan_sample(model: Model, request: SamplingRequest) -> tuple[tuple[Region, ...], tuple[StratumDesign, ...], Sample]:
    """Return the regions that ``request`` draws from, its strata, and the sample, drawn when it is iterated."""
    pattern = request.pattern
    regions = find_population(model, request.layers, request.exclude, request.parameters, request.bits, request.span)
    strata = stratify(regions, STRATUM_NAMES[request.scheme])
    distances = bit_distances(model, regions) if request.scheme == "data-aware" else {}
    proportions = {name: proportions_of(of_format.tolist()) for name, of_format in distances.items()}
    first, designs = 0, []
    for stratum in strata:
        designs.append(_design(stratum, request, proportions, first))
        first += designs[-1].size
    return regions, tuple(designs), Sample(strata, tuple(entry.size for entry in designs), pattern, request.seed)


def _design(
    stratum: Stratum, request: SamplingRequest, proportions: dict[str, tuple[float, ...]], first: int
) -> StratumDesign:
    pattern = request.pattern
    population = pattern.population(stratum.slots)
    if not population:
        raise BitswapError(
            f"`multiplicity`: expected at most {stratum.slots}, the bits of {stratum.name}, found {request.multiplicity}"
        )
    counted = pattern.population(stratum.slots, _KINDS_PER_BIT.get(request.population or "", len(pattern.kinds)))
    p, size = None, population
    if request.number is not None:
        size = request.number
    elif request.scheme != "exhaustive":
        of_bits = [proportions[region.format][bit] for region in stratum.regions for bit in region.bits if proportions]
        p = max(of_bits, default=request.proportion)
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
