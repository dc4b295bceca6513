"""The tests themselves: short files, no imports from one test module into another, markers by what is imported."""

import re
import sys
from pathlib import Path

import pytest

from tests.conftest import ImportRefusal, imported_frameworks

FILES = sorted(Path(__file__).parent.rglob("*.py"))


def test_files_are_short() -> None:
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_no_test_module_imports_from_another() -> None:
    imports = re.compile(r"^\s*(from tests\.([a-z_]+\.)*test_|from tests\S* import .*\btest_)", re.MULTILINE)
    assert not [str(path) for path in FILES if imports.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("source", "markers"),
    [
        ("import torch", {"torch"}),
        ("import numpy\nfrom torch.nn import Linear\n", {"torch"}),
        ('keras = pytest.importorskip("keras", reason="")', {"keras"}),
        ('pytest.importorskip("tensorflow")\nimport torch', {"torch", "keras"}),
        ("def test() -> None:\n    import torch", set()),
        ('def test() -> None:\n    keras = pytest.importorskip("keras")', set()),
        ("import torchlight\nfrom tests.keras_layout import as_keras", set()),
    ],
)
def test_markers_of_a_module(source: str, markers: set[str]) -> None:
    assert imported_frameworks(source, "") == markers


def test_markers_of_a_function() -> None:
    assert imported_frameworks("def test() -> None:\n    from keras import layers", r"\s+") == {"keras"}


def test_a_refused_import_is_no_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not skipped over as an ImportError would be."""
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    monkeypatch.setattr(sys, "meta_path", [ImportRefusal({"wave"}), *sys.meta_path])
    with pytest.raises(AssertionError, match="a test without the marker for it imports wave"):
        pytest.importorskip("wave")
