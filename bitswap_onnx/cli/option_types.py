"""Arguments and options that several commands have."""

import errno
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from bitswap_onnx.cli.option_groups import fault_option, network_option, output_option
from bitswap_onnx.errors import BitswapError, FaultListError, ModelError
from bitswap_onnx.faults.fault import KIND_NAMES


def _check_model(context: typer.Context, path: Path | None) -> Path | None:
    return _check_is_there(context, path, ModelError, "model")


def _check_list(context: typer.Context, path: Path | None) -> Path | None:
    return _check_is_there(context, path, FaultListError, "fault list")


def _check_is_there(context: typer.Context, path: Path | None, kind: type[BitswapError], what: str) -> Path | None:
    """Return ``path``; raise the error of the library for one that does not exist, before the library is loaded."""
    if path is not None and not context.resilient_parsing and not path.exists():
        raise kind(f"{path}: cannot read the {what}: {os.strerror(errno.ENOENT)}")
    return path


ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False, callback=_check_model)
]
Faults = Annotated[
    Path, typer.Argument(metavar="FAULTS", help="A fault list (CSV).", show_default=False, callback=_check_list)
]
FaultsIfAny = Annotated[
    Path | None,
    typer.Argument(
        metavar="FAULTS", help="A fault list (CSV); none with --until.", show_default=False, callback=_check_list
    ),
]
BitOrderOption = Annotated[
    Literal["lsb", "msb"],
    fault_option(help="Bit 0 is the least significant bit (lsb) or the sign (msb)."),
]
CheckpointKey = Annotated[
    str | None,
    network_option(metavar="KEY", help="Dotted path of keys to the state dict in the checkpoint, like model_ema."),
]
Pretrained = Annotated[bool, network_option("--pretrained", help="The trained weights that torchvision or timm has.")]
Layers = Annotated[str | None, fault_option(metavar="NAME,..", help="Only these layers: globs or parts of names.")]
Exclude = Annotated[str | None, fault_option(metavar="NAME,..", help="Layers to leave out: globs or parts of names.")]
LayerType = Annotated[
    str | None,
    fault_option(metavar="TYPE,..", help="Only layers of these types, as PyTorch, Keras or ONNX call them."),
]
Parameters = Annotated[str, fault_option(metavar="ROLE,..", help="Roles or names of parameters; weight: the kernels.")]
BitsOption = Annotated[
    str | None, fault_option(metavar="BITS", help="Bits: 0-31, or 30,31, or sign, exponent, mantissa. Default: all.")
]
Kinds = Annotated[str, fault_option(metavar="KIND,..", help=f"Kinds of faults, drawn evenly: {', '.join(KIND_NAMES)}.")]
Plot = Annotated[bool, output_option("--plot", help="Also draw SVG and PNG figures (needs the extra 'report').")]
Json = Annotated[bool, output_option("--json", help="Print one JSON document instead of tables, and nothing else.")]
Quiet = Annotated[
    bool, output_option("--quiet", "-q", help="Print only the run directory: no progress, no notes, no tables.")
]
#: Declares ``-o`` and ``--out``, in every command the file or folder that it writes.
Out = partial(output_option, "--out", "-o")


def check_key(key: str | None, weights: Path | None) -> None:
    """Raise BitswapError if a part of a checkpoint is chosen where no checkpoint is given."""
    if key is not None and weights is None:
        raise BitswapError("--key: expected --weights with it, the checkpoint that the key is in")
