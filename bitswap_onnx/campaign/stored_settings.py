"""The form of each setting in a run's store. A setting of another form, from a damaged file, is wrong input.

A shape is one of: a type; `_Whole`, a range of whole numbers; `_OneOf`, a choice of words; ``[shape]``, a list of such
elements; a dict, an object, in which the key ``...`` allows further keys; a tuple, any of several shapes; None, a null.
"""

import math
from dataclasses import dataclass
from typing import Any

from bitswap_onnx.runtime.stopwatch import SPANS

#: The commands whose injections are no sample of faults: inputs have faults of their own, or draws are at several rates.
EXPERIMENTS = ("neurons", "sweep", "rank")

#: The end of a note on a design that lies beside a list and is not its own.
NOT_KEPT = "; the run does not keep it, so estimate weighs all faults alike"


@dataclass(frozen=True)
class _Whole:
    """A whole number from ``least`` on."""

    least: int | None = None

    def __str__(self) -> str:
        return "a whole number" if self.least is None else f"a whole number from {self.least} on"


@dataclass(frozen=True)
class _OneOf:
    """One of a few words."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


_COUNT, _FROM_0, _ANY = _Whole(1), _Whole(0), _Whole()
_NAMES = {str: "text", bool: "true or false", float: "a finite number"}

_IDENTITY = {
    "model": str,
    "faults": str,
    "data": str,
    "output": str,
    "tolerance": (float, None),
    "numerics": {
        "provider": _OneOf(("cpu", "cuda")),
        "fusion": _OneOf(("framework", "deployed")),
        "layout": _OneOf(("plain", "blocked")),
        "tf32": str,
        "threads": _COUNT,
        "batch_size": _COUNT,
        "quantized": _OneOf(("none", "exact", "runtime")),
        "apart": bool,
    },
    "inputs": ({"per_injection": _COUNT, "seed": _ANY}, None),
    "bit_order": _OneOf(("lsb", "msb")),
    "records": [_OneOf(("scores", "per_input"))],
}
_GOLDEN = {
    **dict.fromkeys(("network", "model_file", "fault_list", "dataset", "data", "scores", "machine"), str),
    "inputs": _COUNT,
    "input_design": _OneOf(("all", "nested")),
    "values_per_input": _COUNT,
    "probabilities": bool,
    "labels": (str, None),
    "top_1_correct": (_FROM_0, None),
    "top_5_correct": (_FROM_0, None),
    "providers": [str],
    "versions": {"...": None},
}
_COVERAGE = {
    "stored": _FROM_0,
    "covered": _FROM_0,
    "left_out": [{"role": str, "dtype": str, "tensors": _COUNT, "bits": _COUNT}],
    "of": str,
}
_INTERIM_ESTIMATE = {
    **dict.fromkeys(("round", "injections", "inferences", "iterative"), _FROM_0),
    **dict.fromkeys(("mean", "low", "high"), float),
    "goal": str,
}
_UNTIL = {
    "scheme": _OneOf(("stratified", "iterative")),
    "kinds": [str],
    "seed": _ANY,
    "again": bool,
    "strata": [str],
    "populations": [_COUNT],
    "parts": ([list], None),
    "rounds": [{"draws": _COUNT, "probabilities": ([float], None), "margin": float}],
    "looks": [_INTERIM_ESTIMATE],
    "...": None,
}

#: The form of each setting by its key; settings with other keys are not checked.
SHAPES: dict[str, Any] = {
    "identity": _IDENTITY,
    "golden": _GOLDEN,
    "notes": [str],
    "warnings": [str],
    "unit_length": _COUNT,
    "design": (str, None),
    "experiment": (_OneOf(EXPERIMENTS), None),
    "coverage": (_COVERAGE, None),
    "plan": str,
    "engine": _OneOf(("incremental", "reference")),
    "incremental": bool,
    "lanes": ({"...": None}, None),
    "given_up": [_FROM_0],
    "audit": ({"checked": [str], "different": [str]}, None),
    "growing": bool,
    "seconds": dict.fromkeys(SPANS, float),
    "until": _UNTIL,
}

#: Settings that every store has.
REQUIRED_SETTINGS = ("identity", "golden", "unit_length")


def misfit(key: str, value: Any) -> str | None:
    """Return the first deviation of a setting's value from its form, as a phrase; None if there is none."""
    return _misfit(value, SHAPES[key], "") if key in SHAPES else None


def _misfit(value: Any, shape: Any, where: str) -> str | None:
    if isinstance(shape, tuple):
        misfits = [_misfit(value, choice, where) for choice in shape]
        return None if None in misfits else misfits[0]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _phrase("a list", value, where)
        elements = ((f"{where}[{position}]", element) for position, element in enumerate(value))
        return next(filter(None, (_misfit(element, shape[0], place) for place, element in elements)), None)
    if isinstance(shape, dict):
        return _misfit_of_object(value, shape, where)
    return None if _fits(value, shape) else _phrase(_NAMES.get(shape, str(shape)), value, where)


def _misfit_of_object(value: Any, shape: dict[str, Any], where: str) -> str | None:
    if not isinstance(value, dict):
        return _phrase("an object", value, where)
    required = {key: field for key, field in shape.items() if key != "..."}
    missing = [key for key in required if key not in value]
    unknown = [key[:80] for key in value if key not in required] if "..." not in shape else []
    if missing or unknown:
        return f"{where or 'it'} has {f'no {missing[0]}' if missing else repr(unknown[0])}"
    fields = ((f"{where}.{key}".lstrip("."), value[key], field) for key, field in required.items())
    return next(filter(None, (_misfit(element, field, place) for place, element, field in fields)), None)


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, _OneOf):
        return type(value) is str and value in shape.words
    if isinstance(shape, _Whole):
        return type(value) is int and (shape.least is None or value >= shape.least)
    if shape is float:
        return math.isfinite(value) if type(value) is float else type(value) is int and value.bit_length() < 1024
    return value is None if shape is None else type(value) is shape


def _phrase(expected: str, value: Any, where: str) -> str:
    return f"expected {expected}{where and ' as '}{where}, found {str(value)[:80]!r}"
