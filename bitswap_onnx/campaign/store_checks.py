"""Checks of a store's file: it has the tables of its version and no others, its plan is the committed one, its outcomes are
possible. A file that was edited, or damaged by a disk, is refused.
"""

import hashlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitswap_onnx.campaign.records import GoldenRecord, Identity
from bitswap_onnx.campaign.schema import (
    RECEIPT_COLUMNS,
    SCHEMA,
    SCHEMA_VERSION,
    UPGRADES,
)
from bitswap_onnx.errors import RunError
from bitswap_onnx.outcome import COUNTS, OUTCOME_NAMES

if TYPE_CHECKING:
    Digest = hashlib._Hash

#: The end of messages about a changed or damaged store.
REMEDY = "the store was changed or damaged: run the campaign again in another `run`"


def check_schema(db: sqlite3.Connection, store: Path) -> None:
    """Raise RunError for a store of an unknown version, and for one with other tables than those of its version."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, SCHEMA_VERSION, *UPGRADES):
        raise RunError(
            f"{store}: expected schema version {SCHEMA_VERSION}, found {version}; "
            "use the version of bitswap-onnx that made it"
        )
    expected = _tables_of(version) if version else {}
    entries = db.execute("SELECT type, name, sql FROM main.sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
    found = {}
    for kind, name, sql in entries.fetchall():
        if kind == "index" and name in _INDICES:
            continue
        if kind != "table" or name not in expected or sql.upper().startswith("CREATE VIRTUAL"):
            raise RunError(f"{store}: expected the tables of a run alone, found the {kind} {name[:80]!r}; {REMEDY}")
        found[name] = _columns(db, name)
    for name, columns in expected.items():
        if found.get(name) != columns:
            what = f"other columns in the table {name}" if name in found else f"no table {name}"
            raise RunError(f"{store}: expected the tables of schema version {version}, found {what}; {REMEDY}")


#: Indices that a store may have or lack; they change no answer.
_INDICES = ("receipt_input", "outcome_first")


def _tables_of(version: int) -> dict[str, list[Any]]:
    """Return the tables of a schema version with their columns, as SQLite describes them."""
    db = sqlite3.connect(":memory:")
    try:
        db.executescript(SCHEMA)
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        later = {column for older, upgrade in UPGRADES.items() if older >= version for column in upgrade.added}
        return {
            name: [row for row in _columns(db, name) if (name, row[0]) not in later]
            for name in names
            if (name, None) not in later
        }
    finally:
        db.close()


def _columns(db: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """Return name, type, whether it may be NULL, default, place in the primary key and kind of each column."""
    return [row[1:] for row in db.execute(f"PRAGMA main.table_xinfo({table})")]


def plan_digest(db: sqlite3.Connection, first: int = 0, digest: "Digest | None" = None) -> "Digest":
    """Return the SHA-256 of injections, faulty paths and receipts, going on from that of those before position ``first``."""
    digest = hashlib.sha256() if digest is None else digest.copy()
    rows = db.execute(
        "SELECT i.position, i.id, i.path, p.tensors, i.changes, i.inputs, i.first_input, r.row,"
        f" {', '.join(f'r.{name}' for name in RECEIPT_COLUMNS)} FROM injection i LEFT JOIN path p ON p.number = i.path"
        " LEFT JOIN receipt r ON r.position = i.position WHERE i.position >= ? ORDER BY i.position, r.row",
        (first,),
    )
    for row in rows:
        digest.update(repr(row).encode())
    return digest


def check_plan(db: sqlite3.Connection, store: Path, expected: str | None) -> "Digest":
    """Return the digest of the plan.

    Raises RunError for a plan whose hash is not ``expected``, a missing hash, and a row that belongs to no injection.
    """
    for what, table, column, owner in _ORPHANS:
        query = f"SELECT {column} FROM {table} WHERE {column} NOT IN (SELECT {owner} FROM injection) LIMIT 1"
        if row := db.execute(query).fetchone():
            raise RunError(f"{store}: found {what} of no injection ({row[0]}); {REMEDY}")
    if expected is None:
        raise RunError(f"{store}: expected the setting plan, the hash of its injections, found none; {REMEDY}")
    digest = plan_digest(db)
    if digest.hexdigest() != expected:
        raise RunError(
            f"{store}: its injections, faulty paths and receipts are not those that were committed, by their hash; {REMEDY}"
        )
    return digest


_ORPHANS = (
    ("a receipt", "receipt", "position", "position"),
    ("a faulty path", "path", "number", "path"),
    ("a null control", "control", "path", "path"),
)


def check_golden(store: Path, stored: GoldenRecord, now: GoldenRecord) -> None:
    """Raise RunError where the ``stored`` golden run differs from the one of ``now`` in a fact of model and data alone."""
    for key in ("inputs", "values_per_input", "probabilities", "labels", "top_1_correct", "top_5_correct"):
        expected, found = getattr(now, key), getattr(stored, key)
        if found != expected:
            raise RunError(f"{store}: the setting golden: expected {expected} as {key}, found {found}; {REMEDY}")


def check_outcomes(db: sqlite3.Connection, store: Path, identity: Identity, golden: GoldenRecord, unit: int) -> None:
    """Raise RunError for an outcome or a null control that is impossible under the settings of the run."""
    batch = identity.numerics.batch_size
    own = (identity.inputs or {}).get("per_injection", unit)
    if unit % batch or unit != own:
        expected = f"whole batches of {batch}" if unit % batch else f"the {own} inputs of an injection"
        raise RunError(f"{store}: the setting unit_length: expected {expected}, found {unit}; {REMEDY}")
    last = golden.inputs - 1
    chunk = f"typeof({{0}}.first) = 'integer' AND {{0}}.first BETWEEN 0 AND {last} AND {{0}}.first % {unit} = 0"
    length = f"MIN({unit}, {golden.inputs} - {{0}}.first)"
    rules = [
        ("an injection that is not in the plan", "i.position IS NOT NULL"),
        ("inputs that are no chunk of the run", f"{chunk.format('o')} AND COALESCE(i.first_input, o.first) = o.first"),
        *_count_rules(identity, golden, unit, length.format("o")),
    ]
    cases = " ".join(f"WHEN NOT COALESCE({rule}, 0) THEN '{words}'" for words, rule in rules)
    row = db.execute(
        f"SELECT COALESCE(i.id, o.position), o.first, CASE {cases} END AS wrong FROM outcome o"
        " LEFT JOIN injection i ON i.position = o.position WHERE wrong IS NOT NULL LIMIT 1"
    ).fetchone()
    if row:
        raise RunError(f"{store}: the outcome of injection {row[0]} from input {row[1]} on has {row[2]}; {REMEDY}")
    row = db.execute(
        f"SELECT c.path, c.first FROM control c WHERE NOT COALESCE({chunk.format('c')} AND c.inputs = {length.format('c')}"
        " AND typeof(c.masked) = 'integer' AND c.masked BETWEEN 0 AND c.inputs, 0) LIMIT 1"
    ).fetchone()
    if row:
        raise RunError(
            f"{store}: the null control of path {row[0]} from input {row[1]} on has inputs that are no chunk of the run, or "
            f"an impossible number of masked ones; {REMEDY}"
        )


def _count_rules(identity: Identity, golden: GoldenRecord, unit: int, length: str) -> list[tuple[str, str]]:
    """Return the rules for an outcome's inputs, counts and records, each as (words for a violation, SQL)."""
    named = "SELECT COUNT(DISTINCT r.input) FROM receipt r WHERE r.position = o.position"
    inputs = (
        f"CASE WHEN i.inputs IS NULL THEN {length} WHEN i.first_input IS NOT NULL THEN MIN(i.inputs, {length})"
        f" ELSE ({named} AND r.input >= o.first AND r.input < o.first + {unit}) END"
    )
    applying = identity.criterion.applying(golden.top_1_correct is not None)
    whole = "typeof(o.{0}) = 'integer' AND o.{0} BETWEEN 0 AND o.inputs"
    counts = [whole.format(name) if name in applying else f"o.{name} IS NULL" for name in COUNTS]
    rules = [
        ("another number of inputs than it runs over there", f"typeof(o.inputs) = 'integer' AND o.inputs = {inputs}"),
        ("counts that are no whole numbers of its inputs", " AND ".join(counts)),
        (
            "masked, non-critical, critical and failed inferences that do not add up to its inputs",
            f"{' + '.join(f'o.{name}' for name in OUTCOME_NAMES)} + o.failed = o.inputs",
        ),
        (
            "more critical nonfinite inferences than critical or nonfinite ones",
            "o.critical_nonfinite <= MIN(o.critical, o.nonfinite)",
        ),
        ("inferences that are not masked, though no bit changed", "i.changes OR o.masked = o.inputs"),
    ]
    if "top_1_robust" in applying:
        rules.append(("robust inferences that are critical", "o.top_1_robust + o.critical + o.failed = o.inputs"))
    sizes = {"per_input": "o.inputs", "scores": f"o.inputs * {4 * golden.values_per_input}"}
    for name, size in sizes.items():
        kept = f"typeof(o.{name}) = 'blob' AND LENGTH(o.{name}) = {size}"
        rules.append(
            (f"other records ({name}) than it keeps", kept if name in identity.records else f"o.{name} IS NULL")
        )
    return rules
