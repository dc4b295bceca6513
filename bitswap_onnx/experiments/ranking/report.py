"""The files that a ranking experiment writes into its run directory: tables as CSV, and everything as JSON."""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from bitswap_onnx.experiments.ranking.layer_faults import RankingSite
from bitswap_onnx.experiments.ranking.results import RankingComparison, Robustness, ScoredRanking, ranking_files
from bitswap_onnx.files import replacing


def write_robustness(robustness: Robustness) -> tuple[Path, ...]:
    """Write the tables and the JSON of `ranking_files` and return their paths. A table without rows is not written."""
    files = ranking_files(robustness.run, robustness.network)
    tables = {
        "layers": list(layer_rows(robustness)),
        "rankings": list(ranking_rows(robustness)),
        "curves": list(_curves(robustness)),
        "pairs": [_pair(pair, robustness.where) for pair in robustness.pairs],
    }
    written = [files[name] for name, rows in tables.items() if rows]
    for path, rows in zip(written, filter(None, tables.values()), strict=True):
        _write_table(path, rows)
    with replacing(files["json"]) as file:
        json.dump(_plain(_settings(robustness) | tables), file, indent=2, allow_nan=False)
        file.write("\n")
    return (*written, files["json"])


def _settings(robustness: Robustness) -> dict[str, Any]:
    names = ("network", "dataset", "where", "inputs", "trials", "seed", "golden", "labelled")
    return {name: getattr(robustness, name) for name in names}


def layer_rows(robustness: Robustness) -> Iterable[dict[str, Any]]:
    """Yield the numbers of each layer, by the columns of the CSV file."""
    for layer in robustness.layers:
        names = {"number": layer.number, "layer": layer.name, "type": layer.kind}
        shares = {"accuracy": layer.correct, "critical": layer.critical, "nonfinite": layer.nonfinite}
        cost = {name: value for name, value in asdict(layer.cost).items() if name != "layer"}
        yield names | shares | cost | {"bits": layer.bits, "largest_activation": layer.largest}


def ranking_rows(robustness: Robustness) -> Iterable[dict[str, Any]]:
    """Yield the scores of each ranking, by the columns of the CSV file."""
    return (_ranking(robustness, ranked) for ranked in robustness.rankings)


def _ranking(robustness: Robustness, ranked: ScoredRanking) -> dict[str, Any]:
    score = ranked.score
    return {
        "ranking": ranked.name,
        "layers": score.layers,
        "coverage": score.layers / score.all_layers,
        "score": score.score.value,
        "score_low": score.score.low,
        "score_high": score.score.high,
        "normalised": score.normalised.value,
        "normalised_low": score.normalised.low,
        "normalised_high": score.normalised.high,
        "normalised_in_sample": score.normalised_in_sample,
        "cross_fitted_oracle": score.cross_fitted_oracle,
        **{f"in_sample_{name}": value for name, value in asdict(score.in_sample).items()},
        "order": ";".join(robustness.layers[number].name for number in ranked.order),
    }


def _curves(robustness: Robustness) -> Iterable[dict[str, Any]]:
    """Yield each point of each curve. Point 0 monitors nothing, so it has no S."""
    for ranked in robustness.rankings:
        risk = ranked.risk
        for k, (left, macs, bits) in enumerate(zip(risk.unmonitored, risk.macs, risk.bits, strict=True)):
            yield {
                "ranking": ranked.name,
                "k": k,
                "layer": robustness.layers[ranked.order[k - 1]].name if k else "",
                "s": float(ranked.curve[k - 1]) if k else None,
                "critical_unmonitored": float(left),
                "macs_monitored": float(macs),
                "bits_monitored": float(bits),
            }


def _pair(pair: RankingComparison, where: RankingSite) -> dict[str, Any]:
    agreement, difference = pair.agreement, pair.difference
    score = (None, None, None) if difference is None else astuple(difference.score)
    values = [*astuple(agreement.tau), *astuple(agreement.overlap), *score]
    names = [f"{name}{end}" for name in ("tau_b", "overlap", "score_difference") for end in ("", "_low", "_high")]
    return {
        "first": pair.first,
        "second": pair.second,
        "common_layers": agreement.common,
        "top": agreement.top,
        "resampled": "faults" if agreement.sampled == "inputs" and where == "weights" else agreement.sampled,
        **dict(zip(names, values, strict=True)),
        "verdict": None if difference is None else difference.verdict,
    }


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with replacing(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(_plain(row) for row in rows)


def _plain(value: Any) -> Any:
    """Return plain data in which None stands for NaN and infinities: JSON does not have them, a CSV cell stays empty."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
