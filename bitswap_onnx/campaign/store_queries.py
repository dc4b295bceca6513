"""Queries for estimates and experiments: places of faults, counts, outcomes and scores per input."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bitswap_onnx.campaign.store_results import StoreResults
from bitswap_onnx.outcome import COUNTS

#: Position of the injection, layer, bit (None for faults without one), class of the bit, kind and site ("" for a
#: weight).
FaultPlace = tuple[int, str, int | None, str, str, str]


class ChangedElement(NamedTuple):
    """One receipt of a neuron fault: the ``element`` of an ``input`` as text, and its bits (hex) and values as text."""

    input: int
    element: str
    bit: int
    clean_bits: str
    clean_value: str
    faulty_bits: str
    faulty_value: str


class RecordedChange(NamedTuple):
    """One receipt: the ``injection`` by id, the layer, the class of the bit, and ``CLEAN>FAULTY`` bits in hex."""

    injection: str
    layer: str
    bit_class: str
    change: str


class StoreQueries(StoreResults):
    """A store with queries for single injections and inputs. No query changes the store."""

    def fault_places(self) -> Iterator[FaultPlace]:
        """Yield the place of every fault: by injection in the order of the list, then by fault."""
        yield from self._db.execute(
            "SELECT position, layer, bit, bit_class, kind, site FROM receipt ORDER BY position, row"
        )

    def count_columns(self) -> dict[str, tuple[int | None, ...]]:
        """Return the columns ``inputs`` and `COUNTS` by name: one number per injection that has an outcome.

        Injections are in the order of the list. A count that was not recorded is None.
        """
        names = ("inputs", *COUNTS)
        sums = ", ".join(f"SUM({name})" for name in names)
        table = self._db.execute(f"SELECT {sums} FROM outcome GROUP BY position ORDER BY position").fetchall()
        return dict(zip(names, zip(*table, strict=True), strict=True))

    def outcomes_at(self, position: int) -> bytes:
        """Return the outcomes of one injection, a byte per input (`bitswap_onnx.outcome.Outcomes.encoded`)."""
        rows = self._db.execute("SELECT per_input FROM outcome WHERE position = ? ORDER BY first", (position,))
        return b"".join(blob for (blob,) in rows)

    @property
    def has_selected_inputs(self) -> bool:
        """Whether some injection runs over a part of the inputs: a block of its own, or those that its faults name."""
        return self._db.execute("SELECT 1 FROM injection WHERE inputs IS NOT NULL LIMIT 1").fetchone() is not None

    def outcomes_of(self, injection: str) -> bytes:
        """Return the recorded outcomes of an injection, one byte per input, in the inputs' order.

        `bitswap_onnx.outcome.decode_outcomes` reads them. The run must have the record ``per_input``.
        """
        return self._joined("per_input", injection)

    def scores_of(self, injection: str) -> bytes:
        """Return the recorded scores of an injection: float32, input by input, in the inputs' order.

        The run must have the record ``scores``.
        """
        return self._joined("scores", injection)

    def _joined(self, column: str, injection: str) -> bytes:
        rows = self._db.execute(
            f"SELECT {column} FROM outcome JOIN injection USING (position) WHERE id = ? ORDER BY first", (injection,)
        )
        return b"".join(blob for (blob,) in rows)

    def counts_per_injection(self, names: Iterable[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield each injection's id and its counts over all of its inputs, in the list's order.

        ``names``: ``inputs`` and names of `bitswap_onnx.outcome.COUNTS`; a count that does not apply is None.
        """
        sums = ", ".join(f"SUM(o.{name})" for name in names)
        rows = self._db.execute(
            f"SELECT i.id, {sums} FROM injection i JOIN outcome o USING (position) GROUP BY i.position ORDER BY i.position"
        )
        for injection, *counts in rows:
            yield injection, tuple(counts)

    def changes(self) -> Iterator[RecordedChange]:
        """Yield every receipt of the run, in the list's order."""
        rows = self._db.execute(
            "SELECT i.id, r.layer, r.bit_class, r.clean_bits || '>' || r.faulty_bits"
            " FROM receipt r JOIN injection i USING (position) ORDER BY r.position"
        )
        return map(RecordedChange._make, rows)

    def changed_elements(self, injection: str) -> Iterator[ChangedElement]:
        """Yield the receipts of an injection that has one neuron fault for each input, in the inputs' order."""
        rows = self._db.execute(
            "SELECT r.input, r.tensor_index, r.bit, r.clean_bits, r.clean_value, r.faulty_bits, r.faulty_value"
            " FROM receipt r JOIN injection i USING (position) WHERE i.id = ? ORDER BY r.input",
            (injection,),
        )
        return map(ChangedElement._make, rows)

    def first_neuron_layer(self) -> str | None:
        """Return a layer whose neurons have a fault, None for a run of faults in stored parameters alone."""
        row = self._db.execute("SELECT layer FROM receipt WHERE site != '' LIMIT 1").fetchone()
        return None if row is None else str(row[0])
