"""The file of a run's store: opened, checked before it is believed, its settings, its transactions."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from bitswap_onnx.campaign.schema import OLDER_AS_TODAY
from bitswap_onnx.campaign.store_checks import REMEDY, check_golden, check_outcomes, check_plan, check_schema
from bitswap_onnx.campaign.stored_settings import REQUIRED_SETTINGS, misfit
from bitswap_onnx.errors import RunError

if TYPE_CHECKING:
    from bitswap_onnx.campaign.store_checks import Digest

STORE_NAME = "campaign.sqlite"


class StoreFile:
    """What `bitswap_onnx.campaign.store.Store` is built on: an open database, read with care."""

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
        return self._number("PRAGMA user_version") == 0

    def check_file(self) -> None:
        """Raise RunError for a schema that this version does not know or did not make, and for settings that cannot be."""
        check_schema(self._db, self.run / STORE_NAME)
        self._db.executescript(OLDER_AS_TODAY.get(self._number("PRAGMA user_version"), ""))
        if not self.is_new:
            given = {key for (key,) in self._db.execute("SELECT key FROM setting")}
            for key in sorted(given | set(REQUIRED_SETTINGS), key=str):
                self.setting(key)

    def check_content(self, golden: dict[str, Any]) -> None:
        """Raise RunError for a plan that is not what was committed, and for outcomes and null controls that cannot be.

        ``golden``: what that setting would be now, with the same model and data.
        """
        file = self.run / STORE_NAME
        check_golden(file, self.setting("golden"), golden)
        self._plan = check_plan(self._db, file, self.setting("plan"))
        self.check_outcomes()

    def check_outcomes(self) -> None:
        """Raise RunError for outcomes and null controls that cannot be."""
        file, (identity, golden) = self.run / STORE_NAME, map(self.setting, ("identity", "golden"))
        check_outcomes(self._db, file, identity, golden, self.setting("unit_length"))

    def setting(self, key: str) -> Any:
        """Return one setting of the campaign, or None if it was never made; raises RunError for one that cannot be."""
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

    def put(self, key: str, value: Any) -> None:
        """Commit one more setting, or another value of one."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, json.dumps(value)))

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
