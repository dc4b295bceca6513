"""Signs that data do not belong to their model: accuracy no better than chance, shifted labels, pixels of another scale.

docs/data_checks.md has the measurements behind the limits.
"""

import numpy as np

from bitswap_onnx.data.dataset import Dataset
from bitswap_onnx.errors import amount
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.outcome import Golden
from bitswap_onnx.runtime.first_statistics import first_statistics
from bitswap_onnx.runtime.session import Numerics

#: Level of the intervals that decide.
_LEVEL = 0.98

#: Inputs that are measured at the first batch norm, and the fewest that tell small values from their chance.
_MEASURED, _FEWEST = 32, 8

#: Beyond these, the values at the first batch norm are of another scale than in training.
_LARGEST_MEAN_SQUARE, _SMALLEST_VARIANCE = 50.0, 0.1


def data_warnings(slicer: Slicer, numerics: Numerics, dataset: Dataset, golden: Golden) -> tuple[str, ...]:
    """Return a sentence for each sign that the data do not belong to the model, as a clean run over them shows."""
    found = [_label_warning(golden), _scale_warning(slicer, numerics, dataset)]
    return tuple(f"warning: {text}" for text in found if text is not None)


def _label_warning(golden: Golden) -> str | None:
    """Return what a clean accuracy at or below chance says: another order of classes, shifted labels, other pixels."""
    if golden.labels is None:
        return None
    count, classes = golden.scores.shape
    right = golden.top_1 == golden.labels
    bar = (1 + 3 / classes) / 4  # a quarter of the way from chance to 1
    for shift in (1, -1):
        shifted = golden.top_1 == golden.labels + shift
        if shifted.mean() >= bar and is_unlikely(int(shifted.sum()), int(shifted.sum() + right.sum()), 0.5):
            return (
                f"the labels fit better by {shift:+d}: the clean model gives the label {shift:+d} for {shifted.mean():.1%} "
                f"of the inputs and the label itself for {right.mean():.1%}; store labels that count the model's classes "
                "from 0"
            )
    if right.mean() < bar and not is_unlikely(int(right.sum()), count, 1 / classes):
        return (
            f"the clean model is right for {right.sum()} of {amount(count, 'input')}, which guessing among {classes} "
            "classes may give too; check the order of the labels, how pixels are prepared, and the weights"
        )
    return None


def is_unlikely(hits: int, count: int, share: float) -> bool:
    """Whether so many hits or more of ``count`` have a probability of at most 1 % where each one has that of ``share``.

    That is: whether the lower end of the 98 % interval of Clopper and Pearson lies above ``share``. It needs no scipy, which
    a campaign does not load.
    """
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])  # of factorials
    k = np.arange(hits, count + 1)
    terms = logs[count] - logs[k] - logs[count - k] + k * np.log(share) + (count - k) * np.log1p(-share)
    return bool(np.exp(terms).sum() <= (1 - _LEVEL) / 2)


def _scale_warning(slicer: Slicer, numerics: Numerics, dataset: Dataset) -> str | None:
    """Return what the first batch norm says of the pixels: far more than in training, or next to nothing."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, _MEASURED).astype(int)).tolist()
    measured = first_statistics(slicer, np.concatenate([dataset.batch(row, row + 1) for row in rows]), numerics)
    if measured is None:
        return None
    about = f"at the first batch norm ({measured.name})"
    remedy = "check how they are prepared: preset, or mean and std"
    if not measured.mean_square <= _LARGEST_MEAN_SQUARE:
        return (
            f"the pixels are far larger than in training: {about} the values' mean square is {measured.mean_square:,.0f} "
            f"times what its running statistics say (are they 0-255 where 0-1 was meant?); {remedy}"
        )
    if len(rows) >= _FEWEST and measured.variance < _SMALLEST_VARIANCE:
        return (
            f"the pixels vary far less than in training: {about} the values' variance is {measured.variance:.1%} of what "
            f"its running statistics say; {remedy}"
        )
    return None
