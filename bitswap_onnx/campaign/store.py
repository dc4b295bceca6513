"""One SQLite file per run: settings, receipts, counts. The only truth of a campaign; every other file derives from it.

Who may write: one process, which holds the run's lock. What a crash leaves: whole transactions. A store exists once the
transaction that made it, receipts included, is committed; a directory without one counts as new.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.schedule import Queue
from bitswap_onnx.campaign.schema import RECEIPT_COLUMNS, SCHEMA, SCHEMA_VERSION, Address, receipt_row
from bitswap_onnx.campaign.store_checks import plan_digest
from bitswap_onnx.campaign.store_queries import StoreQueries
from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.errors import RunError
from bitswap_onnx.graph.edits import ALL_INPUTS, InjectionEdits, NeuronEdit, WeightEdit
from bitswap_onnx.graph.receipts import ResolvedInjection
from bitswap_onnx.graph.sites import is_site
from bitswap_onnx.outcome import COUNTS, Counts

if TYPE_CHECKING:
    from bitswap_onnx.campaign.store_checks import Digest

#: An injection's position, its counts over a chunk, and its records by name (``scores``, ``per_input``).
Outcome = tuple[int, Counts, dict[str, bytes]]

#: A faulty path, the inputs that its null control left masked, and the kind of its lane.
Control = tuple[int, int, str]

#: An injection's position, the first input of a batch, and the fingerprint of what ran there.
Fingerprint = tuple[int, int, int]

_OUTCOME_COLUMNS = ("position", "first", "inputs", *COUNTS, "per_input", "scores", "failed")


class Store(StoreQueries):
    """A run's store. Use it as a context manager; `bitswap_onnx.campaign.run_directory` opens one."""

    def create(
        self,
        settings: dict[str, Any],
        injections: Iterable[ResolvedInjection],
        address: Address,
        block_of: Callable[[str], Chunk | None],
        joined: Mapping[tuple[str, ...], tuple[str, ...]] = MappingProxyType({}),
    ) -> None:
        """Commit the whole plan of a new campaign in one transaction: settings, injections, receipts.

        ``block_of``: the inputs that the injection of an id runs over, None for those that its faults name, or all.
        ``joined``: faulty paths that run as another one (`bitswap_onnx.campaign.schedule.join_paths`).
        """
        with self._transaction() as db:
            for statement in SCHEMA.split(";"):
                db.execute(statement)
            plan = self._insert(settings, injections, address, block_of, joined)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._plan = plan

    def extend(
        self,
        settings: dict[str, Any],
        injections: Iterable[ResolvedInjection],
        address: Address,
        block_of: Callable[[str], Chunk | None],
    ) -> None:
        """Commit more injections, behind those there are, and ``settings`` as they are from then on, in one transaction."""
        with self._transaction():
            plan = self._insert(settings, injections, address, block_of, {})
        self._plan = plan

    def _insert(
        self,
        settings: dict[str, Any],
        injections: Iterable[ResolvedInjection],
        address: Address,
        block_of: Callable[[str], Chunk | None],
        joined: Mapping[tuple[str, ...], tuple[str, ...]],
    ) -> "Digest":
        db, before = self._db, self.injections
        for key, value in settings.items():
            self._put_in(db, key, value)
        paths = {path: number for number, path in self.paths().items()}
        for position, injection in enumerate(injections, before):
            path = joined.get(injection.path, injection.path)
            if path not in paths:
                paths[path] = len(paths)
                db.execute("INSERT INTO path VALUES (?, ?)", (paths[path], json.dumps(path)))
            block = block_of(injection.id)
            over, first = (injection.inputs, None) if block is None else (block, block.first)
            number = None if over is None else len(over)
            values = (position, injection.id, paths[path], injection.changes, number, first)
            db.execute("INSERT INTO injection VALUES (?, ?, ?, ?, ?, ?)", values)
            db.executemany(
                f"INSERT INTO receipt VALUES (?, ?{', ?' * len(RECEIPT_COLUMNS)})",
                [(position, row, *receipt_row(r, address)) for row, r in enumerate(injection.rows)],
            )
        plan = plan_digest(db) if self._plan is None else plan_digest(db, before, self._plan)
        self._put_in(db, "plan", plan.hexdigest())
        return plan

    def queue(self) -> Queue:
        """Return the positions of the injections that change something, by block and path; equal injections are adjacent."""
        rows = self._db.execute(
            "SELECT COALESCE(i.first_input, -1), i.path, i.position FROM injection i"
            " JOIN receipt r ON r.position = i.position AND r.row = 0"
            " WHERE i.changes ORDER BY i.first_input, i.path, r.element, r.mask, i.position"
        )
        table = np.fromiter((number for row in rows for number in row), np.int64).reshape(-1, 3)
        edges = np.flatnonzero(np.diff(table[:, :2], axis=0).any(axis=1)) + 1
        queue: Queue = {}
        for part in np.split(table, edges) if len(table) else ():
            first, path, _ = part[0].tolist()
            queue.setdefault(None if first < 0 else first, {})[path] = part[:, 2]
        return queue

    def unchanged(self, chunk: Chunk) -> list[int]:
        """Return the positions of injections that run over ``chunk``, change nothing and have no outcome there yet."""
        rows = self._db.execute(
            "SELECT position FROM injection i WHERE NOT changes AND COALESCE(i.first_input, ?) = ? AND NOT EXISTS"
            " (SELECT 1 FROM outcome o WHERE o.position = i.position AND o.first = ?)",
            (chunk.first, chunk.first, chunk.first),
        )
        return [position for (position,) in rows]

    def finished(self, chunk: Chunk) -> NDArray[np.int64]:
        """Return the positions of the injections that have run over ``chunk``, or whose faults name no input there."""
        rows = self._db.execute(
            "SELECT position FROM outcome WHERE first = ? UNION ALL SELECT position FROM injection i"
            " WHERE i.inputs IS NOT NULL AND i.first_input IS NULL AND NOT EXISTS"
            " (SELECT 1 FROM receipt r WHERE r.position = i.position AND r.input >= ? AND r.input < ?)",
            (chunk.first, chunk.first, chunk.stop),
        )
        return np.fromiter((position for (position,) in rows), np.int64)

    def controlled(self, chunk: Chunk) -> dict[int, str]:
        """Return the paths whose null control has run over ``chunk``, and the kind of lane that it took."""
        return dict(self._db.execute("SELECT path, lane FROM control WHERE first = ?", (chunk.first,)))

    def edits(self, position: int, chunk: Chunk) -> InjectionEdits:
        """Return the edits that an injection makes over ``chunk``."""
        weights: dict[str, list[WeightEdit]] = {}
        neurons: dict[str, list[NeuronEdit]] = {}
        columns = "SELECT row, tensor, element, mask, input FROM receipt WHERE position = ? AND"
        rows = self._db.execute(
            f"{columns} input IS NULL UNION ALL {columns} input >= ? AND input < ? ORDER BY row",
            (position, position, chunk.first, chunk.stop),
        )
        for _, key, element, mask, number in rows:
            if is_site(key):
                keep, toggle = (int(part, 16) for part in mask.split(":"))
                edit = NeuronEdit(ALL_INPUTS if number is None else number, element, keep, toggle)
                neurons.setdefault(key, []).append(edit)
            else:
                weights.setdefault(key, []).append(WeightEdit(element, int(mask, 16)))
        return InjectionEdits(weights, neurons)

    def add(
        self,
        chunk: Chunk,
        outcomes: Iterable[Outcome],
        controls: Iterable[Control] = (),
        fingerprints: Iterable[Fingerprint] = (),
    ) -> None:
        """Commit, in one transaction, outcomes over ``chunk``, null controls, and fingerprints of batches of the chunk.

        The counts of an outcome have, as ``inputs``, the number of the chunk's inputs that the injection ran over, and may
        have, as ``failed``, how many of these gave no scores.
        """
        rows = (
            dict.fromkeys(_OUTCOME_COLUMNS) | {"position": position, "first": chunk.first, "failed": 0} | counts | blobs
            for position, counts, blobs in outcomes
        )
        names = ", ".join(_OUTCOME_COLUMNS)
        values = ", ".join(f":{name}" for name in _OUTCOME_COLUMNS)
        with self._transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO control (path, first, inputs, masked, lane) VALUES (?, ?, ?, ?, ?)",
                [(path, chunk.first, len(chunk), masked, lane) for path, masked, lane in controls],
            )
            db.executemany(f"INSERT INTO outcome ({names}) VALUES ({values})", rows)
            db.executemany("INSERT OR REPLACE INTO measure VALUES (?, ?, 'fingerprint', ?)", fingerprints)

    @property
    def given_up(self) -> frozenset[int]:
        """The paths whose lane failed its null control: they run as whole models."""
        given_up = frozenset(self._setting("given_up") or ())
        if not given_up <= self.paths().keys():
            raise RunError(
                f"{self.run}: expected faulty paths in the setting given_up, found others; start again elsewhere"
            )
        return given_up

    def give_up(self, path: int) -> None:
        """Delete, in one transaction, all outcomes and controls of a path; it runs as whole models from now on."""
        with self._transaction() as db:
            of_path = "IN (SELECT position FROM injection WHERE path = ? AND changes)"
            for table in ("outcome", "measure"):
                db.execute(f"DELETE FROM {table} WHERE position {of_path}", (path,))
            db.execute("DELETE FROM control WHERE path = ?", (path,))
            self._put_in(db, "given_up", sorted(self.given_up | {path}))

    def failed_controls(self) -> list[tuple[int, int]]:
        """Return each path with a failed null control, and the number of its unmasked inputs over all chunks."""
        return self._db.execute(
            "SELECT path, SUM(inputs - masked) FROM control GROUP BY path HAVING SUM(inputs - masked) > 0"
        ).fetchall()

    def check_complete(self) -> None:
        """Raise RunError for an unfinished run, a failed control, a failed audit, and impossible outcomes."""
        if self.is_growing:
            raise RunError(
                f"{self.run}: more faults are to be drawn; finish the campaign: run inject with `until` and `resume`"
            )
        inputs = self.golden.inputs
        unfinished = self._number(
            "SELECT COUNT(*) FROM injection i WHERE (SELECT COALESCE(SUM(o.inputs), 0) FROM outcome o"
            f" WHERE o.position = i.position) != COALESCE(i.inputs, {int(inputs)})"
        )
        if unfinished or self.failed_controls():
            what = f"{unfinished} injections have not run over all inputs" if unfinished else "a null control failed"
            raise RunError(f"{self.run}: {what}; finish the campaign: run inject with `resume`")
        if (audit := self.audit) and audit.different:
            raise RunError(f"{self.run}: its audit failed, its results are invalid; run the campaign again elsewhere")
        self.check_outcomes()
