"""``faults generate``: a statistical fault list, and the design it was drawn by."""

from pathlib import Path
from typing import Annotated

import typer

from bitswap_onnx.cli import console
from bitswap_onnx.cli.options import BitsOption, Exclude, Kinds, Layers, ModelPath, Parameters, parse_kinds
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.files import check_output
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.sampling.design import ListDesign, design_path
from bitswap_onnx.sampling.generate import generate_faults
from bitswap_onnx.sampling.request import Population, SamplingRequest, SamplingScheme
from bitswap_onnx.sampling.sizes import Rounding

#: Strata that are shown one by one; of more, only what they span.
_MOST_ROWS = 40

SchemeOption = Annotated[
    SamplingScheme,
    typer.Option(
        help="A sample of all bits, of each layer's, of each bit of each layer (data-aware: with sizes by what the bit does "
        "to the weights); everything there is (exhaustive); or --number of each target.",
    ),
]


def command(
    model: ModelPath,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="F.csv", help="The list; its design goes to F.design.json.")
    ],
    scheme: SchemeOption = "network",
    number: Annotated[int | None, typer.Option(help="Injections per target, for --scheme per-target.")] = None,
    margin: Annotated[float, typer.Option(help="Error margin of a stratum's share: 0.01 is one point.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="How sure the margin is.")] = 0.99,
    t: Annotated[
        float | None, typer.Option(help="Quantile, instead of --confidence's own (0.99: 2.5758; published: 2.58).")
    ] = None,
    proportion: Annotated[float, typer.Option("--proportion", "-p", help="The share to expect; 0.5 is safe.")] = 0.5,
    rounding: Annotated[Rounding, typer.Option(help="Of sizes.")] = "nearest",
    kinds: Kinds = "flip",
    population: Annotated[
        Population | None,
        typer.Option(help="Faults that sizes count per bit: 1 (flips) or 2 (stuck_at). Default: the number of kinds."),
    ] = None,
    layers: Layers = None,
    exclude: Exclude = None,
    parameters: Parameters = "weight",
    bits: BitsOption = None,
    multiplicity: Annotated[int, typer.Option(metavar="K", help="Faults per injection.")] = 1,
    burst: Annotated[
        bool, typer.Option("--burst", help="They hit neighbouring bits of one element, not any bits of the stratum.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="One seed, one list, everywhere.")] = 0,
) -> None:
    """Draw a fault list without replacement, as large as the asked precision needs."""
    request = SamplingRequest(
        scheme=scheme,
        number=number,
        margin=margin,
        confidence=confidence,
        t=t,
        proportion=proportion,
        rounding=rounding,
        kinds=parse_kinds(kinds),
        population=population,
        layers=layers,
        exclude=exclude,
        parameters=parameters,
        bits=bits,
        multiplicity=multiplicity,
        burst=burst,
        seed=seed,
    )
    if output.suffix == ".json":
        raise BitswapError(f"{output}: expected another name than the design's, which is F.design.json for F.csv")
    loaded = load_model(model)
    inputs = [model, *loaded.data_files]
    check_output(output, inputs)
    check_output(design_path(output), inputs)
    _print(generate_faults(loaded, request, output), output)


def _print(design: ListDesign, path: Path) -> None:
    strata = design.strata
    if len(strata) <= _MOST_ROWS:
        table = console.table("What is drawn from what", "Stratum", ">Injections there are", ">p", ">Drawn", ">Share")
        for entry in strata:
            p = "-" if entry.p is None else f"{entry.p:.3g}"
            share = console.share(entry.size, entry.population)
            table.add_row(entry.name, f"{entry.population:,}", p, f"{entry.size:,}", share)
        console.out.print(table)
    else:
        sizes, populations = ([getattr(entry, key) for entry in strata] for key in ("size", "population"))
        console.out.print(
            f"{len(strata)} strata, from {min(sizes):,} to {max(sizes):,} injections each, "
            f"of {min(populations):,} to {max(populations):,}"
        )
    request = design.request
    console.out.print(
        f"scheme {request.scheme}, seed {request.seed}: {design.size:,} of {design.population:,} in {design.model}"
    )
    console.out.print(f"written: {path}, {design_path(path)}")
