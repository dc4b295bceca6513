"""``faults``: generate, check, describe and convert fault lists."""

from pathlib import Path
from typing import Annotated

import typer

from bitswap_onnx.cli import console, generate
from bitswap_onnx.cli.option_groups import fault_option
from bitswap_onnx.cli.option_types import BitOrderOption, Faults, Json, Out
from bitswap_onnx.cli.view import print_json
from bitswap_onnx.errors import amount
from bitswap_onnx.files import check_output

app = typer.Typer(no_args_is_help=True, help="Generate, check, describe and convert fault lists.")
app.command("generate")(generate.command)

ModelOption = Annotated[Path | None, fault_option("--model", metavar="MODEL", help="The model that the list is for.")]


@app.command("validate")
def validate(faults: Faults, model: ModelOption = None, bit_order: BitOrderOption = "lsb") -> None:
    """Check every row of a list; with --model, also check that each fault hits a target and changes it."""
    from bitswap_onnx.faults.fault_list import read_fault_list
    from bitswap_onnx.graph.model import load_model
    from bitswap_onnx.graph.resolve import resolve

    injections = iter(read_fault_list(faults))
    if model is None:
        count = sum(1 for _ in injections)
    else:
        count = sum(1 for _ in resolve(load_model(model), injections, bit_order))
    against = f" in {model.name}" if model else ""
    console.out.print(f"{faults.name}: {amount(count, 'injection')}, all valid{against}")


@app.command("convert")
def convert_list(
    faults: Faults,
    source: Annotated[
        Path, fault_option("--from", metavar="A.onnx", help="The model that the list is for.", show_default=False)
    ],
    partner: Annotated[
        Path, fault_option("--to", metavar="B.onnx", help="A model with the same weights.", show_default=False)
    ],
    out: Annotated[
        Path, Out(metavar="OUT.csv", help="The list to write; an existing one is replaced.", show_default=False)
    ],
) -> None:
    """Write the same faults for another model with the same weights; its names and layouts may differ."""
    from bitswap_onnx.experiments.comparison.convert import convert
    from bitswap_onnx.graph.model import load_model

    model_a, model_b = load_model(source), load_model(partner)
    check_output(out, [faults, source, partner, *model_a.data_files, *model_b.data_files])
    converted = convert(faults, model_a, model_b, out=out)
    console.print_notes(converted.notes)
    console.out.print(f"written: {out}: {amount(converted.injections, 'injection')} for {model_b.name}")


@app.command("describe")
def describe_command(faults: Faults, model: ModelOption = None, as_json: Json = False) -> None:
    """Count faults per layer, bit and kind, and duplicates; with --model, also the covered share of each layer."""
    from bitswap_onnx.faults.fault_list import read_fault_list
    from bitswap_onnx.graph.list_description import describe_list
    from bitswap_onnx.graph.model import load_model

    description = describe_list(read_fault_list(faults), load_model(model) if model else None)
    if as_json:
        print_json(description.as_dict())
        return
    console.out.print(
        f"{faults.name}: {amount(description.injections, 'injection')}, {amount(description.faults, 'fault')}, "
        f"{description.duplicates} of them repeat an earlier one",
    )
    columns = ["Layer", "Parameter", ">Faults"] + ([">Bits in model", ">Covered"] if model else [])
    layers = console.table("Per layer", *columns)
    for entry in description.layers:
        covered = [f"{entry.bits:,}", console.share(entry.distinct, entry.bits)] if entry.bits else []
        layers.add_row(entry.layer, entry.parameter, str(entry.faults), *covered)
    console.out.print(layers)
    bits = console.table("Per bit and kind", "Kind", "Bit", ">Faults")
    for (kind, bit), count in description.bits:
        bits.add_row(kind, "-" if bit is None else str(bit), str(count))
    console.out.print(bits)
