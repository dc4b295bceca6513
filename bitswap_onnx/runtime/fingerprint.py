"""Fingerprints: numbers that stand for what an injection gave over one batch. An audit can look at that batch alone."""

import zlib

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.outcome import Outcomes, Scores


def fingerprint(
    outcomes: Outcomes, golden: Scores, rows: NDArray[np.intp], scores: Scores, inputs: NDArray[np.intp]
) -> int:
    """Return the CRC-32 of an injection's scores and outcomes for some ``inputs``, (n,) and ascending.

    ``golden`` (inputs, classes) are the scores of a block of inputs; the injection has its own ``scores`` for ``rows`` of
    it. Scores that are equal (IEEE ==) have the same fingerprint, and so have all NaN.
    """
    places = np.searchsorted(inputs, rows)
    within = inputs.take(places, mode="clip") == rows
    full = golden[inputs]
    full[places[within]] = scores[within]
    with np.errstate(invalid="ignore"):  # a signalling NaN warns
        full += 0  # the sum of -0 and 0 is 0
    full[np.isnan(full)] = np.nan
    return zlib.crc32(outcomes.flags[:, inputs].tobytes(), zlib.crc32(full.tobytes()))
