"""What estimates ask a run's store: the places of its faults, its counts, its outcomes per input."""

from collections.abc import Iterator

from bitswap_onnx.campaign.store_file import StoreFile
from bitswap_onnx.outcome import COUNTS

#: Position of the injection, layer, bit (None for faults without one), class of the bit, kind and site ("" for a
#: weight).
FaultPlace = tuple[int, str, int | None, str, str, str]


class StoreQuestions(StoreFile):
    """Questions about what has run; none of them changes the store."""

    def fault_places(self) -> Iterator[FaultPlace]:
        """Yield the place of every fault: by injection in the order of the list, then by fault."""
        yield from self.query("SELECT position, layer, bit, bit_class, kind, site FROM receipt ORDER BY position, row")

    def injection_counts(self) -> dict[str, tuple[int | None, ...]]:
        """Return the ``inputs`` of each injection that has an outcome, and its counts by the names of `COUNTS`.

        Injections are in the order of the list. A count that was not recorded is None.
        """
        names = ("inputs", *COUNTS)
        sums = ", ".join(f"SUM({name})" for name in names)
        table = self.query(f"SELECT {sums} FROM outcome GROUP BY position ORDER BY position").fetchall()
        return dict(zip(names, zip(*table, strict=True), strict=True))

    def per_input_outcomes(self, position: int) -> bytes:
        """Return the outcomes of one injection, a byte per input (`bitswap_onnx.outcome.Outcomes.encoded`)."""
        rows = self.query("SELECT per_input FROM outcome WHERE position = ? ORDER BY first", (position,))
        return b"".join(blob for (blob,) in rows)

    @property
    def has_selected_inputs(self) -> bool:
        """Whether some injection runs over a part of the inputs: a block of its own, or those that its faults name."""
        return self.query("SELECT 1 FROM injection WHERE inputs IS NOT NULL LIMIT 1").fetchone() is not None
