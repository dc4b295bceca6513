"""What a neuron campaign found, layer by layer: its numbers, and the tables, files and figure that show them.

Shares are of inferences: each input of the dataset once per trial. The input is the sampling unit, its trials (and for the
total its layers) are a cluster; everything is conditional on the layers. Intervals are Wilson's, see `proportion`.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress, groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.store import Store
from bitswap_onnx.faults.bits import BitFormat
from bitswap_onnx.files import replacing
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.outcome import Flags, Golden
from bitswap_onnx.stats.intervals import CONFIDENCE_LEVEL
from bitswap_onnx.stats.proportion import Proportion

ALL_LAYERS = "all layers"

_COLUMNS = (
    *("number", "layer", "type", "dtype", "weight_shape", "output_shape", "neurons", "inputs", "trials"),
    *("correct_inferences", "misclassified", "misclassified_share", "misclassified_low", "misclassified_high"),
    *("inferences", "critical", "critical_share", "critical_low", "critical_high"),
    *("nonfinite", "nonfinite_share", "nonfinite_low", "nonfinite_high"),
)


@dataclass(frozen=True, slots=True)
class TargetLayer:
    """A layer whose output is hit: its ``number`` in the selection, its ``weight``'s shape."""

    number: int
    site: NeuronSite
    weight_shape: tuple[int, ...] | None

    def injection(self, trial: int) -> str:
        """Return the id of its injection in one trial."""
        return f"L{self.number:02d}_t{trial}"


@dataclass(frozen=True, slots=True)
class LayerShares:
    """One layer's outcomes, or those of all (``layer`` None).

    ``misclassified`` is among inputs whose golden prediction is the label (None without labels); ``critical`` and
    ``nonfinite`` are among all inputs.
    """

    layer: TargetLayer | None
    misclassified: Proportion | None
    critical: Proportion
    nonfinite: Proportion


@dataclass(frozen=True, slots=True)
class NeuronCampaign:
    """A finished campaign over ``inputs``, of which ``correct`` are golden-correct (None without labels).

    ``rows``: the layers in order, then all of them together. ``bit`` None: a random one. ``is_classifier``: critical means
    another prediction, not a tolerance that was exceeded. ``detailed``: whether misclassifications are listed in a file.
    """

    run: Path
    network: str
    dataset: str
    seed: int
    inputs: int
    trials: int
    bit: int | None
    correct: int | None
    rows: tuple[LayerShares, ...]
    is_classifier: bool
    detailed: bool

    @property
    def layers(self) -> list[TargetLayer]:
        """The layers, in order."""
        return [row.layer for row in self.rows if row.layer is not None]

    @property
    def files(self) -> tuple[Path, ...]:
        """``<model>_<dataset>_<seed>.txt``, the same with ``.csv``, and perhaps with ``_detailed.txt``."""
        return neuron_files(self.run, self.network, self.dataset, self.seed)[: 3 if self.detailed else 2]


