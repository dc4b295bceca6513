"""The outcome of every injection on every input: a matrix (injections, inputs), read some rows at a time and summed.

A run that kept its outcomes per input stores a byte of each (`bitswap_onnx.outcome.Outcomes.encoded`).
"""

from functools import cached_property

import numpy as np

from bitswap_onnx.campaign.store import Store
from bitswap_onnx.errors import RunError
from bitswap_onnx.estimates.source import Source
from bitswap_onnx.outcome import CRITICAL, MASKED, NON_CRITICAL, Flags, decode_correct, decode_outcomes
from bitswap_onnx.sampling.rounds import Indices
from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.stratified import Weights
from bitswap_onnx.stats.two_way import InputPart, Margins, add_stratum

_CORRECT = "top_1_correct"
#: Outcomes, a byte each, that are decoded together: they and their flags fit a cache.
_BATCH = 1 << 18


class OutcomeMatrix:
    """The outcomes of a run with all injections on the same ``inputs``; rows are positions in the list."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.inputs = store.golden.inputs

    @cached_property
    def quantities(self) -> tuple[str, ...]:
        """The names of the quantities that outcomes per input tell."""
        drop = () if self._golden_correct is None else ("accuracy_drop",)
        return (*(name for name in self._flags(np.arange(1)) if name != _CORRECT), *drop)

    def input_parts(self, weights: Weights) -> dict[str, InputPart]:
        """Return, by quantity, the column means of a group and the variance that these have from its faults."""
        parts: dict[str, InputPart] = {}
        for number, (share, unseen) in enumerate(zip(weights.shares, weights.unseen, strict=True)):
            for name, margins in self._margins(weights.member[weights.place == number]).items():
                parts[name] = add_stratum(parts.get(name), margins, float(share), float(unseen))
        correct = parts.pop(_CORRECT)
        if self._golden_correct is not None:
            parts["accuracy_drop"] = correct._replace(columns=self._golden_correct - correct.columns)
        return parts

    @cached_property
    def _golden_correct(self) -> Flags | None:
        """Return which inputs (inputs,) the golden run classifies correctly, None where that is not known of all.

        An outcome that is not critical has the golden run's top-1 class, so both are correct or both are wrong.
        """
        known, correct = np.zeros(self.inputs, np.bool_), np.zeros(self.inputs, np.bool_)
        for position in range(self._store.injections):
            flags = self._flags(np.array([position]))
            same_class = ~flags["critical"][0]
            known |= same_class
            correct |= same_class & flags[_CORRECT][0]
            if known.all():
                return correct
        return None

    def _margins(self, member: Indices) -> dict[str, Margins]:
        """Return the sums of each quantity over some injections and all inputs."""
        rows: dict[str, list[Values]] = {}
        columns: dict[str, Values] = {}
        step = max(1, _BATCH // self.inputs)
        for first in range(0, len(member), step):
            for name, flags in self._flags(member[first : first + step]).items():
                rows.setdefault(name, []).append(np.count_nonzero(flags, axis=1).astype(np.float64))
                columns[name] = columns.get(name, np.zeros(self.inputs)) + flags.sum(axis=0, dtype=np.uint32)
        return {name: Margins(np.concatenate(rows[name]), columns[name]) for name in columns}

    def _flags(self, member: Indices) -> dict[str, Flags]:
        """Return each quantity of some injections as flags (injections, inputs)."""
        encoded = b"".join(self._store.outcomes_at(int(position)) for position in member)
        codes, nonfinite = decode_outcomes(encoded)
        critical = codes == CRITICAL
        quantities = {
            "critical": critical,
            "masked": codes == MASKED,
            "non_critical": codes == NON_CRITICAL,
            "nonfinite": nonfinite,
            "critical_nonfinite": critical & nonfinite,
            "critical_or_nonfinite": critical | nonfinite,
            "critical_finite": critical & ~nonfinite,
            _CORRECT: decode_correct(encoded),
        }
        return {name: flags.reshape(len(member), self.inputs) for name, flags in quantities.items()}


def read_outcome_matrix(source: Source) -> OutcomeMatrix:
    """Return the outcomes that a finished run recorded per input.

    Raises RunError for a results file, which holds sums alone, for a run that did not record them, and for a run whose
    injections ran over different inputs.
    """
    store = source.store
    if store is None:
        raise RunError(
            f"{source}: `over_inputs` needs the outcome of every input, expected a run directory, found a file"
        )
    identity = store.identity
    if identity.inputs is not None:
        raise RunError(
            f"{source}: `over_inputs` expects all faults on the same inputs, found inputs drawn for each fault, which the "
            "intervals cover already; leave it out"
        )
    if store.has_selected_inputs:
        raise RunError(
            f"{source}: `over_inputs` expects all faults on the same inputs, found faults that name theirs; leave it out"
        )
    if "per_input" not in identity.records:
        raise RunError(
            f"{source}: `over_inputs` needs the outcome of every input, which this run did not keep; run inject again with "
            "`per_input`"
        )
    return OutcomeMatrix(store)
