"""Whether an injection that ran again agrees with all that a store has of it."""

import numpy as np

from bitswap_onnx.campaign.audit_choice import AuditChoice
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.outcome import Counts
from bitswap_onnx.runtime.lanes import affected_inputs
from bitswap_onnx.runtime.messages import Result


def agrees(store: Store, choice: AuditChoice, result: Result) -> bool:
    """Whether the result of an injection agrees with its stored fingerprint, counts and records.

    Over a batch, the counts must be possible beside those of its chunk.
    """
    length, inputs = store.unit_length, choice.inputs
    first = inputs.first // length * length
    chunk = Chunk(first, min(first + length, store.golden.inputs))
    stored, counts, records = store.outcome(choice.position, chunk), result.counts[0], result.blobs[0]
    before = len(affected_inputs(store.edits(choice.position, chunk), first, inputs.first - first))
    rows = slice(before, before + (counts["inputs"] or 0))
    total = stored.counts["inputs"] or 0
    return (
        choice.fingerprint in (None, result.fingerprints[0])
        and _fit(counts, stored.counts)
        and records.get("per_input") == _rows(stored.per_input, rows, total)
        and _same_scores(records.get("scores"), _rows(stored.scores, rows, total))
    )


def _fit(counts: Counts, whole: Counts) -> bool:
    """Whether counts over some inputs are possible beside those over the ``whole`` chunk; they are equal over all inputs."""
    others = (whole["inputs"] or 0) - (counts["inputs"] or 0)
    return all(
        (count is None) == (whole[name] is None) and 0 <= (whole[name] or 0) - (count or 0) <= others
        for name, count in counts.items()
    )


def _rows(record: bytes | None, rows: slice, total: int) -> bytes | None:
    """Return the part of a record of ``total`` inputs that belongs to some of them."""
    if record is None:
        return None
    width = len(record) // total
    return record[rows.start * width : rows.stop * width]


def _same_scores(again: bytes | None, stored: bytes | None) -> bool:
    """Whether two records of scores (float32) are equal, NaN to NaN."""
    if again is None or stored is None:
        return again is stored
    return np.array_equal(np.frombuffer(again, np.float32), np.frombuffer(stored, np.float32), equal_nan=True)
