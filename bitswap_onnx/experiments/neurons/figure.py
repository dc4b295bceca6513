"""The figure of a neuron campaign: the misclassified share of every layer."""

from pathlib import Path

import numpy as np

from bitswap_onnx.experiments.neurons.results import ALL_LAYERS, NeuronCampaign, neuron_files
from bitswap_onnx.report.figures import Bars, save_figure


def plot_neurons(campaign: NeuronCampaign) -> tuple[Path, Path]:
    """Draw `neuron_panels` into an SVG and a PNG in the run directory (`neuron_files`), and return both paths.

    Raises MissingExtraError without matplotlib.
    """
    *_, svg, _ = neuron_files(campaign.run, campaign.network, campaign.dataset, campaign.seed)
    return save_figure(svg, neuron_panels(campaign))


def neuron_panels(campaign: NeuronCampaign) -> list[Bars]:
    """Return the misclassified share of every layer and of all layers, without labels the critical share."""
    measured = [row.misclassified or row.critical for row in campaign.rows]
    values, low, high = 100 * np.array([(row.share, row.low, row.high) for row in measured]).T
    label = "critical, % of inputs" if campaign.correct is None else "misclassified, % of golden-correct inputs"
    names = [*(f"{layer.number}  {layer.site.layer}" for layer in campaign.layers), ALL_LAYERS]
    title = f"{campaign.network} on {campaign.dataset}"
    return [Bars(title, label, names, values, low, high)]
