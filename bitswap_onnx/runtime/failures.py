"""Errors of ONNX Runtime, and whether memory was short."""

import re
from dataclasses import dataclass

from bitswap_onnx.errors import ModelError, one_line

#: What the runtime says where memory is short.
_SHORT_OF_MEMORY = re.compile(r"bad_alloc|failed to allocate|out of memory", re.IGNORECASE)


@dataclass
class Shortages:
    """How often the runtime was short of memory in this process, loading or running a model."""

    count: int = 0


#: Trials of a model swallow the runtime's errors; whoever keeps what they found asks here whether memory was the reason.
SHORTAGES = Shortages()


def failure(what: str, error: Exception) -> ModelError:
    """Return the error to raise for one of the runtime, whose exceptions share no base class; a shortage is counted."""
    SHORTAGES.count += bool(_SHORT_OF_MEMORY.search(str(error)))
    return ModelError(f"ONNX Runtime {what}: {one_line(error)}")
