"""``rewrite``: one injection as a standalone faulty model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bitswap_onnx.cli import console
from bitswap_onnx.cli.option_groups import fault_option
from bitswap_onnx.cli.option_types import BitOrderOption, Faults, ModelPath, Out
from bitswap_onnx.errors import FaultListError
from bitswap_onnx.files import check_output

if TYPE_CHECKING:
    from bitswap_onnx.graph.receipts import Receipt


def command(
    model: ModelPath,
    faults: Faults,
    injection: Annotated[str, fault_option(metavar="ID", help="The injection to apply.", show_default=False)],
    out: Annotated[
        Path, Out(metavar="FAULTY.onnx", help="The model to write; an existing file is replaced.", show_default=False)
    ],
    bit_order: BitOrderOption = "lsb",
) -> None:
    """Write a valid standalone model that differs from MODEL in exactly the bits of one injection.

    Faults of neurons become flip nodes, which need opset 26: the file is converted to it.
    """
    from bitswap_onnx.faults.fault_list import read_fault_list
    from bitswap_onnx.graph.model import load_model, save_model
    from bitswap_onnx.graph.receipts import Receipt
    from bitswap_onnx.graph.resolve import Resolver, apply

    clean = load_model(model)
    check_output(out, [model, faults, *clean.data_files])
    chosen = None
    for candidate in read_fault_list(faults):  # to its end: a wrong row after the injection is an error too
        chosen = candidate if candidate.id == injection else chosen
    if chosen is None:
        raise FaultListError(f"{faults}: no injection {injection!r} in the list")
    resolved = Resolver(clean, bit_order).resolve(chosen)
    save_model(apply(clean, resolved), out)
    for receipt in resolved.rows:
        console.out.print(_change(receipt) if isinstance(receipt, Receipt) else f"flip node: {receipt.fault}")
    if any(neuron.fault.input is not None for neuron in resolved.neurons):
        console.out.print(
            "a fault of one input hits the row with its number in every batch; run the file on inputs in the dataset's order"
        )
    console.out.print(f"written: {out}")


def _change(receipt: "Receipt") -> str:
    from bitswap_onnx.faults.bits import format_value, hex_bits

    fmt = receipt.format
    before, after = (f"{hex_bits(b, fmt)} ({format_value(b, fmt)})" for b in (receipt.clean_bits, receipt.faulty_bits))
    place = f"{receipt.target.layer}.{receipt.target.parameter}{list(receipt.fault.index)}"
    return f"{place}: {before} -> {after}, {receipt.effect}"
