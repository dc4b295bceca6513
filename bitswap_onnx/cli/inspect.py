"""``inspect``: the targets of a model."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from bitswap_onnx.cli import console
from bitswap_onnx.cli.option_groups import fault_option
from bitswap_onnx.cli.option_types import Json, ModelPath
from bitswap_onnx.cli.view import print_json
from bitswap_onnx.errors import amount
from bitswap_onnx.faults.fault import Site

if TYPE_CHECKING:
    from bitswap_onnx.graph.sites import NeuronSite
    from bitswap_onnx.graph.targets import Target


def command(
    model: ModelPath,
    layers: Annotated[
        str | None,
        fault_option(metavar="GLOB,..", help="Only layers or parameters whose name matches a glob or contains a text."),
    ] = None,
    neurons: Annotated[
        bool, fault_option("--neurons", help="List outputs and inputs of layers instead of parameters.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the targets of faults: layer, parameter, role, shape, dtype and bits; with --neurons, the neurons of layers."""
    from bitswap_onnx.graph.coverage import coverage
    from bitswap_onnx.graph.model import load_model
    from bitswap_onnx.graph.resolve import Resolver
    from bitswap_onnx.graph.targets import select_targets

    loaded = load_model(model)
    if neurons:
        _print_sites(Resolver(loaded).sites, layers, as_json)
        return
    rows = [_row(target) for target in select_targets(loaded, layers)]
    covered = coverage(loaded, {row["tensor"]: row["bits"] for row in rows}, "targets")
    if as_json:
        listed = {"model": loaded.name, "sha256": loaded.sha256, "targets": rows, "coverage": asdict(covered)}
        print_json(listed)
        return
    tied = any(len(row["users"]) > 1 for row in rows)
    columns = ["Layer", "Parameter", "Role", "Shape", "Dtype", ">Bits"] + (["Shared by"] if tied else [])
    result = console.table(f"Targets of {loaded.name}", *columns)
    for row in rows:
        shared = ["; ".join(row["users"]) if len(row["users"]) > 1 else ""] if tied else []
        shape = "x".join(map(str, row["shape"])) or "scalar"
        result.add_row(row["layer"], row["parameter"], row["role"], shape, row["dtype"], f"{row['bits']:,}", *shared)
    console.out.print(result)
    console.out.print(f"{amount(len(rows), 'target')}, {sum(row['bits'] for row in rows):,} bits")
    console.print_coverage(covered)


def _print_sites(sites: Sequence["NeuronSite"], layers: str | None, as_json: bool) -> None:
    """List the sites of layers that match ``layers``; without it, the sites that campaigns inject by default."""
    from bitswap_onnx.graph.site_choice import select_sites

    chosen = [candidate for site in Site for candidate in select_sites(sites, layers, side=site)]
    chosen.sort(key=sites.index)
    rows = [
        {
            "layer": site.layer,
            "type": site.kind,
            "site": site.site.value,
            "shape": list(site.shape),
            "dtype": site.dtype,
            "bits": site.elements * site.format.width,
            "value": site.value,
        }
        for site in chosen
    ]
    if as_json:
        print_json({"neurons": rows})
        return
    result = console.table("Neurons, per input", "Layer", "Type", "Site", "Shape", "Dtype", ">Bits")
    for site in chosen:
        shape, bits = "x".join(map(str, site.shape)) or "scalar", f"{site.elements * site.format.width:,}"
        result.add_row(site.layer, site.kind, site.site.value, shape, site.dtype, bits)
    console.out.print(result)


def _row(target: "Target") -> dict[str, Any]:
    return {
        "layer": target.layer,
        "parameter": target.parameter,
        "role": target.role,
        "shape": list(target.shape),
        "dtype": target.dtype,
        "bits": target.bits,
        "tensor": target.tensor,
        "users": list(target.users),
        "aliases": [".".join(alias) for alias in target.aliases],
    }
