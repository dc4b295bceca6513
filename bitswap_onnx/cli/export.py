"""``export``: framework models to ONNX files, and ONNX to Keras, every parameter compared bit for bit."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Protocol

import typer

from bitswap_onnx.cli import console
from bitswap_onnx.cli.option_groups import data_option, network_option, run_option
from bitswap_onnx.cli.option_types import CheckpointKey, ModelPath, Out, Pretrained, check_key
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.numerals import whole
from bitswap_onnx.files import check_output

app = typer.Typer(
    no_args_is_help=True,
    help="Convert framework models to ONNX, and ONNX to Keras; every parameter is compared bit for bit.",
)

_SHOWN = 3

#: How the batch is written in shapes.
_ANY_BATCH = ("n", "b", "bs", "batch", "none", "?", "*", "-1")

_Onnx = Annotated[
    Path, Out(metavar="M.onnx", help="The ONNX file to write; an existing one is replaced.", show_default=False)
]
Seed = Annotated[int, run_option(metavar="N", help="Seed of random weights.")]


class Report(Protocol):
    """The report of a converter on the file that it wrote."""

    @property
    def parameters(self) -> Sequence[str]:
        """Names of the parameters that were compared."""

    @property
    def tied(self) -> dict[str, str]:
        """Further names of parameters → the name that each is stored under."""

    @property
    def unused(self) -> Sequence[str]:
        """Names of parameters that take no part in inference and are not in the file."""


@app.command("torch")
def torch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:CALLABLE|MODEL.pt2|...",
            help="net.py:build, package.module:Net, a program saved by torch.export.save, torchvision:NAME, timm:NAME, "
            "or a pickled module (.pt).",
            show_default=False,
        ),
    ],
    out: _Onnx,
    input_shape: Annotated[
        str | None,
        data_option(metavar="C,H,W", help="Shape of one input, without the batch. Default: what the source tells."),
    ] = None,
    input_dtype: Annotated[
        str | None,
        data_option(
            metavar="DTYPE", help="Element type of inputs: int64 for token ids, ... Default: that of the parameters."
        ),
    ] = None,
    weights: Annotated[
        Path | None, network_option(metavar="FILE", help="A checkpoint with the state dict of the network.")
    ] = None,
    key: CheckpointKey = None,
    pretrained: Pretrained = False,
    trust_pickle: Annotated[
        bool, network_option("--trust-pickle", help="Load a pickled module, which can run any code.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Export a PyTorch network."""
    from bitswap_onnx.converters.torch_inputs import input_dtype_name, settle_input
    from bitswap_onnx.converters.torch_source import load_network
    from bitswap_onnx.converters.torch_to_onnx import export_torch

    given = None if input_shape is None else _shape(input_shape)
    dtype = None if input_dtype is None else input_dtype_name(input_dtype)
    check_key(key, weights)
    check_output(out, [Path(source), *([weights] if weights else [])])
    network = load_network(source, weights, key, pretrained=pretrained, trust_pickle=trust_pickle, seed=seed)
    shape, dtype, notes = settle_input(network.form, given, dtype)
    report = export_torch(network.module, shape, out, input_dtype=dtype)
    console.print_notes((*network.notes, *notes))
    _print(report, out)


@app.command("keras")
def keras(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.keras|MODEL.h5", help="A saved Keras model.", show_default=False)
    ],
    out: _Onnx,
) -> None:
    """Export a Keras model."""
    from bitswap_onnx.converters.keras_to_onnx import export_keras

    check_output(out, [model])
    _print(export_keras(model, out), out)


@app.command("onnx-to-keras")
def to_keras(
    model: ModelPath,
    out: Annotated[
        Path, Out(metavar="M.keras", help="The Keras file to write; an existing one is replaced.", show_default=False)
    ],
) -> None:
    """Convert an ONNX model into a Keras model of real layers, channels last, with the same weights."""
    from bitswap_onnx.converters.onnx_to_keras import onnx_to_keras

    check_output(out, [model])
    report = onnx_to_keras(model, out)
    console.out.print(f"layers: {len(report.layers)}")
    console.out.print(f"parameters compared bit for bit: {len(report.parameters)}")
    console.out.print(f"written: {out}")


@app.command("zoo")
def zoo(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A network: ResNet20, Vgg11_bn, ...", show_default=False)],
    dataset: Annotated[
        str,
        network_option(
            metavar="NAME", help="The dataset that the network is for: CIFAR10, CIFAR100 or GTSRB.", show_default=False
        ),
    ],
    out: _Onnx,
    weights: Annotated[
        Path | None,
        network_option(metavar="FILE", help="A checkpoint, or a dnn-benchmarks checkout. Default: random weights."),
    ] = None,
    key: CheckpointKey = None,
    framework: Annotated[
        Literal["torch", "keras"],
        network_option(help="Framework that layers, names and layout come from; keras also writes M.keras."),
    ] = "torch",
    seed: Seed = 0,
) -> None:
    """Export a network of the zoo, with trained or seeded random weights."""
    from bitswap_onnx.converters.torch_to_onnx import export_torch
    from bitswap_onnx.models.zoo import build, find, weights_file

    check_key(key, weights)
    network = find(name, dataset)
    file = None if weights is None else weights_file(network, weights)
    check_output(out, [file] if file else [])
    module = build(network.name, network.dataset.name, file, seed, key=key, on_notes=console.print_notes)
    origin = f"random, seed {seed}" if file is None else f"real, from {file}"
    shape = network.dataset.input_shape
    if framework == "torch":
        report: Report = export_torch(module, shape, out)
    else:
        from bitswap_onnx.converters.keras_to_onnx import export_keras
        from bitswap_onnx.converters.onnx_to_keras import onnx_to_keras

        counterpart = out.with_suffix(".keras")
        check_output(counterpart, [file] if file else [])
        with tempfile.TemporaryDirectory() as folder:
            between = Path(folder, "torch.onnx")
            export_torch(module, shape, between)
            onnx_to_keras(between, counterpart)
        report = export_keras(counterpart, out)
        console.out.print(f"Keras model: {counterpart}")
    console.out.print(f"{network.name} for {network.dataset.name}, weights: {origin}")
    _print(report, out)


def _shape(text: str) -> tuple[int, ...]:
    """Return the sizes in ``text``, of which a first one like N stands for the batch and is left out."""
    parts = [part.strip() for part in text.strip(" ()[]").split(",")]
    try:
        shape = tuple(map(whole, parts[parts[0].lower() in _ANY_BATCH :]))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise BitswapError(
            f"--input-shape: expected sizes of one input like 3,32,32, without the batch, found {text!r}"
        )
    return shape


def _print(report: Report, out: Path) -> None:
    console.out.print(f"parameters compared bit for bit: {len(report.parameters)}")
    if report.tied:
        console.out.print(f"tied: {', '.join(f'{name} = {first}' for name, first in report.tied.items())}")
    if report.unused:
        more = ", ..." if len(report.unused) > _SHOWN else ""
        console.out.print(f"unused at inference: {len(report.unused)} ({', '.join(report.unused[:_SHOWN])}{more})")
    console.out.print(f"written: {out}")
