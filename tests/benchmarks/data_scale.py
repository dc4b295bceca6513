"""What the first batch norm of the trained ResNet20 gets under right and wrong preprocessing; docs/data_checks.md has a run.

``python -m tests.benchmarks.data_scale --reference FOLDER`` measures batches of all, of 32 and of single images.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.setup import Setup, prepare
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.runtime.first_statistics import first_statistics
from tests.benchmarks.subjects import add_reference, image_settings, make_subject

IMAGES = 846
#: Name → preprocessing of pixels 0-255.
CASES = {
    "cifar10, as in training": Preprocessing(preset="cifar10"),
    "cifar100": Preprocessing(preset="cifar100"),
    "-1 to 1 (imagenet-tf)": Preprocessing(preset="imagenet-tf"),
    "0 to 1": Preprocessing(mean=(0.0,), std=(1.0,)),
    "0 to 1, minus the mean": Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(1.0,)),
    "0 to 255": Preprocessing(preset="imagenet-identity"),
    "0 to 255, BGR, minus the mean (imagenet-caffe)": Preprocessing(preset="imagenet-caffe"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_reference(parser)
    options = parser.parse_args()
    print("| pixels | top-1 | mean square: all, 32, 1 images | variance: all, 32, 1 images |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        model = make_subject("ResNet20", options.reference, Path(folder)).model
        for name, preprocessing in CASES.items():
            setup = prepare(model, replace(image_settings(options.reference, IMAGES), preprocessing=preprocessing))
            golden, x = setup.clean_run().golden, setup.dataset.batch(0, IMAGES)
            squares, variances = zip(*(_ranges(setup, x, size) for size in (IMAGES, 32, 1)), strict=True)
            accuracy = np.mean(golden.top_1 == golden.labels)
            print(f"| {name} | {accuracy:.1%} | {', '.join(squares)} | {', '.join(variances)} |", flush=True)


def _ranges(setup: Setup, x: NDArray[np.generic], size: int) -> tuple[str, ...]:
    """Return the ranges of mean square and variance over 26 batches, or as many as there are."""
    parts = [x[first : first + size] for first in range(0, IMAGES - size + 1, size)][:26]
    found = [first_statistics(setup.clean_slicer, part, setup.numerics) for part in parts]
    values = np.array([(each.mean_square, each.variance) for each in found if each is not None])
    spans = zip(values.min(axis=0), values.max(axis=0), strict=True)
    return tuple(f"{low:.3g}" if low == high else f"{low:.3g}-{high:.3g}" for low, high in spans)


if __name__ == "__main__":
    main()
