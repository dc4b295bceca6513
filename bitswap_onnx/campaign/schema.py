"""The tables of a run's store, and the conversion of a receipt into a row."""

from collections.abc import Callable
from typing import NamedTuple

from bitswap_onnx.faults.bits import format_value, hex_bits
from bitswap_onnx.graph.receipts import NeuronReceipt, Receipt
from bitswap_onnx.graph.targets import Target
from bitswap_onnx.outcome import COUNTS

SCHEMA_VERSION = 5

#: One row per fault, as in results.csv; ``tensor``, ``element`` and ``mask`` are what an engine needs: of a neuron the
#: site's key, and keep:toggle. ``input`` is NULL for all.
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
    "site",
    "input",
)

#: ``injection.inputs``: how many it runs over, NULL for all; ``injection.first_input``: where its own block of them begins,
#: NULL for those that its faults name, or all. ``outcome.failed``: inputs without scores, because the runtime raised,
#: crashed or hung: masked + non_critical + critical + failed = inputs. ``measure``: further numbers of an outcome, by name;
#: ``fingerprint`` is that of the batch from input ``first`` on.
SCHEMA = f"""
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE path (number INTEGER PRIMARY KEY, tensors TEXT NOT NULL UNIQUE);
CREATE TABLE injection (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, path INTEGER NOT NULL REFERENCES path, changes INTEGER NOT NULL,
    inputs INTEGER, first_input INTEGER);
CREATE TABLE receipt (
    position INTEGER NOT NULL REFERENCES injection, row INTEGER NOT NULL, {", ".join(RECEIPT_COLUMNS)},
    PRIMARY KEY (position, row)) WITHOUT ROWID;
CREATE INDEX receipt_input ON receipt (position, input) WHERE input IS NOT NULL;
CREATE TABLE control (
    path INTEGER NOT NULL REFERENCES path, first INTEGER NOT NULL, inputs INTEGER NOT NULL, masked INTEGER NOT NULL,
    lane TEXT NOT NULL, PRIMARY KEY (path, first)) WITHOUT ROWID;
CREATE TABLE outcome (
    position INTEGER NOT NULL REFERENCES injection, first INTEGER NOT NULL, inputs INTEGER NOT NULL,
    {", ".join(f"{name} INTEGER" for name in COUNTS)}, per_input BLOB, scores BLOB, failed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (position, first)) WITHOUT ROWID;
CREATE INDEX outcome_first ON outcome (first);
CREATE TABLE measure (
    position INTEGER NOT NULL, first INTEGER NOT NULL, name TEXT NOT NULL, value REAL,
    PRIMARY KEY (position, first, name)) WITHOUT ROWID;
"""


class Upgrade(NamedTuple):
    """The changes that turn a store of one schema version into the next version.

    ``added``: the columns, (table, column), that the next version has; a column None stands for the whole table.
    ``views``: temporary views that show the older tables as those of the next version. ``script``: statements that change
    the tables.
    """

    added: tuple[tuple[str, str | None], ...]
    views: str
    script: tuple[str, ...]


#: Older versions that are still read and resumed.
UPGRADES = {
    4: Upgrade(
        added=(("outcome", "failed"), ("measure", None)),
        views="CREATE TEMP VIEW outcome AS SELECT *, 0 AS failed FROM main.outcome;"
        "CREATE TEMP VIEW measure AS SELECT NULL AS position, NULL AS first, NULL AS name, NULL AS value WHERE 0;",
        script=(
            "ALTER TABLE outcome ADD COLUMN failed INTEGER NOT NULL DEFAULT 0",
            "CREATE TABLE measure (position INTEGER NOT NULL, first INTEGER NOT NULL, name TEXT NOT NULL, value REAL,"
            " PRIMARY KEY (position, first, name)) WITHOUT ROWID",
            "PRAGMA user_version = 5",
        ),
    )
}

#: The (layer, parameter) under which a list finds a target again.
Address = Callable[[Target], tuple[str, str]]


def receipt_row(receipt: Receipt | NeuronReceipt, address: Address) -> tuple[object, ...]:
    """Return a receipt as a row of `RECEIPT_COLUMNS`."""
    fault, fmt = receipt.fault, receipt.format
    if isinstance(receipt, NeuronReceipt):
        layer, parameter = receipt.site.layer, ""
        place = receipt.site.key, receipt.element, f"{receipt.keep:x}:{receipt.toggle:x}", receipt.site.site.value
    else:
        layer, parameter = address(receipt.target)
        place = receipt.target.tensor, receipt.element, f"{receipt.mask:x}", ""
    return (
        layer,
        str(fault.index),
        receipt.bit,
        parameter,
        fault.kind.value,
        fault.value,
        *("" if bits is None else hex_bits(bits, fmt) for bits in (receipt.clean_bits, receipt.faulty_bits)),
        *("" if bits is None else format_value(bits, fmt) for bits in (receipt.clean_bits, receipt.faulty_bits)),
        receipt.effect,
        "" if receipt.bit is None else fmt.bit_class(receipt.bit),
        *place,
        fault.input,
    )
