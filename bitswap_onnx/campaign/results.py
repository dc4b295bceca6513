"""The files and numbers that derive from a store: results.csv, the summary, saved scores, formats of other tools."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.store import Store
from bitswap_onnx.campaign.store_results import CriticalInjection
from bitswap_onnx.errors import MissingExtraError, RunError
from bitswap_onnx.faults.bits import BIT_CLASSES
from bitswap_onnx.faults.fault_row import TF_INJECTOR
from bitswap_onnx.files import replacing
from bitswap_onnx.outcome import COUNTS, OUTCOME_NAMES, Counts, decode_outcomes

RESULT_COLUMNS = (
    *("Injection", "Layer", "TensorIndex", "Bit", "n_injections"),
    *COUNTS,
    *("Parameter", "Kind", "Value", "Site", "Input"),
    *("clean_bits", "faulty_bits", "clean_value", "faulty_value", "effect"),
)

#: Counts that other tools' results have, in their order.
_CLASSIC = COUNTS[: COUNTS.index("critical") + 1]
_DIALECTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "dnn-benchmarks": (("Injection", "Layer", "TensorIndex", "Bit"), OUTCOME_NAMES),
    "tf_injector": (TF_INJECTOR, _CLASSIC),
}
DIALECTS = tuple(_DIALECTS)


@dataclass(frozen=True)
class Summary:
    """A campaign in numbers: ``totals`` over all inferences, per bit class, and the injections with most criticals."""

    injections: int
    totals: Counts
    bit_classes: list[tuple[str, int, Counts]]
    worst: list[CriticalInjection]


def write_results(store: Store, path: Path) -> None:
    """Write results.csv: one row per fault; an injection's counts stand on the first of its rows."""
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(RESULT_COLUMNS)
        writer.writerows(store.result_rows())


def how_it_ran(store: Store) -> dict[str, Any]:
    """Return the kind of lane of each faulty path (``lanes``) and the ``audit``; None where there was none.

    ``given_up``: the paths whose lane failed its null control, so that they ran again as whole models. ``seconds``: what
    workers spent, by `bitswap_onnx.runtime.stopwatch.SPANS`, over all resumes.
    """
    paths = store.paths()
    given_up = [", ".join(paths[number]) for number in sorted(store.given_up)]
    audit = store.audit
    seconds = {name: round(spent, 3) for name, spent in store.seconds.items()}
    return {"lanes": store.lanes, "audit": audit and audit.stored(), "given_up": given_up, "seconds": seconds}


def write_golden(store: Store, path: Path) -> None:
    """Write golden.json: the golden run, the identity, the lane of each faulty path, the audit, the workers' seconds."""
    with replacing(path) as file:
        json.dump({**store.golden.stored(), "identity": store.identity.stored(), **how_it_ran(store)}, file, indent=2)
        file.write("\n")


def export_dialect(store: Store, dialect: str, path: Path) -> None:
    """Write a finished run's results as tf_injector or dnn-benchmarks would.

    Raises RunError for an unfinished run, and for what their formats cannot hold: several faults in one injection, kinds
    other than flip, and parameters other than weights.
    """
    store.check_complete()
    names, counts = _DIALECTS[dialect]
    other = store.not_a_single_weight_flip()
    if other is not None:
        what = "several faults" if other[3] else f"{other[1]} of {other[2]}"
        raise RunError(
            f"injection {other[0]}: {what}: {dialect} holds single flips of weights alone; read results.csv instead"
        )
    columns = [*RESULT_COLUMNS[:5], *counts]
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*names, "n_injections", *counts))
        if dialect == "tf_injector":
            golden = store.golden
            cells = ["GOLDEN", "", "", "", golden.inputs, golden.top_1_correct, golden.top_5_correct]
            writer.writerow(cells + [""] * (len(columns) - len(cells)))
        for row in store.result_rows():
            named = dict(zip(RESULT_COLUMNS, row, strict=True))
            writer.writerow([named[column] for column in columns])


def summarize(store: Store, worst: int = 5) -> Summary:
    """Return the numbers of a finished campaign, with the ``worst`` most critical injections."""
    classes = store.totals_by_bit_class()
    order = [*(name for name in BIT_CLASSES if name in classes), *(name for name in classes if name not in BIT_CLASSES)]
    bit_classes = [(name or "other", *classes[name]) for name in order]
    return Summary(store.injections, store.totals(), bit_classes, store.most_critical(worst))


def write_scores(store: Store, folder: Path, golden: NDArray[Any]) -> None:
    """Write clean.npy and inj_<id>.npy, (inputs, classes) float32, from the recorded scores.

    An injection over some of the inputs, its own block or those that its faults name, has those alone, in the dataset's
    order.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make the folder: {error.strerror}") from None
    _save_array(folder / "clean.npy", golden.astype(np.float32))
    for _, identifier, scores in store.records("scores"):
        _save_array(folder / f"inj_{identifier}.npy", np.frombuffer(scores, np.float32).reshape(-1, golden.shape[1]))


def write_per_input(store: Store, path: Path) -> None:
    """Write per_input.parquet: injection, input, outcome, nonfinite; one row group per injection."""
    pa, parquet = require_parquet()
    schema = pa.schema(
        [("injection", pa.string()), ("input", pa.int64()), ("outcome", pa.string()), ("nonfinite", pa.bool_())]
    )
    with replacing(path, "wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for position, identifier, blob in store.records("per_input"):
            codes, nonfinite = decode_outcomes(blob)
            outcomes = [OUTCOME_NAMES[code] for code in codes]
            inputs = store.inputs(position)
            columns = [
                [identifier] * len(codes),
                np.arange(len(codes)) if inputs is None else inputs,
                outcomes,
                nonfinite,
            ]
            writer.write_table(pa.table(columns, schema=schema))


def require_parquet() -> tuple[Any, Any]:
    """Import pyarrow; raises MissingExtraError where it is absent."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("`per_input` needs pyarrow: pip install 'bitswap-onnx[parquet]'") from None
    return pyarrow, pyarrow.parquet


def _save_array(path: Path, array: NDArray[Any]) -> None:
    with replacing(path, "wb") as file:
        np.save(file, array)
