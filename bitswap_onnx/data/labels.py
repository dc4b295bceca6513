"""Labels: the forms that they may have, and files of them."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitswap_onnx.data.stored import Array, Labels, decoding_errors, mapped
from bitswap_onnx.errors import DataError


def as_labels(y: Array, count: int, where: str) -> Labels:
    """Return labels (N,), (N, 1) or one-hot (N, K) as int64 (N,) of at least 0, N being ``count``; raises DataError."""
    if y.dtype.kind not in "biuf" or y.ndim not in (1, 2) or 0 in y.shape[1:]:
        raise DataError(f"{where}: labels are {y.dtype} of shape {y.shape}, expected integers (N,) or one-hot (N, K)")
    if len(y) != count:
        raise DataError(f"{where}: {len(y)} labels for {count} inputs; expected one label per input, in the same order")
    if y.ndim == 2 and y.shape[1] > 1:
        hot = y == 1
        wrong = (hot.sum(axis=1) != 1) | ((y != 0) & ~hot).any(axis=1)
        values, kind = hot.argmax(axis=1), "a one-hot row"
    else:
        with np.errstate(invalid="ignore"):
            values, kind = y.reshape(count).astype(np.int64), "an integer of at least 0"
        wrong = (values != y.reshape(count)) | (values < 0)
    if wrong.any():
        first = int(wrong.argmax())
        found = np.array2string(y[first], threshold=8)
        raise DataError(f"{where}: the label of input {first} (counted from 0) is {found}, expected {kind}; correct it")
    return np.asarray(values, np.int64)


#: ILSVRC's file of the classes of its validation images, under the names that it goes by.
_ILSVRC = re.compile(r"validation_ground_truth", re.IGNORECASE)
_LABEL_ROW = re.compile(r"(?:(?P<name>.+?)(?:\s*,\s*|\s+))?(?P<label>[+-]?[0-9]{1,18})")


def labels_from_file(path: Path, count: int, names: Sequence[str] = ()) -> Labels:
    """Read labels: .npy, or text with one integer per line, or with rows that name the files ``names`` (any order)."""
    if path.suffix == ".npy":
        return as_labels(mapped(path), count, str(path))
    with decoding_errors(path, "a text file of labels"):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    if lines and lines[0].lower().startswith("filename;"):
        lines = _gtsrb_rows(path, lines)
    rows: list[tuple[str | None, int]] = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if row := _LABEL_ROW.fullmatch(line):
            rows.append((row["name"], int(row["label"])))
        elif line and (number > 1 or line.lower() != "filename,label"):
            raise DataError(f"{path}:{number}: expected an integer, or a file name and an integer, found {line[:80]!r}")
    named = {name: label for name, label in rows if name is not None}
    if named:
        odd = set(named) ^ set(names)
        if odd or len(named) < len(rows):
            what = min(odd)[:200] if odd else "a name given twice or left out"
            raise DataError(f"{path}: {len(rows)} rows, expected one for each of {len(names)} images; found {what}")
        rows = [(name, named[name]) for name in names]
    y = as_labels(np.array([label for _, label in rows]), count, str(path))
    if _ILSVRC.search(path.name) or (not named and len(y) == 50_000 and (y.min(), y.max()) == (1, 1000)):
        raise DataError(
            f"{path}: its numbers are ILSVRC's own, from 1 and in another order than the class folders; expected classes "
            "0-999 in the order of the sorted WordNet ids (the devkit's meta.mat says which number is which)"
        )
    return y


def _gtsrb_rows(path: Path, lines: list[str]) -> list[str]:
    """Return the rows of a file of GTSRB, which has semicolons and columns of sizes, as ``name,label``; raises DataError."""
    columns = lines[0].lower().split(";")
    if "classid" not in columns:
        raise DataError(
            f"{path}: expected the columns Filename and ClassId, found {lines[0][:80]}; the classes are in "
            "GT-final_test.csv, of GTSRB_Final_Test_GT.zip"
        )
    place = columns.index("classid")
    rows = [(cells[0], ",".join(cells[place : place + 1])) for cells in (line.split(";") for line in lines[1:])]
    return ["", *(",".join(filter(None, row)) for row in rows)]
