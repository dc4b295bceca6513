"""Tables and files of a finished neuron campaign: both tables as text, the numbers as CSV, every misclassification."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.store import Store
from bitswap_onnx.experiments.neurons.results import ALL_LAYERS, NeuronCampaign, TargetLayer
from bitswap_onnx.faults.bits import BitFormat
from bitswap_onnx.files import replacing
from bitswap_onnx.outcome import Flags, Golden
from bitswap_onnx.stats.intervals import CONFIDENCE_LEVEL
from bitswap_onnx.stats.proportion import Proportion

#: The columns of the CSV file.
NEURON_COLUMNS = (
    *("number", "layer", "type", "dtype", "weight_shape", "output_shape", "neurons", "inputs", "trials"),
    *("correct_inferences", "misclassified", "misclassified_share", "misclassified_low", "misclassified_high"),
    *("inferences", "critical", "critical_share", "critical_low", "critical_high"),
    *("nonfinite", "nonfinite_share", "nonfinite_low", "nonfinite_high"),
)


@dataclass(frozen=True)
class TextTable:
    """A table to show, with ``notes`` under it. A column whose name starts with ``>`` is aligned to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the table as text, its columns aligned by spaces."""
        cells = [tuple(name.lstrip(">") for name in self.columns), *self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        sides = [">" if name.startswith(">") else "<" for name in self.columns]
        form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
        return "\n".join([self.title, *(form.format(*row).rstrip() for row in cells), *self.notes]) + "\n"


def layer_table(network: str, layers: Iterable[TargetLayer]) -> TextTable:
    """Return the summary of the layers that are hit."""
    columns = (">No.", "Layer", "Type", "Weight", "Output", "Format", ">Neurons")
    rows = []
    for number, name, kind, dtype, weight, output, neurons in map(_about, layers):
        rows.append((str(number), name, kind, weight or "-", output or "-", dtype, f"{neurons:,}"))
    return TextTable(f"Layers of {network} whose output is hit", columns, tuple(rows))


def result_table(campaign: NeuronCampaign) -> TextTable:
    """Return the effect of the faults, per layer and in total: shares in % with their intervals."""
    measured = "Critical" if campaign.correct is None else "Misclassified"
    others = (">Nonfinite %",) if campaign.correct is None else (">Critical %", ">Nonfinite %")
    rows = []
    for row in campaign.rows:
        name = (str(row.layer.number), row.layer.site.layer) if row.layer else ("", ALL_LAYERS)
        shares = (row.critical.share, row.nonfinite.share)[-len(others) :]
        cells = (_in_full(row.misclassified or row.critical), *(f"{100 * share:.2f}" for share in shares))
        rows.append((*name, *cells))
    columns = (">No.", "Layer", f">{measured}: % [{100 * CONFIDENCE_LEVEL:g} %]", *others)
    return TextTable(_title(campaign), columns, tuple(rows), tuple(_notes(campaign)))


def _title(campaign: NeuronCampaign) -> str:
    trials = "" if campaign.trials == 1 else f"{campaign.trials} times "
    bit = "one random bit" if campaign.bit is None else f"bit {campaign.bit}"
    bit += " (0: the sign)" if campaign.bit is not None and campaign.bit_order == "msb" else ""
    return (
        f"{campaign.network} on {campaign.dataset}: {trials}one random neuron and {bit} per layer and input, "
        f"seed {campaign.seed}"
    )


def _notes(campaign: NeuronCampaign) -> Iterator[str]:
    """Yield what each share is a share of."""
    times = "" if campaign.trials == 1 else f", each {campaign.trials} times"
    if campaign.correct is not None:
        yield (
            f"misclassified: the prediction is wrong, of the {campaign.correct} golden-correct inputs{times} "
            f"(clean accuracy {100 * campaign.correct / campaign.inputs:.2f} %)"
        )
    critical = "the prediction is not the golden one" if campaign.is_classifier else "an output exceeds the tolerance"
    yield f"critical: {critical}, of all {campaign.inputs} inputs{times}; nonfinite: an output is NaN or Inf, of the same"


def _in_full(measured: Proportion) -> str:
    low, high = 100 * measured.low, 100 * measured.high
    percent = f"{100 * measured.share:.2f} [{low:.2f}, {high:.2f}]" if measured.inferences else "-"
    return f"{measured.hits}/{measured.inferences}: {percent}"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape or ()))


def write_neuron_report(campaign: NeuronCampaign) -> None:
    """Write both tables as text, and the numbers per layer as CSV; the last row is all layers together."""
    text, numbers, *_ = campaign.files
    with replacing(text) as file:
        file.write(f"{layer_table(campaign.network, campaign.layers)}\n{result_table(campaign)}")
    with replacing(numbers) as file:
        writer = csv.DictWriter(file, NEURON_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(neuron_rows(campaign))


def neuron_rows(campaign: NeuronCampaign) -> Iterator[dict[str, Any]]:
    """Yield the numbers of each layer, by the columns of the CSV file; the last row is all layers together."""
    for row in campaign.rows:
        layer = _about(row.layer) if row.layer else (None, ALL_LAYERS, *(None,) * 5)
        correct = (row.misclassified.inferences, *_fields(row.misclassified)) if row.misclassified else (None,) * 5
        everything = (row.critical.inferences, *_fields(row.critical), *_fields(row.nonfinite))
        cells = (*layer, campaign.inputs, campaign.trials, *correct, *everything)
        yield dict(zip(NEURON_COLUMNS, cells, strict=True))


def _about(layer: TargetLayer) -> tuple[Any, ...]:
    site = layer.site
    shapes = _shape(layer.weight_shape), _shape(site.shape)
    return layer.number, site.layer, site.kind, site.dtype, *shapes, site.elements


def _fields(measured: Proportion) -> tuple[float | None, ...]:
    """Return hits, share, low and high for the CSV, None in place of NaN."""
    values = measured.hits, measured.share, measured.low, measured.high
    return tuple(None if np.isnan(value) else value for value in values)


def write_misclassifications(
    campaign: NeuronCampaign, store: Store, golden: Golden, wrong: NDArray[np.bool_], batch: int
) -> None:
    """Write one line for each true element of ``wrong`` (layers, trials, inputs), a misclassification.

    Without labels, ``wrong`` holds changed predictions. ``batch`` is the batch size. Bits are grouped into sign,
    exponent and mantissa; classes are numbers from 0.
    """
    with replacing(campaign.files[2]) as file:
        for layer, trials in zip(campaign.layers, wrong, strict=True):
            for trial, hits in enumerate(trials):
                file.writelines(_lines(layer, trial, store, golden, hits, batch))


def _lines(layer: TargetLayer, trial: int, store: Store, golden: Golden, hits: Flags, batch: int) -> Iterator[str]:
    injection = layer.injection(trial)
    faulty_classes = _classes(store, injection, golden) if hits.any() else np.empty(0, np.int64)
    for neuron in compress(store.changed_elements(injection), hits):
        number = neuron.input
        clean, faulty = (
            grouped_bits(int(bits, 16), layer.site.format) for bits in (neuron.clean_bits, neuron.faulty_bits)
        )
        classes = (golden.top_1[number], faulty_classes[number]) if golden.criterion.needs_classes else ("-", "-")
        fields = {
            "layer": f"{layer.number} {layer.site.layer}",
            "trial": trial,
            "batch": number // batch,
            "position": number % batch,
            "input": number,
            "neuron": neuron.element,
            "original": f"{neuron.clean_value} = {clean}",
            "bit": neuron.bit,
            "error": f"{neuron.faulty_value} = {faulty}",
            "label": "-" if golden.labels is None else golden.labels[number],
            "golden": classes[0],
            "faulty": classes[1],
        }
        yield " | ".join(f"{name} {value}" for name, value in fields.items()) + "\n"


def _classes(store: Store, injection: str, golden: Golden) -> NDArray[np.int64]:
    """Return the faulty prediction of each input, from the recorded scores."""
    scores = np.frombuffer(store.scores_of(injection), np.float32).reshape(-1, golden.scores.shape[1])
    return np.asarray(np.argmax(scores, axis=1), np.int64)


def grouped_bits(bits: int, fmt: BitFormat) -> str:
    """Return a bit pattern with spaces between sign, exponent and mantissa; for a signed integer, after the sign."""
    groups = groupby(range(fmt.width - 1, -1, -1), key=fmt.bit_class)
    return " ".join("".join(str(bits >> place & 1) for place in group) for _, group in groups)
