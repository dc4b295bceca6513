"""``inspect``: the targets of a model."""

import json
from typing import Annotated, Any

import typer

from bitswap_onnx.cli import console
from bitswap_onnx.cli.options import Json, Model
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.targets import Target, select_targets


def command(
    model: Model,
    layers: Annotated[
        str | None,
        typer.Option(metavar="GLOB,..", help="Only layers or parameters that match a glob or contain the text."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what faults can hit: layer, parameter, role, shape, dtype, bits."""
    loaded = load_model(model)
    rows = [_row(target) for target in select_targets(loaded, layers)]
    if as_json:
        typer.echo(json.dumps({"model": loaded.name, "sha256": loaded.sha256, "targets": rows}, indent=2))
        return
    tied = any(len(row["users"]) > 1 for row in rows)
    columns = ["Layer", "Parameter", "Role", "Shape", "Dtype", ">Bits"] + (["Shared by"] if tied else [])
    result = console.table(f"Targets of {loaded.name}", *columns)
    for row in rows:
        shared = ["; ".join(row["users"]) if len(row["users"]) > 1 else ""] if tied else []
        shape = "x".join(map(str, row["shape"])) or "scalar"
        result.add_row(row["layer"], row["parameter"], row["role"], shape, row["dtype"], f"{row['bits']:,}", *shared)
    console.out.print(result)
    console.out.print(f"{len(rows)} targets, {sum(row['bits'] for row in rows):,} bits")


def _row(target: Target) -> dict[str, Any]:
    return {
        "layer": target.layer,
        "parameter": target.parameter,
        "role": target.role,
        "shape": list(target.shape),
        "dtype": target.dtype,
        "bits": target.elements * FORMATS[target.dtype].width,
        "tensor": target.tensor,
        "users": list(target.users),
        "aliases": [".".join(alias) for alias in target.aliases],
    }
