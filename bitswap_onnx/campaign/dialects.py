"""A finished run's results in the formats of tf_injector and dnn-benchmarks."""

import csv
import re
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.results import RESULT_COLUMNS, write_scores
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.campaign.store_file import STORE_NAME
from bitswap_onnx.converters.torch_checkpoint import require_torch
from bitswap_onnx.converters.torch_scores import save_tensor
from bitswap_onnx.errors import RunError, one_line
from bitswap_onnx.faults.fault_row import TF_INJECTOR
from bitswap_onnx.files import replacing
from bitswap_onnx.outcome import COUNTS, OUTCOME_NAMES

#: Counts that other tools' results have, in their order.
_CLASSIC = COUNTS[: COUNTS.index("critical") + 1]
_DIALECTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "dnn-benchmarks": (("Injection", "Layer", "TensorIndex", "Bit"), OUTCOME_NAMES),
    "tf_injector": (TF_INJECTOR, _CLASSIC),
}


def export_dialect(store: Store, dialect: str, path: Path) -> Counter[str]:
    """Write a finished run's results as tf_injector or dnn-benchmarks would: its single flips of weights.

    Returns the number of the injections left out, by what they are: several faults, neuron faults, kinds other than flip
    and parameters other than weights. Raises RunError for an unfinished run, and where no injection is left.
    """
    store.check_complete()
    names, counts = _DIALECTS[dialect]
    others = store.unlike_a_weight_flip()
    left_out = Counter(others.values())
    if len(others) == store.injections:
        raise RunError(
            f"{store.run}: {dialect} holds single flips of weights alone, found none ({left_out_of(left_out)}); read "
            "results.csv instead"
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
            if named["Injection"] not in others:
                writer.writerow([named[column] for column in columns])
    return left_out


def export_folders(store: Store, dialect: str, folder: Path) -> tuple[list[Path], Counter[str]]:
    """Write a finished run below ``folder``, under the names that tf_injector or dnn-benchmarks gives its files.

    tf_injector: ``DATASET/NETWORK/DATASET_NETWORK_yymmdd_HHMM.csv`` (the time of the run's last change), and scores in
    ``yymmdd_HHMM/`` beside it: ``clean.npy``, ``inj_ID.npy``. dnn-benchmarks: ``DATASET/NETWORK/NETWORK_FL.csv``, and the
    clean scores as a PyTorch tensor, (inputs, classes) float32, in ``clean.pt``. Scores are written where the run has
    saved them.

    Returns the files and what `export_dialect` returns, and raises as it does; MissingExtraError where clean scores need
    PyTorch and it is not installed.
    """
    dataset, network = (re.sub(r"[^\w.-]|^\.+", "_", name) for name in (store.golden.dataset, store.golden.network))
    target, saved = folder / dataset / network, store.run / "outputs" / "clean.npy"
    clean = _load_scores(saved, store) if saved.is_file() else None
    if clean is not None and dialect == "dnn-benchmarks":
        require_torch()
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{target}: cannot make the folder: {error.strerror}") from None
    if dialect == "tf_injector":
        time = datetime.fromtimestamp((store.run / STORE_NAME).stat().st_mtime).strftime("%y%m%d_%H%M")
        table, scores = target / f"{dataset}_{network}_{time}.csv", target / time
    else:
        table, scores = target / f"{network}_FL.csv", target / "clean.pt"
    left_out = export_dialect(store, dialect, table)
    if clean is None:
        return [table], left_out
    if dialect == "tf_injector":
        write_scores(store, scores, clean, store.unlike_a_weight_flip())
    else:
        with replacing(scores, "wb") as file:
            save_tensor(clean, file)
    return [table, scores], left_out


def _load_scores(path: Path, store: Store) -> NDArray[np.float32]:
    try:
        scores = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(
            f"{path}: cannot read the saved scores: {one_line(error)}; resume the run to write them"
        ) from None
    expected = store.golden.inputs, store.golden.values_per_input
    if not isinstance(scores, np.ndarray) or scores.shape != expected or scores.dtype != np.float32:
        raise RunError(
            f"{path}: expected float32 scores of shape {expected}, found others; resume the run to write them"
        )
    return scores


def left_out_of(left_out: Counter[str]) -> str:
    """Return the numbers of injections left out, by what they are, as text."""
    return ", ".join(f"{number:,} with {what}" for what, number in left_out.most_common())
