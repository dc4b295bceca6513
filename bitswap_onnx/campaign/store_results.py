"""Queries for the results files, the summary and the audit. No query changes the store."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from bitswap_onnx.campaign.store_file import StoreFile
from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.outcome import COUNTS, Counts

#: Layers that the label of a faulty path names, at most.
_NAMED = 3

#: An injection's counts stand on its first row alone, so that a sum over rows counts them once.
_ROWS = f"""
SELECT i.id, r.layer, r.tensor_index, r.bit,
       {", ".join(f"CASE WHEN r.row = 0 THEN o.{name} END" for name in ("inputs", *COUNTS))},
       r.parameter, r.kind, r.value,
       r.site, CASE WHEN r.site = '' THEN '' ELSE COALESCE(r.input, 'all') END,
       r.clean_bits, r.faulty_bits, r.clean_value, r.faulty_value, r.effect
FROM injection i JOIN receipt r ON r.position = i.position
JOIN (SELECT position, SUM(inputs) AS inputs, {", ".join(f"SUM({name}) AS {name}" for name in COUNTS)}
      FROM outcome GROUP BY position) o ON o.position = i.position
ORDER BY i.position, r.row
"""


#: Whether the injection ``i`` has a fault in the top exponent bit.
_TOP_EXPONENT = """EXISTS (SELECT 1 FROM receipt r WHERE r.position = i.position AND r.bit_class = 'exponent'
AND r.bit = 4 * (LENGTH(r.clean_bits) - 2) - 2)"""


class AuditCandidate(NamedTuple):
    """An injection that an audit may run again. ``critical``, ``changed``: it has critical or non-critical inferences.

    ``telling``: it has nonfinite scores, or a fault in the top exponent bit, so that engines are likely to differ.
    """

    position: int
    path: int
    telling: bool
    critical: bool
    changed: bool


class StoredOutcome(NamedTuple):
    """One injection's outcome over one chunk: ``counts`` with the number of ``inputs``, and its records."""

    counts: Counts
    per_input: bytes | None
    scores: bytes | None


class CriticalInjection(NamedTuple):
    """One of the injections with most critical inferences; ``fault`` describes its first fault."""

    id: str
    layer: str
    fault: str
    critical: int
    inputs: int


