"""Files with a ranking of layers, in one of two forms. A plain list of numbers can mean either, with opposite meanings.

``order``: layers, the most critical first. ``rank-values``: a number for each layer, the smallest the most critical.

=====================================  =================================================
JSON list of strings                   order, by layer name
JSON object, name to number            rank values
JSON list of numbers                   as ``form`` says: indices from 0, or a rank for each layer of the model
CSV, header ``layer``                  order, by layer name
CSV, header ``layer,rank``             rank values
CSV, one column without a header       like a JSON list: names, or numbers as ``form`` says
=====================================  =================================================

Layers with equal rank values keep the model's order. Rankings by name may leave layers out.
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import BitswapError, nearest, one_line
from bitswap_onnx.faults.numerals import real, whole

RankingForm = Literal["order", "rank-values"]

#: A ranking has one line for each layer; a larger file is no ranking.
MAX_FILE_BYTES = 2**24

_HEADERS = (["layer"], ["layer", "rank"])


@dataclass(frozen=True, eq=False)
class GivenRanking:
    """A ranking as read: ``order`` (m,) has indices of layers, the most critical first; ``tied`` layers share a rank."""

    order: NDArray[np.intp]
    form: RankingForm
    tied: tuple[str, ...] = ()


#: Entries, each with its place in the file: layer names, numbers, or names with their rank.
_Names = list[tuple[str, str]]
_Numbers = list[tuple[str, Any]]
_Ranks = list[tuple[str, tuple[str, Any]]]


def read_ranking(path: str | Path, layers: Sequence[str], form: RankingForm | None = None) -> GivenRanking:
    """Read a ranking of ``layers``, in the model's order, from a .json or .csv file; the module describes both forms.

    Raises BitswapError for a file that cannot be read, another form than ``form``, a list of numbers without a
    ``form``, unknown or repeated layers, a wrong index or rank, and an empty ranking.
    """
    path = Path(path)
    readers = {".json": _read_json, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise BitswapError(f"{path}: expected a ranking in a .json or .csv file, found {path.suffix or 'no suffix'}")
    return readers[path.suffix.lower()](path, _text(path), layers, form)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BitswapError(
                f"{path}: expected a ranking of at most {MAX_FILE_BYTES} bytes, found {path.stat().st_size}"
            )
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BitswapError(f"{path}: expected UTF-8 text, found {error.reason}; save it as UTF-8") from None
    except OSError as error:
        raise BitswapError(f"{path}: cannot read the ranking: {error.strerror or one_line(error)}") from None


def _read_json(path: Path, text: str, layers: Sequence[str], form: RankingForm | None) -> GivenRanking:
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: _Object(pairs))
    except (ValueError, RecursionError) as error:
        raise BitswapError(f"{path}: expected a ranking in JSON: {one_line(error)}") from None
    if isinstance(content, _Object):
        listed = next(
            (name for name, value in content.pairs if isinstance(value, list) and value and isinstance(value[0], str)),
            None,
        )
        if listed is not None:
            raise BitswapError(
                f'{path}: expected one ranking, ["conv1", "fc"] or {{"conv1": 1, "fc": 2}}, found an object with a '
                f"list, {listed!r}; write that list alone, one file for each ranking"
            )
        return _by_rank([(f"{path}", pair) for pair in content.pairs], path, layers, form)
    if not isinstance(content, list):
        raise BitswapError(f"{path}: expected a JSON list or object, found {_shown(content)}")
    entries = [(f"{path}: entry {i}", entry) for i, entry in enumerate(content, 1)]
    if all(isinstance(entry, str) for entry in content):
        return _by_name(entries, path, layers, form)
    names = isinstance(content[0], str)
    for where, entry in entries:
        if isinstance(entry, bool) or not isinstance(entry, str if names else int | float):
            kind = "a layer name like the first" if names else "a number"
            raise BitswapError(f"{where}: expected {kind}, found {_shown(entry)}; list names alone or numbers alone")
    return _by_number(entries, path, layers, form)


@dataclass(frozen=True, slots=True)
class _Object:
    """A JSON object as its list of pairs; a dict would hide a repeated layer."""

    pairs: list[tuple[str, Any]]


def _read_csv(path: Path, text: str, layers: Sequence[str], form: RankingForm | None) -> GivenRanking:
    """Read the three kinds of CSV; a first cell ``layer`` is a header, whatever the layers are called."""
    reader = csv.reader(text.splitlines())
    try:
        rows = [(f"{path}:{reader.line_num}", [cell.strip() for cell in row]) for row in reader if any(row)]
    except csv.Error as error:
        raise BitswapError(f"{path}:{reader.line_num}: expected CSV: {error}") from None
    header = [cell.lower() for cell in rows[0][1]] if rows else []
    headed = header in _HEADERS
    width = len(header) if headed else 1
    for where, row in rows:
        if len(row) != width:
            raise BitswapError(
                f"{where}: expected {width} cell{'s' * (width > 1)}, found {len(row)}; begin with the header "
                "layer for an order, layer,rank for rank values"
            )
    rows = rows[headed:]
    if width == 2:
        return _by_rank([(where, (name, _number(rank))) for where, (name, rank) in rows], path, layers, form)
    cells = [(where, cell) for where, (cell,) in rows]
    if headed or any(isinstance(_number(cell), str) for _, cell in cells):
        return _by_name(cells, path, layers, form)
    if cells and all(cell in layers for _, cell in cells):
        raise BitswapError(f"{path}: these numbers are layer names too; begin with the header layer if they are meant")
    return _by_number([(where, _number(cell)) for where, cell in cells], path, layers, form)


def _by_name(entries: _Names, path: Path, layers: Sequence[str], form: RankingForm | None) -> GivenRanking:
    if form == "rank-values":
        raise BitswapError(f"{path}: a list of layer names is an order, it has no rank values; pass `form` order")
    return GivenRanking(_known([(where, name) for where, name in entries], path, layers), "order")


def _by_rank(entries: _Ranks, path: Path, layers: Sequence[str], form: RankingForm | None) -> GivenRanking:
    if form == "order":
        raise BitswapError(f"{path}: numbers by layer name are rank values, not an order; pass `form` rank-values")
    order = _known([(where, name) for where, (name, _) in entries], path, layers)
    return _ranked(order, [(f"{where}: {name}", rank) for where, (name, rank) in entries], layers)


def _by_number(entries: _Numbers, path: Path, layers: Sequence[str], form: RankingForm | None) -> GivenRanking:
    if form is None and entries:
        raise BitswapError(
            f"{path}: a plain list of numbers may be layer indices, the most critical first, or a rank value for each "
            "layer; pass `form` order or `form` rank-values"
        )
    if form == "rank-values" and len(entries) != len(layers):
        raise BitswapError(
            f"{path}: expected {len(layers)} rank values, one for each layer, found {len(entries)}; "
            "to rank some layers give name and rank"
        )
    if form == "rank-values":
        return _ranked(np.arange(len(layers)), entries, layers)
    return GivenRanking(_known([(where, _at_index(where, i, layers)) for where, i in entries], path, layers), "order")


def _at_index(where: str, index: Any, layers: Sequence[str]) -> str:
    if isinstance(index, int) and 0 <= index < len(layers):
        return layers[index]
    raise BitswapError(
        f"{where}: expected a layer index from 0 to {len(layers) - 1}, found {_shown(index)}; if these are rank values, "
        "pass `form` rank-values"
    )


def _known(names: _Names, path: Path, layers: Sequence[str]) -> NDArray[np.intp]:
    """Return the indices of layers; raises BitswapError for an unknown or a repeated layer."""
    if not names:
        raise BitswapError(f"{path}: expected a ranking, found no layers; name at least one")
    index = {name: i for i, name in enumerate(layers)}
    seen: dict[str, str] = {}
    for where, name in names:
        if name not in index:
            raise BitswapError(f"{where}: the model has no layer {_shown(name)}; nearest: {nearest(name, layers)}")
        if name in seen:
            raise BitswapError(f"{where}: {_shown(name)} is ranked a second time; name each layer once")
        seen[name] = where
    return np.array([index[name] for name in seen], np.intp)


def _ranked(order: NDArray[np.intp], entries: _Numbers, layers: Sequence[str]) -> GivenRanking:
    """Sort layers by rank, the smallest first; equal ones keep the model's order."""
    ranks = np.array([_rank(where, rank) for where, rank in entries])
    distinct, counts = np.unique(ranks, return_counts=True)
    tied = sorted(order[np.isin(ranks, distinct[counts > 1])])
    return GivenRanking(order[np.lexsort((order, ranks))], "rank-values", tuple(layers[i] for i in tied))


def _rank(where: str, rank: Any) -> float:
    if not isinstance(rank, bool) and isinstance(rank, int | float) and abs(rank) < math.inf:
        try:
            return float(rank)
        except OverflowError:
            pass
    raise BitswapError(f"{where}: expected a finite rank value, found {_shown(rank)}; 1 is the most critical layer")


def _number(cell: str) -> int | float | str:
    """Return the number in a CSV cell, or the cell itself if it is not a number."""
    for kind in (whole, real):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def _shown(value: object) -> str:
    text = {list: "a list", _Object: "an object"}.get(type(value)) or json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
