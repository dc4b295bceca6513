"""Rates as JSON and CSV."""

import csv
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from bitswap_onnx.estimates.fit import Fit
from bitswap_onnx.estimates.names import CURVE
from bitswap_onnx.estimates.rates import Rate, Rates
from bitswap_onnx.files import check_output, replacing
from bitswap_onnx.sampling.design import design_path

#: The columns of the CSV file.
RATE_COLUMNS = (*(field.name for field in fields(Rate)), "input_design")

_METHOD = (
    "the fault is the sampling unit; SE: standard error, from the spread between the faults drawn; intervals allow for rare "
    "harmful faults that were not drawn: Clopper and Pearson's for n faults with n times the mean share of hits (strata: "
    "Fay and Feuer's)"
)
_TWO_WAY = (
    "; inputs are a sample too: SE: two-way random effects of faults and inputs; intervals also cover Student's interval "
    "of the inputs' means, whose distances add as squares"
)


def method(rates: Rates) -> str:
    """Return one sentence on the method of the estimates."""
    return _METHOD + _TWO_WAY * rates.question.over_inputs


def as_record(rates: Rates, fit: Fit | None = None) -> dict[str, Any]:
    """Return rates and question as JSON can hold them: numbers are fractions, None where there is no estimate."""
    recorded, question, strata = rates.recorded, rates.question, rates.strata
    design = None
    if strata is not None:
        columns = zip(strata.names, strata.sizes, strata.populations, strict=True)
        design = [{"stratum": name, "size": size, "population": whole} for name, size, whole in columns]
    return {
        "source": recorded.source,
        "injections": len(recorded),
        "inferences": int(recorded.inputs.sum()),
        "golden_top_1": recorded.accuracy,
        "question": asdict(question),
        "leading": rates.question.leading,
        "method": method(rates),
        "input_design": rates.inputs.name,
        "corrected": {scope: {"method": "Bonferroni", "rows": number} for scope, number in rates.corrected_for.items()},
        "design": design,
        "notes": [*rates.notes, rates.inputs.about],
        "rates": [asdict(row) for row in rates.rows if row.scope != CURVE],
        "curve": [asdict(row) for row in rates.rows if row.scope == CURVE],
        "fit": None if fit is None else asdict(fit),
    }


def write_csv(rates: Rates, path: Path, design: Path | None = None) -> None:
    """Write one row per `Rate`, with the input design, whole or not at all.

    Raises RunError where it cannot be written, or where ``path`` is the source, a file of it, or the ``design`` that
    was given or lies beside it.
    """
    source = Path(rates.recorded.source)
    check_output(path, [source, *(source.rglob("*") if source.is_dir() else ()), design or design_path(source)])
    with replacing(path) as file:
        writer = csv.DictWriter(file, RATE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rates.table_rows())
