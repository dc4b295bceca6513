"""``rewrite``: one injection as a standalone faulty model."""

from pathlib import Path
from typing import Annotated

import typer

from bitswap_onnx.cli import console
from bitswap_onnx.cli.options import BitOrder, Faults, Model
from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.bits import format_value, hex_bits
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.files import check_output
from bitswap_onnx.graph.model import load_model, save_model
from bitswap_onnx.graph.resolve import Resolver
from bitswap_onnx.graph.weights import rewrite


def command(
    model: Model,
    faults: Faults,
    injection: Annotated[str, typer.Option(metavar="ID", help="The injection to apply.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FAULTY.onnx", help="The new file.", show_default=False)
    ],
    bit_order: BitOrder = "lsb",
) -> None:
    """Write a valid standalone model that differs from MODEL in exactly the bits of one injection."""
    clean = load_model(model)
    check_output(output, [model, faults, *clean.data_files])
    wanted = None
    for entry in read_fault_list(faults):  # to its end: a wrong row after the injection is an error too
        wanted = entry if entry.id == injection else wanted
    if wanted is None:
        raise FaultListError(f"{faults}: no injection {injection!r} in the list")
    resolved = Resolver(clean, bit_order).resolve(wanted)
    save_model(rewrite(clean, resolved.edits), output)
    for receipt in resolved.receipts:
        fmt = receipt.format
        before, after = (
            f"{hex_bits(b, fmt)} ({format_value(b, fmt)})" for b in (receipt.clean_bits, receipt.faulty_bits)
        )
        place = f"{receipt.target.layer}.{receipt.target.parameter}{list(receipt.fault.index)}"
        console.out.print(f"{place}: {before} -> {after}, {receipt.effect}")
    console.out.print(f"written: {output}")
