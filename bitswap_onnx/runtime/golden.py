"""The golden run: the clean inference that outcomes are measured against."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import DataError, ModelError
from bitswap_onnx.graph.model import Model
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.session import Session

_NAMED = 5


def golden_run(model: Model, session: Session, inputs: Iterable[NDArray[np.generic]], classes: bool) -> Scores:
    """Return the clean scores (inputs, classes) of all ``inputs``, given as consecutive arrays (n, ...).

    ``classes`` False: the model is no classifier; its output may have any shape and is flattened. Raises ModelError for a
    classifier with fewer than two classes. Raises DataError, naming the first inputs, if a score is NaN (without classes:
    or Inf), since no outcome can be judged against it.
    """
    scores: Scores = np.concatenate([session.run(piece, rank=2 if classes else None) for piece in inputs])
    if classes and scores.shape[1] < 2:
        raise ModelError(
            f"{model.name}: output {session.output} has {scores.shape[1]} value per input, a classifier has two or more; "
            "name another `output`, or pass `criterion` tolerance=REL"
        )
    if not scores.size:
        raise ModelError(f"{model.name}: output {session.output} has no values; name another `output`")
    unusable = np.isnan(scores) if classes else ~np.isfinite(scores)
    wrong = np.flatnonzero(unusable.any(axis=1))
    if len(wrong):
        named = ", ".join(map(str, wrong[:_NAMED]))
        raise DataError(
            f"{model.name}: the clean model gives {'NaN' if classes else 'NaN or Inf'} for {len(wrong)} of {len(scores)} "
            f"inputs (first: {named}); check the preprocessing (`preset`, `mean`, `std`) or leave these inputs out"
        )
    return scores


def score_fingerprint(scores: Scores) -> str:
    """Return a hash of the scores' bits; runs that round differently have different hashes."""
    return hashlib.sha256(np.ascontiguousarray(scores).tobytes()).hexdigest()
