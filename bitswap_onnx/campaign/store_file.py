"""The file of a run's store: its checks, its settings, its transactions."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from bitswap_onnx.campaign.drawing_record import DrawingRecord
from bitswap_onnx.campaign.records import AuditRecord, GoldenRecord, Identity
from bitswap_onnx.campaign.schema import UPGRADES
from bitswap_onnx.campaign.store_checks import REMEDY, check_golden, check_outcomes, check_plan, check_schema
from bitswap_onnx.campaign.stored_settings import REQUIRED_SETTINGS, misfit
from bitswap_onnx.errors import RunError
from bitswap_onnx.graph.coverage import Coverage
from bitswap_onnx.runtime.stopwatch import SPANS

if TYPE_CHECKING:
    from bitswap_onnx.campaign.store_checks import Digest

STORE_NAME = "campaign.sqlite"


class StoreFile:
    """An open database with typed settings. `bitswap_onnx.campaign.store.Store` is built on it.

    Settings are read from the file each time: another process may be writing them.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._db = sqlite3.connect(run / STORE_NAME, isolation_level=None, timeout=30)
        self._plan: Digest | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    @property
    def is_new(self) -> bool:
        """Whether nothing has been committed yet."""
        return self._version == 0

    @property
    def _version(self) -> int:
        return self._number("PRAGMA user_version")

    def check_file(self) -> None:
        """Raise RunError for an unknown or changed schema, and for malformed settings.

        An older schema becomes readable through temporary views.
        """
        check_schema(self._db, self.run / STORE_NAME)
        if self._version in UPGRADES:
            self._db.executescript(UPGRADES[self._version].views)
        if not self.is_new:
            given = {key for (key,) in self._db.execute("SELECT key FROM setting")}
            for key in sorted(given | set(REQUIRED_SETTINGS), key=str):
                self._setting(key)

    def begin_writing(self) -> None:
        """Prepare the file, which is checked, for a writer: an older version becomes the present one."""
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        while (version := self._version) in UPGRADES:
            for (view,) in self._db.execute("SELECT name FROM temp.sqlite_master WHERE type = 'view'").fetchall():
                self._db.execute(f"DROP VIEW temp.{view}")
            with self._transaction() as db:
                for statement in UPGRADES[version].script:
                    db.execute(statement)

    def end_writing(self) -> None:
        """Put everything into the one file, so that the run can be read where nothing can be written."""
        with suppress(sqlite3.OperationalError):  # a reader has it open
            self._db.execute("PRAGMA journal_mode=DELETE")

    def check_content(self, golden: GoldenRecord) -> None:
        """Raise RunError for a store that does not fit ``golden``, the golden run of now with the same model and data.

        Also for a plan that is not the committed one, and for impossible outcomes and null controls.
        """
        file = self.run / STORE_NAME
        check_golden(file, self.golden, golden)
        self._plan = check_plan(self._db, file, self._setting("plan"))
        self.check_outcomes()

    def check_outcomes(self) -> None:
        """Raise RunError for impossible outcomes and null controls."""
        check_outcomes(self._db, self.run / STORE_NAME, self.identity, self.golden, self.unit_length)

    @property
    def identity(self) -> Identity:
        """What decides the run's results."""
        return Identity.from_stored(self._setting("identity"))

    @property
    def golden(self) -> GoldenRecord:
        """The golden run."""
        return GoldenRecord.from_stored(self._setting("golden"))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Signs in the clean run that the data do not belong to the model; runs before they were looked for have none."""
        return tuple(self._setting("warnings") or ())

    @property
    def unit_length(self) -> int:
        """Inputs in a chunk."""
        return int(self._setting("unit_length"))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user was told when the run began."""
        return tuple(self._setting("notes") or ())

    @property
    def experiment(self) -> str | None:
        """The command that drew the faults, one of `EXPERIMENTS`; None for a list, and in stores from before."""
        name: str | None = self._setting("experiment")
        return name

    @property
    def design(self) -> str | None:
        """The text of the fault list's design; None where it has none."""
        text: str | None = self._setting("design")
        return text

    def keep_design(self, text: str, covered: Coverage | None) -> None:
        """Store the text of the fault list's design, and how much its population covers."""
        self._put("design", text)
        self._put("coverage", covered and asdict(covered))

    @property
    def coverage(self) -> Coverage | None:
        """How many of the model's stored bits the faults stand for; None for neurons, and in stores from before."""
        stored = self._setting("coverage")
        return stored and Coverage.from_stored(stored)

    @property
    def drawing(self) -> DrawingRecord | None:
        """The record of the faults that the run drew itself; None for a list that was given."""
        stored = self._setting("until")
        return None if stored is None else DrawingRecord.from_stored(stored)

    def keep_drawing(self, record: DrawingRecord) -> None:
        """Store the record of the faults that the run draws itself."""
        self._put("until", record.stored())

    @property
    def is_growing(self) -> bool:
        """Whether the list may still get injections."""
        return bool(self._setting("growing"))

    def end_growth(self) -> None:
        """Note that the list gets no more injections."""
        self._put("growing", False)

    @property
    def audit(self) -> AuditRecord | None:
        """The last audit; None before the first one, and after the incremental engine has begun further injections."""
        stored = self._setting("audit")
        return None if stored is None else AuditRecord.from_stored(stored)

    def keep_audit(self, audit: AuditRecord) -> None:
        """Store what an audit found."""
        self._put("audit", audit.stored())

    @property
    def lanes(self) -> dict[str, str] | None:
        """The kind of lane of each faulty path (its tensors, joined by commas); None where nothing has run."""
        lanes: dict[str, str] | None = self._setting("lanes")
        return lanes

    def keep_lanes(self, lanes: Mapping[str, str]) -> None:
        """Store the kind of lane of each faulty path."""
        self._put("lanes", lanes)

    @property
    def uses_incremental_engine(self) -> bool:
        """Whether the incremental engine has run injections, so that an audit is due."""
        return bool(self._setting("incremental"))

    def begin_injections(self, incremental: bool) -> None:
        """On the incremental engine, note that injections run from now on and forget the earlier audit."""
        if incremental:
            self._put("incremental", True)
            self._put("audit", None)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that workers spent so far, over all resumes, by `SPANS`; empty before anything was kept."""
        return dict(self._setting("seconds") or {})

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Add seconds that workers spent to those of earlier runs."""
        before = self.seconds
        self._put("seconds", {name: before.get(name, 0.0) + seconds.get(name, 0.0) for name in SPANS})

    def use_engine(self, engine: str) -> None:
        """Note the engine that runs from now on; null controls of another engine no longer count."""
        if self._setting("engine") != engine:
            with self._transaction() as db:
                db.execute("DELETE FROM control")
                self._put_in(db, "engine", engine)

    def _setting(self, key: str) -> Any:
        """Return the stored form of a setting, None if it is absent; raises RunError for one of a wrong form."""
        row = self._db.execute("SELECT value FROM setting WHERE key = ?", (key,)).fetchone()
        if row is None and key not in REQUIRED_SETTINGS:
            return None
        try:
            value = json.loads(row[0]) if row else None
            wrong = misfit(key, value) if row else "it is missing"
        except (ValueError, TypeError, RecursionError):
            value, wrong = None, "expected JSON"
        if wrong:
            raise RunError(f"{self.run / STORE_NAME}: the setting {key}: {wrong}; {REMEDY}")
        return value

    def _put(self, key: str, value: Any) -> None:
        with self._transaction() as db:
            self._put_in(db, key, value)

    @staticmethod
    def _put_in(db: sqlite3.Connection, key: str, value: Any) -> None:
        db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, json.dumps(value)))

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
