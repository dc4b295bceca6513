"""Checks a ``.pt2`` archive before PyTorch reads it.

`torch.export.load` evaluates size expressions, puts names into Python source and loads compiled libraries. Everything that
an ordinary program does not need is refused here; PyTorch's restricted reader takes care of pickled tensors.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitswap_onnx.errors import ModelError

_COMPILED = re.compile(r"/aotinductor/|\.(so|pyd|dll|dylib|o|py|pyc)$")
_NAME = re.compile(r"[\w.]*")
_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_EXPRESSION = re.compile(r"([\d\s+\-*/(),<>=]|\b[A-Z][A-Za-z]*(?=\()|\b[a-z]\d+\b)*")

#: Notes for people, which PyTorch does not interpret, and pytree specs, which are JSON.
_NOTES = frozenset({"metadata", "in_spec", "out_spec", "stack_trace"})
_NAMES = frozenset(
    {"name", "target", "fqn", "forward_arg_names", "parameter_name", "buffer_name", "tensor_constant_name"}
)


def refuse_code(path: Path) -> None:
    """Raise ModelError for an archive with compiled code in it, or names or size expressions that could become code."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if _COMPILED.search(entry):
                    raise _refusal(path, f"compiled code ({entry})")
                if entry.endswith(".json"):
                    _check(path, json.loads(archive.read(entry)))
    except OSError as error:
        raise ModelError(f"{path}: cannot read the exported program: {error.strerror}") from None
    except (zipfile.BadZipFile, ValueError, RecursionError):
        raise ModelError(f"{path}: not a program saved with torch.export.save") from None


def _check(path: Path, content: Any) -> None:
    for key, text in _strings(content):
        plain = _EXPRESSION.fullmatch(_SYMBOL.sub("1", text)) if key == "expr_str" else _NAME.fullmatch(text)
        if plain is None:
            raise _refusal(path, f"{key} {text[:60]!r}")


def _strings(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string that PyTorch turns into code, with its key."""
    if isinstance(content, dict):
        for inner, value in content.items():
            if inner not in _NOTES:
                yield from _strings(value, inner)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value, key)
    elif isinstance(content, str) and (key == "expr_str" or key in _NAMES or key.endswith("_name")):
        yield key, content


def _refusal(path: Path, found: str) -> ModelError:
    return ModelError(
        f"{path}: expected a program without code of its own, found {found}; set `trust_pickle` to load it anyway"
    )
