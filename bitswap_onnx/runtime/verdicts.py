"""Verdicts: what was found by trying a model on this machine, kept for the next campaign.

A verdict is a fact of a model, numerics, runtime, processor and the inputs that it was found with; its file is named by all
of these. The folder may be deleted at any time. Chains and lanes that are kept are controlled by every campaign.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bitswap_onnx.errors import RunError
from bitswap_onnx.files import replacing
from bitswap_onnx.runtime.failures import SHORTAGES
from bitswap_onnx.runtime.session import machine_name, versions

#: Names another folder for verdicts; empty: none are kept.
FOLDER_VARIABLE = "BITSWAP_ONNX_CACHE"

#: Raised whenever the search behind a verdict changes.
_SEARCH = 4


def kept_verdict(facts: Mapping[str, Any], find: Callable[[], Any], may_be: Callable[[Any], bool]) -> Any:
    """Return the verdict about ``facts``, as JSON has it: the one that is kept, else what ``find`` returns.

    ``may_be``: whether a verdict has the right form; one that has not is found again, as that of a damaged file. The fact
    ``model`` is the SHA-256 of a model's file; none is kept about a model without one.
    """
    folder = _folder()
    if folder is None or not facts["model"]:
        return find()
    everything = {**facts, **versions(), "machine": machine_name("cpu"), "search": _SEARCH}
    key = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
    path = folder / f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # none yet, or a damaged file
        verdict = json.loads(path.read_text())["verdict"]
        if may_be(verdict):
            return verdict
    before = SHORTAGES.count
    verdict = find()
    if SHORTAGES.count > before:  # what failed for want of memory says nothing about the model
        return verdict
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            json.dump({**everything, "verdict": verdict}, file)
    except (OSError, RunError):  # a folder that cannot be written: the next campaign tries again
        pass
    return verdict


def digest(*parts: bytes | NDArray[Any]) -> str:
    """Return the SHA-256 of some bytes and arrays, to name them in a verdict's facts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else part.tobytes())
    return found.hexdigest()


def _folder() -> Path | None:
    named = os.environ.get(FOLDER_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    base = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(base or Path.home() / ".cache") / "bitswap-onnx"
    except RuntimeError:  # a user without a home
        return None
