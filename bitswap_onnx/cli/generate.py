"""``faults generate``: a statistical fault list, and the design of the sample."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bitswap_onnx.cli import console
from bitswap_onnx.cli.option_groups import fault_option, precision_option, run_option
from bitswap_onnx.cli.option_types import BitsOption, Exclude, Kinds, Layers, ModelPath, Out, Parameters
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.files import check_output
from bitswap_onnx.sampling.choices import Population, Rounding, SamplingScheme

if TYPE_CHECKING:
    from bitswap_onnx.sampling.design import ListDesign
    from bitswap_onnx.sampling.request import SamplingRequest

#: Number of strata that are shown one by one; of more, only the range of sizes.
_MOST_ROWS = 40

SchemeOption = Annotated[
    SamplingScheme,
    fault_option(
        metavar="SCHEME",
        help="What a sample is drawn from. network: all bits; layer: each layer; bit-layer: each bit of each layer; "
        "data-aware: the same, with sizes by what the bit does to the weights; exhaustive: every fault, no sample; "
        "per-target: --number of each target.",
    ),
]


_Out = Annotated[
    Path,
    Out(
        metavar="F.csv",
        help="The list to write; its design is written to F.design.json. Existing files of these names are replaced.",
    ),
]
_Margin = Annotated[
    float,
    precision_option(metavar="SHARE", help="Error margin of the share in each stratum: 0.01 is one percentage point."),
]
_T = Annotated[
    float | None,
    precision_option(
        metavar="T", help="Normal quantile, instead of that of --confidence (0.99: 2.5758; published lists: 2.58)."
    ),
]
_Proportion = Annotated[
    float,
    precision_option(
        "--proportion", "-p", metavar="SHARE", help="Expected share; 0.5 needs the most faults and is always safe."
    ),
]
_Population = Annotated[
    Population | None,
    fault_option(
        help="Faults that each bit counts for in sizes: 1 (flips) or 2 (stuck_at). Default: the number of kinds."
    ),
]
_Burst = Annotated[
    bool,
    fault_option(
        "--burst",
        help="The faults of an injection hit neighbouring bits of one element, not any bits of the stratum.",
    ),
]
_Seed = Annotated[
    int, run_option(metavar="N", min=0, help="Seed of the draw; one seed gives the same list on every machine.")
]


def command(
    model: ModelPath,
    out: _Out,
    scheme: SchemeOption = "network",
    number: Annotated[
        int | None,
        fault_option(
            metavar="N",
            min=1,
            help="Injections to draw instead of what --margin asks for: in all, or of each layer, bit or target (--scheme).",
        ),
    ] = None,
    margin: _Margin = 0.01,
    confidence: Annotated[float, precision_option(metavar="LEVEL", help="Confidence level of the margin.")] = 0.99,
    t: _T = None,
    proportion: _Proportion = 0.5,
    rounding: Annotated[Rounding, precision_option(help="Rounding of sample sizes.")] = "nearest",
    kinds: Kinds = "flip",
    population: _Population = None,
    layers: Layers = None,
    exclude: Exclude = None,
    parameters: Parameters = "weight",
    bits: BitsOption = None,
    multiplicity: Annotated[int, fault_option(metavar="K", help="Faults per injection.")] = 1,
    burst: _Burst = False,
    seed: _Seed = 0,
) -> None:
    """Draw a fault list without replacement, as large as the given precision needs."""
    from bitswap_onnx.sampling.request import SamplingRequest

    request = SamplingRequest(
        scheme=scheme,
        number=number,
        margin=margin,
        confidence=confidence,
        t=t,
        proportion=proportion,
        rounding=rounding,
        kinds=kinds,
        population=population,
        layers=layers,
        exclude=exclude,
        parameters=parameters,
        bits=bits,
        multiplicity=multiplicity,
        burst=burst,
        seed=seed,
    )
    _draw(model, request, out)


def _draw(model: Path, request: "SamplingRequest", out: Path) -> None:
    from bitswap_onnx.graph.model import load_model
    from bitswap_onnx.sampling.design import design_path
    from bitswap_onnx.sampling.generate import generate_faults

    if out.suffix == ".json":
        raise BitswapError(
            f"{out}: expected a name that is not .json; the design is written to F.design.json for F.csv"
        )
    loaded = load_model(model)
    inputs = [model, *loaded.data_files]
    check_output(out, inputs)
    check_output(design_path(out), inputs)
    design = generate_faults(loaded, request, out)
    _print(design, out)
    _print_time(model, design.size)


def _print_time(model: Path, injections: int) -> None:
    from bitswap_onnx.campaign.forecast import forecast  # loads the runtime

    try:
        text = forecast(model).text(injections)
    except BitswapError as error:
        text = f"time: not known; {error}"
    console.print_notes([text], "")


def _precision(request: "SamplingRequest") -> str:
    """Return how well the list tells a share, where its sizes follow from that for every share."""
    units = {"network": "the network", "layer": "each layer", "bit-layer": "each bit of each layer"}
    if request.number is not None or request.scheme not in units or request.proportion != 0.5:
        return ""
    sure = f"{100 * request.confidence:g} % confidence" if request.t is None else f"t = {request.t:g}"
    return f"; enough to know any share of {units[request.scheme]} within {100 * request.margin:g} points at {sure}"


def _print(design: "ListDesign", path: Path) -> None:
    from bitswap_onnx.sampling.design import design_path

    strata = design.strata
    if len(strata) <= _MOST_ROWS:
        table = console.table("Strata", "Stratum", ">Population", ">p", ">Drawn", ">Share")
        for entry in strata:
            p = "-" if entry.p is None else f"{entry.p:.3g}"
            share = console.share(entry.size, entry.population)
            table.add_row(entry.name, f"{entry.population:,}", p, f"{entry.size:,}", share)
        console.out.print(table)
        console.out.print(
            "population: faults of a stratum; p: the share that sizes allow for; share: drawn, of the population"
        )
    else:
        sizes, populations = ([getattr(entry, key) for entry in strata] for key in ("size", "population"))
        console.out.print(
            f"{len(strata)} strata, from {min(sizes):,} to {max(sizes):,} injections each, "
            f"of {min(populations):,} to {max(populations):,}"
        )
    request = design.request
    console.out.print(
        f"scheme {request.scheme}, seed {request.seed}: {design.size:,} of {design.population:,} in {design.model}"
        + _precision(request)
    )
    if design.coverage:
        console.print_coverage(design.coverage)
    console.out.print(f"written: {path}, {design_path(path)}")
