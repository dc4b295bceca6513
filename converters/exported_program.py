"""Reads programs saved with `torch.export.save` (``.pt2``), without running code from them.

`torch.export.load` evaluates size expressions, puts names into Python source and loads compiled libraries. Everything that
an ordinary program does not need is refused here first; PyTorch's restricted reader takes care of pickled tensors.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitswap_onnx.converters.torch_checkpoint import restricted_unpickling
from bitswap_onnx.converters.torch_inputs import InputForm
from bitswap_onnx.errors import ModelError, one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Operators that differ between training and inference → position of their argument ``training``.
_TRAINING_ARGUMENT = {"aten.batch_norm.default": 5, "aten.dropout.default": 2}

_COMPILED = re.compile(r"/aotinductor/|\.(so|pyd|dll|dylib|o|py|pyc)$")
_NAME = re.compile(r"[\w.]*")
_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_EXPRESSION = re.compile(r"([\d\s+\-*/(),<>=]|\b[A-Z][A-Za-z]*(?=\()|\b[a-z]\d+\b)*")

#: Notes for people, which PyTorch does not interpret, and pytree specs, which are JSON.
_NOTES = frozenset({"metadata", "in_spec", "out_spec", "stack_trace"})
_NAMES = frozenset(
    {"name", "target", "fqn", "forward_arg_names", "parameter_name", "buffer_name", "tensor_constant_name"}
)


def load_program(path: Path, *, trust_pickle: bool = False) -> tuple["nn.Module", InputForm]:
    """Return the module of a program for inference, and the form of its one input, whose batch may have any size.

    Raises ModelError for any other program and, without ``trust_pickle``, for one that could bring code.
    """
    import torch

    if not trust_pickle:
        refuse_code(path)
    try:
        with nullcontext() if trust_pickle else restricted_unpickling():
            program = torch.export.load(path)
    except Exception as error:  # torch raises whatever a damaged file makes it stumble over
        raise ModelError(f"{path}: cannot read the exported program: {one_line(error)}") from None
    form = _checked_input(program, path)
    module = program.module(check_guards=False)
    for name in ("train", "eval"):  # those of an exported program only raise
        vars(module).pop(name, None)
    return module, form


def _checked_input(program: "torch.export.ExportedProgram", path: Path) -> InputForm:
    """Return the form of the input; raise ModelError unless it is one batch of any size, and for training mode."""
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise ModelError(f"{path}: expected a program with one input, found {len(inputs)}")
    value = inputs[0].meta["val"]
    shape = value.shape
    if not shape or isinstance(shape[0], int):
        raise ModelError(
            f"{path}: the program was exported for one batch size alone; export it with "
            "dynamic_shapes=({0: torch.export.Dim('batch')},)"
        )
    for node in program.graph.nodes:
        place = _TRAINING_ARGUMENT.get(str(node.target))
        if place is not None and node.args[place] is True:
            raise ModelError(f"{path}: the program was exported in training mode; call model.eval() before the export")
    sizes = tuple(size if isinstance(size, int) else None for size in shape[1:])
    usual = tuple(size for size in sizes if size is not None)
    return InputForm(sizes, usual if len(usual) == len(sizes) else None, str(value.dtype).removeprefix("torch."))


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
