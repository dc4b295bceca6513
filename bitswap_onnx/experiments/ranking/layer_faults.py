"""Faults layer by layer: injections that each stay within one layer, and the outcomes of a finished run by layer."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.errors import ModelError
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.faults.fault import Fault, Injection, Site
from bitswap_onnx.graph.costs import kernel_of
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.graph.targets import Target, find_targets
from bitswap_onnx.outcome import CRITICAL, decode_correct, decode_outcomes
from bitswap_onnx.stats.intervals import Values

RankingSite = Literal["neurons", "weights"]


@dataclass(frozen=True, eq=False)
class LayerOutcomes:
    """Shares of correct, critical and nonfinite inferences, each (layers, units).

    The unit is the sampling unit. For neurons it is an input, with the mean over its trials; for weights it is a fault,
    with the mean over its inputs. Without labels, an inference is correct if its prediction is the golden one.
    """

    correct: Values
    critical: Values
    nonfinite: Values


def draw_layer_faults(
    setup: Setup, sites: Sequence[NeuronSite], where: RankingSite, trials: int, seed: int
) -> list[Injection]:
    """Return ``trials`` injections per layer, each of which flips one random bit of one random element.

    Neurons: an element of the layer's input tensor, drawn anew for each input. Weights: an element of its kernel, for
    all inputs. Trial t of a layer draws, input by input, from ``SeedSequence(seed, spawn_key=(t, number))``, where the
    layer's name decides the number. So a draw does not change with other layers, more trials or more inputs. Raises
    ModelError for a layer without a stored kernel where weights are hit.
    """
    targets = find_targets(setup.model)
    kernels = [kernel_of(site, targets) for site in sites] if where == "weights" else [None] * len(sites)
    missing = [site.layer for site, kernel in zip(sites, kernels, strict=True) if kernel is None]
    if where == "weights" and missing:
        raise ModelError(f"`where` weights: layer {missing[0]!r} has no stored kernel; choose others with `layers`")
    return list(_injections(setup, sites, kernels, trials, seed))


def _injections(
    setup: Setup, sites: Sequence[NeuronSite], kernels: Sequence[Target | None], trials: int, seed: int
) -> Iterator[Injection]:
    for number, (site, kernel) in enumerate(zip(sites, kernels, strict=True)):
        for trial in range(trials):
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(trial, site.number)))
            shape, count = (site.shape, len(setup.dataset)) if kernel is None else (kernel.shape, 1)
            width = site.format.width if kernel is None else FORMATS[kernel.dtype].width
            elements, bits = rng.integers([math.prod(shape), width], size=(count, 2)).T.tolist()
            indices = [tuple(map(int, np.unravel_index(element, shape))) if shape else () for element in elements]
            yield Injection(
                layer_injection_id(number, trial),
                tuple(
                    Fault(site.layer, index, bit, site=Site.INPUT, input=place)
                    if kernel is None
                    else Fault(kernel.layer, index, bit, parameter=kernel.parameter)
                    for place, (index, bit) in enumerate(zip(indices, bits, strict=True))
                ),
            )


def layer_injection_id(layer: int, trial: int) -> str:
    """Return the id of a layer's injection in a trial."""
    return f"L{layer}_t{trial}"


def read_layer_outcomes(
    run: Path, layers: int, trials: Sequence[int], where: RankingSite, labelled: bool
) -> LayerOutcomes:
    """Return the outcomes of some ``trials`` of a finished `draw_layer_faults` run, which has the record ``per_input``."""

    def inferences(encoded: bytes) -> NDArray[np.bool_]:
        """Return which inferences are correct, critical and nonfinite, (3, inputs)."""
        codes, nonfinite = decode_outcomes(encoded)
        correct = decode_correct(encoded) if labelled else codes != CRITICAL
        return np.stack([correct, codes == CRITICAL, nonfinite])

    with reading(run) as store:
        outcomes = np.array(  # (layers, trials, 3, inputs)
            [
                [inferences(store.outcomes_of(layer_injection_id(layer, trial))) for trial in trials]
                for layer in range(layers)
            ]
        )
    shares = outcomes.mean(axis=1).swapaxes(0, 1) if where == "neurons" else np.moveaxis(outcomes.mean(axis=3), 2, 0)
    return LayerOutcomes(*shares)
