"""Arguments and options that several commands have, and how their texts are read."""

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from bitswap_onnx.cli.option_groups import fault_option, network_option, output_option
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.fault import BIT_KINDS, Kind

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False)]
Faults = Annotated[Path, typer.Argument(metavar="FAULTS", help="A fault list (CSV).", show_default=False)]
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
#: Name in --kinds → the kinds that it stands for.
_KINDS = {"stuck_at": (Kind.STUCK_AT_0, Kind.STUCK_AT_1), **{kind.value: (kind,) for kind in Kind if kind in BIT_KINDS}}
Kinds = Annotated[str, fault_option(metavar="KIND,..", help=f"Kinds of faults, drawn evenly: {', '.join(_KINDS)}.")]
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


def parse_size(text: str | None, option: str) -> int | None:
    """Return the number of bytes in ``4G``, ``500M`` or a plain number; raises BitswapError for other texts."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(?:i?B)?", text.strip(), re.I | re.A)
    size = int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if size < 1:
        raise BitswapError(f"{option}: expected a size like 500M or 4G, found {text!r}")
    return size


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Return the kinds named in a text like ``flip,stuck_at``; raises BitswapError for other names."""
    names = [part.strip() for part in text.split(",")]
    unknown = next((name for name in names if name not in _KINDS), None)
    if unknown is not None:
        raise BitswapError(f"--kinds: expected some of {', '.join(_KINDS)}, separated by commas, found {unknown!r}")
    return tuple(kind for name in names for kind in _KINDS[name])
