"""What a run recorded of every fault on every input, a matrix that is read some rows at a time and summed.

A run that kept its outcomes per input has a byte of each (`bitswap_onnx.outcome.Outcomes.encoded`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np

from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.errors import RunError
from bitswap_onnx.outcome import CRITICAL, MASKED, NON_CRITICAL, Flags, decode_correct, decode_outcomes
from bitswap_onnx.sampling.rounds import Members
from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.stratified import Weights
from bitswap_onnx.stats.two_way import InputPart, Margins, add_stratum

_OPTION = "--over-inputs"
_CORRECT = "top_1_correct"
#: Inferences, a byte each, that are looked at together: what they take fits a cache.
_BATCH = 1 << 18


class OutcomeMatrix:
    """Every injection of a run on every input; positions are those of the list."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.inputs = int(store.setting("golden")["inputs"])

    @cached_property
    def quantities(self) -> tuple[str, ...]:
        """What the bytes tell of."""
        drop = () if self._golden_correct is None else ("accuracy_drop",)
        return (*(name for name in self._flags(np.arange(1)) if name != _CORRECT), *drop)

    def input_parts(self, weights: Weights) -> dict[str, InputPart]:
        """Return, by quantity, what the inputs say about a group of injections."""
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
        """Return which inputs (inputs,) the golden run gets right, None if that cannot be told of all of them.

        Where an outcome is not critical, the top-1 class is the golden one, and so is whether it is correct.
        """
        known, right = np.zeros(self.inputs, np.bool_), np.zeros(self.inputs, np.bool_)
        for position in range(self._store.injections):
            flags = self._flags(np.array([position]))
            kept = ~flags["critical"][0]
            known |= kept
            right |= kept & flags[_CORRECT][0]
            if known.all():
                return right
        return None

    def _margins(self, member: Members) -> dict[str, Margins]:
        """Return the sums of each quantity over some injections and all inputs."""
        rows: dict[str, list[Values]] = {}
        columns: dict[str, Values] = {}
        step = max(1, _BATCH // self.inputs)
        for first in range(0, len(member), step):
            for name, flags in self._flags(member[first : first + step]).items():
                rows.setdefault(name, []).append(np.count_nonzero(flags, axis=1).astype(np.float64))
                columns[name] = columns.get(name, np.zeros(self.inputs)) + flags.sum(axis=0, dtype=np.uint32)
        return {name: Margins(np.concatenate(rows[name]), columns[name]) for name in columns}

    def _flags(self, member: Members) -> dict[str, Flags]:
        """Return what the bytes of some injections say, each (injections, inputs)."""
        encoded = b"".join(self._bytes(int(position)) for position in member)
        codes, nonfinite = decode_outcomes(encoded)
        found = {"critical": codes == CRITICAL, "masked": codes == MASKED, "non_critical": codes == NON_CRITICAL}
        found |= {"nonfinite": nonfinite, "critical_nonfinite": found["critical"] & nonfinite}
        found |= {
            "critical_or_nonfinite": found["critical"] | nonfinite,
            "critical_finite": found["critical"] & ~nonfinite,
        }
        found |= {_CORRECT: decode_correct(encoded)}
        return {name: flags.reshape(len(member), self.inputs) for name, flags in found.items()}

    def _bytes(self, position: int) -> bytes:
        rows = self._store.query("SELECT per_input FROM outcome WHERE position = ? ORDER BY first", (position,))
        return b"".join(blob for (blob,) in rows)


@contextmanager
def open_outcome_matrix(source: Path) -> Iterator[OutcomeMatrix]:
    """Open what a finished run recorded per input.

    Raises RunError for a results file, which holds sums alone, for a run that did not record it, and for runs whose
    injections ran over different inputs.
    """
    if not source.is_dir():
        raise RunError(f"{source}: {_OPTION} needs the outcome of every input, expected a run directory, found a file")
    with reading(source) as store:
        identity = store.setting("identity")
        if identity.get("inputs") is not None:
            raise RunError(
                f"{source}: {_OPTION} is for runs of all faults on the same inputs; here each fault has inputs of its own, "
                "so that the intervals cover the inputs already; leave it out"
            )
        if store.query("SELECT 1 FROM injection WHERE inputs IS NOT NULL LIMIT 1").fetchone():
            raise RunError(
                f"{source}: {_OPTION} is for runs of all faults on the same inputs; here faults name their inputs; leave "
                "it out"
            )
        if "per_input" not in identity["records"]:
            raise RunError(
                f"{source}: {_OPTION} needs the outcome of every input, which this run did not keep; run inject with "
                "--per-input"
            )
        yield OutcomeMatrix(store)