class StoreResults(StoreFile):
    """A store with its injections, paths and results."""

    @property
    def injections(self) -> int:
        """Number of injections."""
        return self._number("SELECT COUNT(*) FROM injection")

    def paths(self) -> dict[int, tuple[str, ...]]:
        """Return the faulty paths: number → keys of tensors and neuron sites."""
        return {
            number: tuple(json.loads(text)) for number, text in self._db.execute("SELECT number, tensors FROM path")
        }

    @property
    def changing(self) -> int:
        """Number of injections that change something."""
        return self._number("SELECT COUNT(*) FROM injection WHERE changes")

    def id_of(self, position: int) -> str:
        """Return the id of an injection."""
        return str(self._db.execute("SELECT id FROM injection WHERE position = ?", (position,)).fetchone()[0])

    def inputs(self, position: int) -> list[int] | None:
        """Return the inputs that an injection runs over, None for all."""
        query = "SELECT inputs, first_input FROM injection WHERE position = ?"
        over, first = self._db.execute(query, (position,)).fetchone()
        if over is None:
            return None
        if first is not None:
            return list(range(first, first + over))
        rows = self._db.execute("SELECT DISTINCT input FROM receipt WHERE position = ? ORDER BY input", (position,))
        return [number for (number,) in rows]

    def label(self, path: int) -> str:
        """Return a faulty path in the user's words: its layers and parameters, or sides of layers."""
        rows = self._db.execute(
            "SELECT DISTINCT r.layer, r.parameter, r.site FROM receipt r JOIN injection i USING (position)"
            " WHERE i.path = ? ORDER BY r.layer LIMIT ?",
            (path, _NAMED + 1),
        ).fetchall()
        named = [
            f"the {site} of {layer}" if site else f"{layer} {parameter}" for layer, parameter, site in rows[:_NAMED]
        ]
        return ", ".join(named) + (", ..." if len(rows) > _NAMED else "")

    def totals(self) -> Counts:
        """Return the sums of all counts so far, and of the inferences as ``inputs``."""
        names = ("inputs", *COUNTS)
        row = self._db.execute(f"SELECT {', '.join(f'SUM({name})' for name in names)} FROM outcome").fetchone()
        return dict(zip(names, row, strict=True))

    @property
    def outcomes(self) -> int:
        """Number of outcomes so far, one per injection and chunk."""
        return self._number("SELECT COUNT(*) FROM outcome")

    def result_rows(self) -> Iterator[tuple[object, ...]]:
        """Yield the rows of results.csv, one per fault (`bitswap_onnx.campaign.results.RESULT_COLUMNS`)."""
        yield from self._db.execute(_ROWS)

    def unlike_a_weight_flip(self) -> dict[str, str]:
        """Return, by id in the list's order, the injections that are no single flip of a weight, and what they are.

        That is ``several faults``, ``neuron faults``, a kind (``stuck_at_0 faults``) or a parameter (``bias faults``), the
        first of these that applies.
        """
        rows = self._db.execute(
            "SELECT i.id, CASE WHEN COUNT(*) > 1 THEN 'several faults' WHEN r.site != '' THEN 'neuron faults'"
            " WHEN r.kind != 'flip' THEN r.kind || ' faults' ELSE r.parameter || ' faults' END"
            " FROM injection i JOIN receipt r USING (position) GROUP BY i.position"
            " HAVING COUNT(*) > 1 OR r.site != '' OR r.kind != 'flip' OR r.parameter != 'weight' ORDER BY i.position"
        )
        return dict(rows)

    def totals_by_bit_class(self) -> dict[str, tuple[int, Counts]]:
        """Return, by the class of an injection's first bit, the number of injections and the sums of their counts."""
        sums = ", ".join(f"SUM(o.{name})" for name in ("inputs", *COUNTS))
        rows = self._db.execute(
            f"SELECT r.bit_class, COUNT(DISTINCT o.position), {sums} FROM outcome o JOIN receipt r"
            " ON r.position = o.position AND r.row = 0 GROUP BY r.bit_class"
        )
        return {name: (number, dict(zip(("inputs", *COUNTS), counts, strict=True))) for name, number, *counts in rows}

    def most_critical(self, limit: int) -> list[CriticalInjection]:
        """Return the injections with most critical inferences, at most ``limit``, the worst first."""
        rows = self._db.execute(
            "SELECT i.id, r.layer, r.kind || ' ' || COALESCE('bit ' || r.bit, r.value) || ' of ' || r.parameter || r.site ||"
            " r.tensor_index, SUM(o.critical), SUM(o.inputs) FROM outcome o JOIN injection i USING (position)"
            " JOIN receipt r ON r.position = o.position AND r.row = 0"
            " GROUP BY o.position HAVING SUM(o.critical) > 0 ORDER BY SUM(o.critical) DESC, o.position LIMIT ?",
            (limit,),
        )
        return [CriticalInjection(*row) for row in rows]

    def records(self, name: str) -> Iterator[tuple[int, str, bytes]]:
        """Yield position and id of each injection, and its records (``scores`` or ``per_input``) joined over all chunks."""
        assert name in ("scores", "per_input")
        rows = self._db.execute(
            f"SELECT i.position, i.id, o.{name} FROM outcome o JOIN injection i USING (position)"
            " ORDER BY o.position, o.first"
        )
        for (position, identifier), parts in groupby(rows, key=lambda row: row[:2]):
            yield position, identifier, b"".join(blob for *_, blob in parts)

    def audit_candidates(self) -> Iterator[AuditCandidate]:
        """Yield the injections that change something and have an outcome."""
        rows = self._db.execute(
            f"SELECT i.position, i.path, SUM(o.nonfinite) > 0 OR {_TOP_EXPONENT}, SUM(o.critical) > 0,"
            " SUM(o.non_critical) > 0 FROM injection i JOIN outcome o ON o.position = i.position WHERE i.changes"
            " GROUP BY i.position"
        )
        for position, path, telling, critical, changed in rows:
            yield AuditCandidate(position, path, bool(telling), bool(critical), bool(changed))

    def with_top_exponent(self, positions: Sequence[int]) -> set[int]:
        """Return those of some injections that have a fault in the top exponent bit."""
        listed = ", ".join(str(int(position)) for position in positions)  # too many for parameters
        rows = self._db.execute(f"SELECT position FROM injection i WHERE position IN ({listed}) AND {_TOP_EXPONENT}")
        return {position for (position,) in rows}

    def fingerprints(self) -> Iterator[tuple[AuditCandidate, int, int]]:
        """Yield injections with the first input and the fingerprint of a batch; their marks are of the chunk around it."""
        rows = self._db.execute(
            f"SELECT i.position, i.path, o.nonfinite > 0 OR {_TOP_EXPONENT}, o.critical > 0, o.non_critical > 0,"
            " m.first, m.value"
            " FROM measure m JOIN injection i ON i.position = m.position"
            " JOIN outcome o ON o.position = m.position AND o.first = m.first - m.first % ?"
            " WHERE m.name = 'fingerprint' AND i.changes ORDER BY m.first, m.position",
            (self.unit_length,),
        )
        for position, path, telling, critical, changed, first, value in rows:
            yield AuditCandidate(position, path, bool(telling), bool(critical), bool(changed)), first, int(value)

    def effects(self, position: int) -> list[tuple[int, tuple[int, int, int]]]:
        """Return the first input of each chunk, with the (nonfinite, critical, non-critical) inferences there."""
        query = "SELECT first, nonfinite, critical, non_critical FROM outcome WHERE position = ? ORDER BY first"
        return [(first, tuple(counts)) for first, *counts in self._db.execute(query, (position,))]

    def outcome(self, position: int, chunk: Chunk) -> StoredOutcome:
        """Return the outcome of an injection over a chunk that it has run over."""
        names = ("inputs", *COUNTS)
        query = f"SELECT {', '.join(names)}, per_input, scores FROM outcome WHERE position = ? AND first = ?"
        *counts, per_input, scores = self._db.execute(query, (position, chunk.first)).fetchone()
        return StoredOutcome(dict(zip(names, counts, strict=True)), per_input, scores)
