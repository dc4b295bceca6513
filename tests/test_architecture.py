"""The house: who may import whom, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
PACKAGES = {"bitswap_onnx": REPO / "bitswap_onnx", "bitswap_onnx.converters": REPO / "converters", "bitswap_onnx.models": REPO / "models"}  # fmt: skip  # noqa: E501

#: The line, from left to right. A module imports from its own room and from rooms to its left.
LINE = [
    "errors",
    "files",
    "numerals",
    "faults",
    "graph",
    "design",
    "convert",
    "converters",
    "models",
    "describe",
    "plan",
    "input_sample",
    "dataset",
    "outcome",
    "store",
    "run_directory",
    "results",
    "runtime",
    "prepare",
    "reach",
    "audit",
    "execute",
    "campaign",
    "analysis",
    "cli",
]
#: Modules that share a room with another one.
ROOMS = {
    "data_files": "dataset",
    "preprocessing": "dataset",
    "schema": "store",
    "store_checks": "store",
    "store_file": "store",
    "stored_settings": "store",
    "checked_list": "campaign",
    "growing": "campaign",
    "__main__": "cli",
}

#: Heavy libraries and the rooms that may import them, at module level or inside functions.
HOMES = {
    "onnxruntime": {"runtime"},
    "typer": {"cli"},
    "rich": {"cli"},
    "torch": {"converters", "models"},
    "tensorflow": {"converters", "models"},
    "keras": {"converters", "models"},
    "tf2onnx": {"converters"},
    "onnx2tf": {"converters"},
    "sklearn": {"models"},
    "PIL": {"dataset"},
    "pyarrow": {"results"},
    "matplotlib": {"analysis"},
}
#: Libraries that are optional, so never imported when a module is.
LAZY = {"torch", "tensorflow", "keras", "sklearn", "PIL", "pyarrow", "tf2onnx", "onnx2tf", "matplotlib"}


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *parts]), path


def room(module: str) -> str:
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "bitswap_onnx"
    return ROOMS.get(name, name)


def imports(path: Path, top_level: bool) -> Iterator[str]:
    """Yield imported module names; under ``if TYPE_CHECKING`` nothing is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            nodes.extend(node.orelse)
        elif not (top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            nodes.extend(ast.iter_child_nodes(node))


MODULES = dict(modules())


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_stay_at_home(module: str) -> None:
    used = {name.split(".")[0] for name in imports(MODULES[module], top_level=False)}
    strays = {library for library in used & HOMES.keys() if room(module) not in HOMES[library]}
    assert not strays
    assert not {name.split(".")[0] for name in imports(MODULES[module], top_level=True)} & LAZY


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in LINE])
def test_data_flows_one_way(module: str) -> None:
    allowed = LINE[: LINE.index(room(module)) + 1]
    used = {room(name) for name in imports(MODULES[module], top_level=False) if name.startswith("bitswap_onnx.")}
    assert used <= set(allowed), f"{module} imports to its right"


def test_every_module_has_a_room() -> None:
    known = {*LINE, *ROOMS, "__init__", "py"}
    assert {name.split(".")[1] for name in MODULES if "." in name} <= known


def test_faults_know_no_onnx() -> None:
    for module, path in MODULES.items():
        if room(module) in ("errors", "files", "numerals", "faults"):
            assert not {name for name in imports(path, top_level=False) if name.split(".")[0].startswith("onnx")}


@pytest.mark.parametrize("module", MODULES)
def test_sizes(module: str) -> None:
    """Modules up to 300 lines, functions up to 60."""
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, bitswap_onnx; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"numpy", "onnx", "onnxruntime", "torch", "typer", "rich"} & set(loaded)


def test_public_names_exist_and_are_documented() -> None:
    import bitswap_onnx

    for name in bitswap_onnx.__all__:
        assert getattr(bitswap_onnx, name).__doc__, name
    assert set(dir(bitswap_onnx)) == set(bitswap_onnx.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = bitswap_onnx.nonsense
