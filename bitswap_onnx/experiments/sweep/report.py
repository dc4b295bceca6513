"""The tables that a sweep writes: one row per rate, and one row per repeat and rate."""

import csv
from collections.abc import Iterator
from typing import Any

from bitswap_onnx.experiments.sweep.results import SWEEP_MEASURES, Sweep, mean_with_interval
from bitswap_onnx.files import replacing

#: The columns of the file with a row per rate, and of the file with a row per rate and repeat.
SUMMARY_COLUMNS = (
    *("rate", "repeats", "repeats_with_flips", "flips"),
    *(f"{name}{end}" for name in SWEEP_MEASURES for end in ("", "_low", "_high")),
)
DETAIL_COLUMNS = ("rate", "repeat", "seed", "flips", "injection", *SWEEP_MEASURES)


def write_sweep(sweep: Sweep, seed: int) -> None:
    """Write both files of `Sweep.files`; ``seed`` and the repeat identify the draw of a point."""
    summary, detail = sweep.files
    with replacing(summary) as file:
        table = csv.DictWriter(file, SUMMARY_COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rate_rows(sweep))
    with replacing(detail) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(DETAIL_COLUMNS)
        writer.writerow((0, None, None, 0, None, *sweep.golden.values()))
        for point, shares in sweep.points:
            writer.writerow((point.rate, point.repeat, seed, point.flips, point.injection, *shares.values()))


def rate_rows(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Yield the numbers of each rate, by the columns of the summary file; the first row, of rate 0, is the golden run."""
    golden = [value for name in SWEEP_MEASURES for value in (sweep.golden[name], None, None)]
    yield dict(zip(SUMMARY_COLUMNS, (0, 0, 0, 0, *golden), strict=True))
    for row in sweep.rows:
        means = [value for name in SWEEP_MEASURES for value in mean_with_interval(row.means[name])]
        yield dict(zip(SUMMARY_COLUMNS, (row.rate, row.repeats, row.flipped, row.flips, *means), strict=True))
