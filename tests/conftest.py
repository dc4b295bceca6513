"""Which tests need a framework: their markers, and the proof that all others need none.

A test whose module or own function imports PyTorch gets the marker ``torch``, and ``keras`` for Keras or TensorFlow.
A test that needs a framework in another way, through a converter or a fixture, carries the marker itself: ``-m "not torch"``
refuses every import of PyTorch.
"""

import inspect
import os
import re
import sys
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

#: No test finds what another one has kept.
os.environ["BITSWAP_ONNX_CACHE"] = ""

#: Marker → the libraries that a test with this marker may import.
FRAMEWORKS = {
    "torch": ("torch", "torchvision", "timm"),
    "keras": ("keras", "tensorflow", "tf2onnx", "tf_keras", "onnx2tf"),
}


@cache
def imported_frameworks(source: str, indent: str) -> frozenset[str]:
    """Return the markers of the frameworks that ``source`` imports on lines that begin with the pattern ``indent``."""

    def imports(libraries: tuple[str, ...]) -> bool:
        names = "|".join(libraries)
        begin = r'(?:import |from |(?:\w+ = )?pytest\.importorskip\(")'
        return bool(re.search(rf"^{indent}{begin}(?:{names})\b", source, re.MULTILINE))

    return frozenset(marker for marker, libraries in FRAMEWORKS.items() if imports(libraries))


def excluded_frameworks(config: pytest.Config) -> set[str]:
    """Return the markers that the option ``-m`` excludes, as in "not torch and not keras"."""
    return {marker for marker in FRAMEWORKS if f"not {marker}" in config.getoption("markexpr")}


class ImportRefusal(MetaPathFinder, Loader):
    """Makes every import of ``libraries`` an error, installed or not.

    To look for them is allowed: PyTorch asks whether TensorFlow is there, and does not import it.
    """

    def __init__(self, libraries: set[str]) -> None:
        self._libraries = libraries

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self._libraries else None

    def exec_module(self, module: ModuleType) -> None:
        raise AssertionError(f"a test without the marker for it imports {module.__name__}")


def pytest_configure(config: pytest.Config) -> None:
    refused = {library for marker in excluded_frameworks(config) for library in FRAMEWORKS[marker]}
    sys.meta_path.insert(0, ImportRefusal(refused))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out modules of which every test is excluded: they cannot be imported."""
    excluded = excluded_frameworks(config)
    if collection_path.suffix != ".py" or not excluded:
        return None
    return bool(imported_frameworks(collection_path.read_text(encoding="utf-8"), "") & excluded) or None


def pytest_itemcollected(item: pytest.Item) -> None:
    assert isinstance(item, pytest.Function)
    source = item.path.read_text(encoding="utf-8")
    markers = imported_frameworks(source, "")
    if imported_frameworks(source, r"\s+") - markers:
        markers |= imported_frameworks(inspect.getsource(item.function), r"\s+")
    for marker in markers:
        item.add_marker(marker)
