"""Figures of random neuron faults: the misclassified share of every layer."""

from pathlib import Path

import numpy as np

from bitswap_onnx.experiments.neurons.report import ALL_LAYERS, NeuronCampaign, neuron_files
from bitswap_onnx.report.figures import Bars, save_figure


def plot_neurons(campaign: NeuronCampaign) -> tuple[Path, Path]:
    """Draw the misclassified share (without labels the critical one) of every layer and of all; return SVG and PNG.

    Raises MissingExtraError without matplotlib.
    """
    measured = [row.misclassified or row.critical for row in campaign.rows]
    values, low, high = 100 * np.array([(one.share, one.low, one.high) for one in measured]).T
    what = "critical, % of inputs" if campaign.correct is None else "misclassified, % of golden-correct inputs"
    names = [*(f"{layer.number}  {layer.site.layer}" for layer in campaign.layers), ALL_LAYERS]
    title = f"{campaign.network} on {campaign.dataset}"
    *_, drawing, _ = neuron_files(campaign.run, campaign.network, campaign.dataset, campaign.seed)
    return save_figure(drawing, [Bars(title, what, names, values, low, high)])
