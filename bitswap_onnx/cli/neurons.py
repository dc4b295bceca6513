"""``neurons``: random transient faults in the outputs of layers."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.cli import console
from bitswap_onnx.cli.documents import neuron_document
from bitswap_onnx.cli.inject import watched
from bitswap_onnx.cli.option_groups import data_option, fault_option, output_option
from bitswap_onnx.cli.option_types import BitOrderOption, Exclude, LayerType, ModelPath, Plot
from bitswap_onnx.cli.options import with_shared
from bitswap_onnx.cli.view import View
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.numerals import whole

if TYPE_CHECKING:
    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.experiments.neurons.report import TextTable
    from bitswap_onnx.experiments.neurons.results import NeuronCampaign, TargetLayer

_LayerNum = Annotated[
    str | None,
    fault_option(
        metavar="N,..",
        help="Of the chosen layers, only these numbers (column No. of the table); the model's input is 0.",
    ),
]
_Bit = Annotated[
    int | None,
    fault_option(metavar="BIT", min=0, help="Always flip this bit (see --bit-order). Default: a random one."),
]
_DetailedLog = Annotated[
    bool, output_option("--detailed-log", help="List every misclassification in a file of its own.")
]


@with_shared
def command(
    model: ModelPath,
    settings: "Settings",
    options: RunOptions,
    view: View,
    layers: Annotated[
        str | None,
        fault_option(
            metavar="NAME,..",
            help="Only these layers: globs or parts of names. Default: the model's input, layers with kernels, and modules "
            "that the export left out of the graph.",
        ),
    ] = None,
    exclude: Exclude = None,
    layer_type: LayerType = None,
    layer_num: _LayerNum = None,
    bit: _Bit = None,
    bit_order: BitOrderOption = "lsb",
    trials: Annotated[int, fault_option(metavar="N", min=1, help="Faults per layer and input.")] = 1,
    drop_last: Annotated[bool, data_option("--drop-last", help="Leave out the last batch if it is not full.")] = False,
    detailed_log: _DetailedLog = False,
    plot: Plot = False,
) -> None:
    """Flip one random bit of one random neuron per layer and input, and count misclassifications; --seed seeds the draws."""
    from bitswap_onnx.experiments.neurons.figure import plot_neurons
    from bitswap_onnx.experiments.neurons.run import run_neurons
    from bitswap_onnx.report.figures import require_matplotlib

    if plot:
        require_matplotlib()
    with watched(options, view) as watched_options:
        campaign = run_neurons(
            model,
            layers=layers,
            exclude=exclude,
            layer_type=layer_type,
            numbers=_numbers(layer_num),
            bit=bit,
            bit_order=bit_order,
            trials=trials,
            drop_last=drop_last,
            detailed_log=detailed_log,
            settings=settings,
            on_layers=_print_layers if view.has_tables else None,
            options=watched_options,
        )
    files = (*campaign.files, *(plot_neurons(campaign) if plot else ()))
    view.print(campaign.run, partial(neuron_document, campaign, files), partial(_print, campaign, files))


def _numbers(text: str | None) -> frozenset[int] | None:
    try:
        return None if text is None else frozenset(whole(part) for part in text.split(","))
    except ValueError:
        raise BitswapError(f"--layer-num: expected whole numbers like 0,2,4, found {text!r}") from None


def _print_layers(network: str, layers: Sequence["TargetLayer"]) -> None:
    from bitswap_onnx.experiments.neurons.report import layer_table

    _show(layer_table(network, layers))


def _print(campaign: "NeuronCampaign", files: Iterable[Path]) -> None:
    from bitswap_onnx.experiments.neurons.report import result_table

    _show(result_table(campaign))
    console.out.print(f"written: {', '.join(map(str, files))}")


def _show(table: "TextTable") -> None:
    result = console.table(table.title, *table.columns)
    for row in table.rows:
        result.add_row(*row)
    console.out.print(result)
    console.print_notes(table.notes, "")
