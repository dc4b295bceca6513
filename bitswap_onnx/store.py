"""One SQLite file per run: settings, receipts, counts. The only truth of a campaign; every other file derives from it.

Who may write: one process, which holds the run's lock. What a crash leaves: whole transactions. A store exists once the
transaction that made it, receipts included, is committed; a directory without one counts as new.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import RunError
from bitswap_onnx.faults.bits import format_value, hex_bits
from bitswap_onnx.graph.resolve import Receipt, ResolvedInjection
from bitswap_onnx.graph.targets import Target
from bitswap_onnx.outcome import COUNTS, Counts
from bitswap_onnx.plan import Chunk

SCHEMA_VERSION = 1
STORE_NAME = "campaign.sqlite"

#: One row per fault, as in results.csv; ``tensor``, ``element`` and ``mask`` are what an engine needs.
RECEIPT_COLUMNS = (
    "layer",
    "tensor_index",
    "bit",
    "parameter",
    "kind",
    "value",
    "clean_bits",
    "faulty_bits",
    "clean_value",
    "faulty_value",
    "effect",
    "bit_class",
    "tensor",
    "element",
    "mask",
)

_SCHEMA = f"""
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE path (number INTEGER PRIMARY KEY, tensors TEXT NOT NULL UNIQUE);
CREATE TABLE injection (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, path INTEGER NOT NULL REFERENCES path, changes INTEGER NOT NULL);
CREATE TABLE receipt (
    position INTEGER NOT NULL REFERENCES injection, row INTEGER NOT NULL, {", ".join(RECEIPT_COLUMNS)},
    PRIMARY KEY (position, row)) WITHOUT ROWID;
CREATE TABLE control (
    path INTEGER NOT NULL REFERENCES path, first INTEGER NOT NULL, inputs INTEGER NOT NULL, masked INTEGER NOT NULL,
    PRIMARY KEY (path, first)) WITHOUT ROWID;
CREATE TABLE outcome (
    position INTEGER NOT NULL REFERENCES injection, first INTEGER NOT NULL, inputs INTEGER NOT NULL,
    {", ".join(f"{name} INTEGER" for name in COUNTS)}, per_input BLOB, scores BLOB,
    PRIMARY KEY (position, first)) WITHOUT ROWID;