@dataclass(frozen=True)
class TextTable:
    """A table as it is shown, ``notes`` under it; columns whose name starts with ``>`` are aligned to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the table in columns that are aligned by spaces."""
        cells = [tuple(name.lstrip(">") for name in self.columns), *self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        sides = [">" if name.startswith(">") else "<" for name in self.columns]
        form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
        return "\n".join([self.title, *(form.format(*row).rstrip() for row in cells), *self.notes]) + "\n"


def neuron_files(run: Path, network: str, dataset: str, seed: int) -> tuple[Path, ...]:
    """Return every file that a campaign may have: text, numbers, misclassifications, figures."""
    ends = (".txt", ".csv", "_detailed.txt", ".svg", ".png")
    return tuple(run / f"{network}_{dataset}_{seed}{end}" for end in ends)


def layer_table(network: str, layers: Iterable[TargetLayer]) -> TextTable:
    """Return the summary of the layers that are hit."""
    columns = (">No.", "Layer", "Type", "Weight", "Output", "Format", ">Neurons")
    rows = []
    for number, name, kind, dtype, weight, output, neurons in map(_about, layers):
        rows.append((str(number), name, kind, weight or "-", output or "-", dtype, f"{neurons:,}"))
    return TextTable(f"Layers of {network} whose output is hit", columns, tuple(rows))


def result_table(campaign: NeuronCampaign) -> TextTable:
    """Return what the faults did, per layer and in all: shares in % with their intervals."""
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
    return (
        f"{campaign.network} on {campaign.dataset}: {trials}one random neuron and {bit} per layer and input, "
        f"seed {campaign.seed}"
    )


def _notes(campaign: NeuronCampaign) -> Iterator[str]:
    """Name the denominators."""
    times = "" if campaign.trials == 1 else f", each {campaign.trials} times"
    if campaign.correct is not None:
        yield (
            f"misclassified: the prediction is wrong, of the {campaign.correct} golden-correct inputs{times} "
            f"(clean accuracy {100 * campaign.correct / campaign.inputs:.2f} %)"
        )
    what = "the prediction is not the golden one" if campaign.is_classifier else "an output exceeds the tolerance"
    yield f"critical: {what}, of all {campaign.inputs} inputs{times}; nonfinite: an output is NaN or Inf, of the same"


def _in_full(one: Proportion) -> str:
    percent = f"{100 * one.share:.2f} [{100 * one.low:.2f}, {100 * one.high:.2f}]" if one.inferences else "-"
    return f"{one.hits}/{one.inferences}: {percent}"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape or ()))


def write_report(campaign: NeuronCampaign) -> None:
    """Write the text with both tables, and the numbers per layer as CSV; the last row is that of all layers."""
    text, numbers, *_ = campaign.files
    with replacing(text) as file:
        file.write(f"{layer_table(campaign.network, campaign.layers)}\n{result_table(campaign)}")
    with replacing(numbers) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for row in campaign.rows:
            about = _about(row.layer) if row.layer else (None, ALL_LAYERS, *(None,) * 5)
            correct = (row.misclassified.inferences, *_fields(row.misclassified)) if row.misclassified else (None,) * 5
            everything = (row.critical.inferences, *_fields(row.critical), *_fields(row.nonfinite))
            writer.writerow((*about, campaign.inputs, campaign.trials, *correct, *everything))


def _about(layer: TargetLayer) -> tuple[Any, ...]:
    site = layer.site
    shapes = _shape(layer.weight_shape), _shape(site.shape)
    return layer.number, site.layer, site.kind, site.dtype, *shapes, site.elements


def _fields(one: Proportion) -> tuple[float | None, ...]:
    """Return hits, share, low and high for the CSV; None for what there is not."""
    return tuple(None if np.isnan(value) else value for value in (one.hits, one.share, one.low, one.high))


def write_detail(campaign: NeuronCampaign, store: Store, golden: Golden, wrong: NDArray[np.bool_], batch: int) -> None:
    """Write a line per misclassification: ``wrong`` (layers, trials, inputs) says which.

    Without labels those are changed predictions. ``batch`` is the batch size. Bits are grouped into sign, exponent and
    mantissa; classes are numbers from 0.
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
        classes = (golden.top_1[number], faulty_classes[number]) if golden.criterion.tolerance is None else ("-", "-")
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
    scores = np.frombuffer(store.scores_per_input(injection), np.float32).reshape(-1, golden.scores.shape[1])
    return np.asarray(np.argmax(scores, axis=1), np.int64)


def grouped_bits(bits: int, fmt: BitFormat) -> str:
    """Return a bit pattern with a space between sign, exponent and mantissa (or sign and the rest of an integer)."""
    groups = groupby(range(fmt.width - 1, -1, -1), key=fmt.bit_class)
    return " ".join("".join(str(bits >> place & 1) for place in group) for _, group in groups)
