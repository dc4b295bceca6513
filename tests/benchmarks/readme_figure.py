"""The figure of the README: every bit of every kernel of the shipped digits model, flipped once over all its images.

``python -m tests.benchmarks.readme_figure [--run DIR]`` runs the exhaustive list, 196,864 faults × 360 images, in DIR or a
temporary folder, and draws the critical share by layer and bit into docs/figures/digits_by_bit.svg. DIR may hold a part of
that campaign already. Needs matplotlib.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.estimates.question import Question
from bitswap_onnx.estimates.rates import Rates, estimate_rates
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.report.figures import Curve, Panel, save_figure
from bitswap_onnx.sampling.generate import generate_faults
from bitswap_onnx.sampling.request import SamplingRequest

REPO = Path(__file__).parents[2]
MODEL = REPO / "models/digits_cnn.onnx"
FIGURE = REPO / "docs/figures/digits_by_bit"
LAYERS = ("conv1", "conv2", "conv3", "linear")
#: Flips of the lower bits change next to nothing.
BITS = np.arange(16, 32)


def take_census(folder: Path) -> Rates:
    """Run every flip of the kernels in ``folder``, or what is left of them, and return the rates by layer and bit."""
    faults, run = folder / "faults.csv", folder / "run"
    generate_faults(load_model(MODEL), SamplingRequest("exhaustive"), faults)
    run_campaign(MODEL, faults, run=run, resume=run.exists())
    return estimate_rates(run, Question(by=("network", "layer-bit")))


def curve(rates: Rates, layer: str) -> Curve:
    shares = [rates.find("layer-bit", f"{layer} bit {bit}", "critical").mean for bit in BITS]
    return Curve(layer, BITS, 100 * np.asarray(shares, np.float64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of the census; default: a temporary one")
    given = parser.parse_args().run
    with tempfile.TemporaryDirectory() as temporary:
        rates = take_census(given or Path(temporary))
    axes = "bit (31: sign, 30 to 23: exponent)", "critical inferences, %"
    panel = Panel("Every bit of the shipped model's kernels, flipped", *axes, [curve(rates, layer) for layer in LAYERS])
    svg, png = save_figure(FIGURE, [panel])
    png.unlink()
    print(f"written: {svg.relative_to(REPO)}")


if __name__ == "__main__":
    main()