"""

#: The (layer, parameter) under which a list finds a target again.
Address = Callable[[Target], tuple[str, str]]


#: An injection's position, its counts over a chunk, and what else was recorded of it, by name.
Outcome = tuple[int, Counts, dict[str, bytes]]


class Store:
    """A run's store. Use it as a context manager; `bitswap_onnx.run_directory` opens one."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._db = sqlite3.connect(run / STORE_NAME, isolation_level=None, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    @property
    def is_new(self) -> bool:
        """Whether nothing has been committed yet."""
        return self._number("PRAGMA user_version") == 0

    def check_version(self) -> None:
        """Raise RunError if the store is of a schema that this version does not know."""
        version = self._number("PRAGMA user_version")
        if version not in (0, SCHEMA_VERSION):
            raise RunError(
                f"{self.run / STORE_NAME}: expected schema version {SCHEMA_VERSION}, found {version}; "
                "use the version of bitswap-onnx that made it"
            )

    def create(self, settings: dict[str, Any], injections: Iterable[ResolvedInjection], address: Address) -> None:
        """Commit the whole plan of a new campaign in one transaction: settings, injections, receipts."""
        paths: dict[tuple[str, ...], int] = {}
        with self._transaction() as db:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            rows = [(key, json.dumps(value)) for key, value in settings.items()]
            db.executemany("INSERT INTO setting VALUES (?, ?)", rows)
            for position, injection in enumerate(injections):
                if injection.path not in paths:
                    paths[injection.path] = len(paths)
                    db.execute("INSERT INTO path VALUES (?, ?)", (paths[injection.path], json.dumps(injection.path)))
                values = (position, injection.id, paths[injection.path], injection.changes)
                db.execute("INSERT INTO injection VALUES (?, ?, ?, ?)", values)
                db.executemany(
                    f"INSERT INTO receipt VALUES (?, ?{', ?' * len(RECEIPT_COLUMNS)})",
                    [(position, row, *_receipt_row(r, *address(r.target))) for row, r in enumerate(injection.receipts)],
                )
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def setting(self, key: str) -> Any:
        """Return one setting of the campaign, or None if it was never made."""
        row = self._db.execute("SELECT value FROM setting WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    @property
    def injections(self) -> int:
        """Number of injections."""
        return self._number("SELECT COUNT(*) FROM injection")

    def paths(self) -> dict[int, tuple[str, ...]]:
        """Return the faulty paths, number → tensors."""
        return {
            number: tuple(json.loads(text)) for number, text in self._db.execute("SELECT number, tensors FROM path")
        }

    def queue(self) -> dict[int, NDArray[np.int64]]:
        """Return the positions of the injections that change something, by path; equal ones lie side by side."""
        rows = self._db.execute(
            "SELECT i.path, i.position FROM injection i JOIN receipt r ON r.position = i.position AND r.row = 0"
            " WHERE i.changes ORDER BY i.path, r.element, r.mask, i.position"
        )
        table = np.fromiter((number for row in rows for number in row), np.int64).reshape(-1, 2)
        numbers, starts = np.unique(table[:, 0], return_index=True)
        return dict(zip(numbers.tolist(), np.split(table[:, 1], starts[1:]), strict=True)) if len(table) else {}

    def unchanged(self, chunk: Chunk) -> list[int]:
        """Return the positions of injections that change nothing and have no outcome over ``chunk`` yet."""
        rows = self._db.execute(
            "SELECT position FROM injection i WHERE NOT changes AND NOT EXISTS"
            " (SELECT 1 FROM outcome o WHERE o.position = i.position AND o.first = ?)",
            (chunk.first,),
        )
        return [position for (position,) in rows]

    def finished(self, chunk: Chunk) -> NDArray[np.int64]:
        """Return the positions of the injections that have run over ``chunk``."""
        rows = self._db.execute("SELECT position FROM outcome WHERE first = ?", (chunk.first,))
        return np.fromiter((position for (position,) in rows), np.int64)

    def controlled(self, chunk: Chunk) -> set[int]:
        """Return the paths whose null control has run over ``chunk``."""
        return {path for (path,) in self._db.execute("SELECT path FROM control WHERE first = ?", (chunk.first,))}

    def edits(self, position: int) -> dict[str, list[tuple[int, int]]]:
        """Return what an injection changes: tensor → (element, XOR mask) pairs."""
        edits: dict[str, list[tuple[int, int]]] = {}
        rows = self._db.execute(
            "SELECT tensor, element, mask FROM receipt WHERE position = ? ORDER BY row", (position,)
        )
        for tensor, element, mask in rows:
            edits.setdefault(tensor, []).append((element, int(mask, 16)))
        return edits

    def add(self, chunk: Chunk, outcomes: Iterable[Outcome], controls: Iterable[tuple[int, int]] = ()) -> None:
        """Commit, in one transaction, outcomes over ``chunk`` and null controls: (path, inputs left masked)."""
        with self._transaction() as db:
            rows = [(path, chunk.first, len(chunk), masked) for path, masked in controls]
            db.executemany("INSERT INTO control VALUES (?, ?, ?, ?)", rows)
            db.executemany(
                f"INSERT INTO outcome VALUES (?{', ?' * (len(COUNTS) + 4)})",
                (
                    (
                        position,
                        chunk.first,
                        len(chunk),
                        *map(counts.get, COUNTS),
                        blobs.get("per_input"),
                        blobs.get("scores"),
                    )
                    for position, counts, blobs in outcomes
                ),
            )

    def use_engine(self, engine: str) -> None:
        """Say which engine runs from now on; the null controls of another one no longer count."""
        if self.setting("engine") != engine:
            with self._transaction() as db:
                db.execute("DELETE FROM control")
                db.execute("INSERT OR REPLACE INTO setting VALUES ('engine', ?)", (json.dumps(engine),))

    def put(self, key: str, value: Any) -> None:
        """Commit one more setting, or another value of one."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, json.dumps(value)))

    def failed_controls(self) -> list[tuple[str, int]]:
        """Return the tensors and the number of unmasked inputs of every null control that did not hold."""
        return self._db.execute(
            "SELECT p.tensors, SUM(c.inputs - c.masked) FROM control c JOIN path p ON p.number = c.path"
            " GROUP BY c.path HAVING SUM(c.inputs - c.masked) > 0"
        ).fetchall()

    def check_complete(self) -> None:
        """Raise RunError unless every injection has run over every input, and every control held."""
        inputs = self.setting("golden")["inputs"]
        unfinished = self._number(
            "SELECT COUNT(*) FROM injection i WHERE"
            f" (SELECT COALESCE(SUM(inputs), 0) FROM outcome o WHERE o.position = i.position) != {int(inputs)}"
        )
        if unfinished or self.failed_controls():
            what = f"{unfinished} injections have not run over all inputs" if unfinished else "a null control failed"
            raise RunError(f"{self.run}: {what}; finish the campaign with inject --resume")
        if (self.setting("audit") or {}).get("different"):
            raise RunError(f"{self.run}: its audit failed, its results are invalid; run the campaign again elsewhere")

    def totals(self) -> Counts:
        """Return the sums of all counts so far, and of the inferences as ``inputs``."""
        names = ("inputs", *COUNTS)
        row = self._db.execute(f"SELECT {', '.join(f'SUM({name})' for name in names)} FROM outcome").fetchone()
        return dict(zip(names, row, strict=True))

    def query(self, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Run a query, for what derives from the store."""
        return self._db.execute(sql, values)

    def _number(self, sql: str) -> int:
        return int(self._db.execute(sql).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _receipt_row(receipt: Receipt, layer: str, parameter: str) -> tuple[object, ...]:
    fault, fmt = receipt.fault, receipt.format
    return (
        layer,
        str(fault.index),
        receipt.bit,
        parameter,
        fault.kind.value,
        fault.value,
        hex_bits(receipt.clean_bits, fmt),
        hex_bits(receipt.faulty_bits, fmt),
        format_value(receipt.clean_bits, fmt),
        format_value(receipt.faulty_bits, fmt),
        receipt.effect,
        "" if receipt.bit is None else fmt.bit_class(receipt.bit),
        receipt.target.tensor,
        receipt.element,
        f"{receipt.mask:x}",
    )
