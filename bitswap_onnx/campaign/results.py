"""The files and numbers that derive from a store: results.csv, the summary, saved scores."""

import csv
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.store import Store
from bitswap_onnx.campaign.store_results import CriticalInjection
from bitswap_onnx.errors import MissingExtraError, RunError
from bitswap_onnx.faults.bits import BIT_CLASSES
from bitswap_onnx.files import replacing
from bitswap_onnx.outcome import COUNTS, OUTCOME_NAMES, Counts, decode_outcomes

RESULT_COLUMNS = (
    *("Injection", "Layer", "TensorIndex", "Bit", "n_injections"),
    *COUNTS,
    *("Parameter", "Kind", "Value", "Site", "Input"),
    *("clean_bits", "faulty_bits", "clean_value", "faulty_value", "effect"),
)
#: The columns of per_input.parquet.
PER_INPUT_COLUMNS = ("injection", "input", "outcome", "nonfinite")


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

    ``warnings``: signs that the data do not belong to the model. ``coverage``: how many of the model's stored bits the
    faults stand for. ``given_up``: the paths whose lane failed its null control, so that they ran again as whole models.
    ``seconds``: what workers spent, by `bitswap_onnx.runtime.stopwatch.SPANS`, over all resumes.
    """
    paths = store.paths()
    given_up = [", ".join(paths[number]) for number in sorted(store.given_up)]
    audit = store.audit
    seconds = {name: round(spent, 3) for name, spent in store.seconds.items()}
    covered = store.coverage
    return {
        "warnings": list(store.warnings),
        "coverage": covered and asdict(covered),
        "lanes": store.lanes,
        "audit": audit and audit.stored(),
        "given_up": given_up,
        "seconds": seconds,
    }


def write_golden(store: Store, path: Path) -> None:
    """Write golden.json: the golden run, the identity, the coverage, lanes, audit and the workers' seconds."""
    with replacing(path) as file:
        json.dump(
            {**store.golden.stored(), "identity": store.identity.stored(), **how_it_ran(store)},
            file,
            indent=2,
            allow_nan=False,
        )
        file.write("\n")


def summarize(store: Store, worst: int = 5) -> Summary:
    """Return the numbers of a finished campaign, with the ``worst`` most critical injections."""
    classes = store.totals_by_bit_class()
    order = [*(name for name in BIT_CLASSES if name in classes), *(name for name in classes if name not in BIT_CLASSES)]
    bit_classes = [(name or "other", *classes[name]) for name in order]
    return Summary(store.injections, store.totals(), bit_classes, store.most_critical(worst))


def write_scores(store: Store, folder: Path, golden: NDArray[Any], without: Collection[str] = ()) -> None:
    """Write clean.npy and inj_<id>.npy, (inputs, classes) float32, from the recorded scores; ``without`` some injections.

    An injection over some of the inputs, its own block or those that its faults name, has those alone, in the dataset's
    order.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make the folder: {error.strerror}") from None
    _save_array(folder / "clean.npy", golden.astype(np.float32))
    for _, identifier, scores in store.records("scores"):
        if identifier not in without:
            _save_array(
                folder / f"inj_{identifier}.npy", np.frombuffer(scores, np.float32).reshape(-1, golden.shape[1])
            )


def write_per_input(store: Store, path: Path) -> None:
    """Write per_input.parquet: injection, input, outcome, nonfinite; one row group per injection."""
    pa, parquet = require_parquet()
    types = pa.string(), pa.int64(), pa.string(), pa.bool_()
    schema = pa.schema(list(zip(PER_INPUT_COLUMNS, types, strict=True)))
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
