"""The source of a checkout, read with ``ast``: its modules, their rooms, imports, definitions and texts."""

import ast
from collections.abc import Iterator
from pathlib import Path

#: Folder of a checkout → the package that it is installed as.
PACKAGES = {"bitswap_onnx": "bitswap_onnx", "converters": "bitswap_onnx.converters", "models": "bitswap_onnx.models"}


def modules(checkout: Path) -> dict[str, Path]:
    """Return the modules of a checkout by their names; a package is ``....__init__``."""
    return {
        ".".join([package, *path.relative_to(checkout / folder).with_suffix("").parts]): path
        for folder, package in PACKAGES.items()
        for path in sorted((checkout / folder).rglob("*.py"))
    }


def room(module: str) -> str:
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "bitswap_onnx"
    return "cli" if name == "__main__" else name


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


def definitions(path: Path) -> Iterator[str]:
    """Yield the names that a module defines at its top level."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def texts(path: Path) -> Iterator[str]:
    """Yield the texts of a module, parts of f-strings too: no docstrings, and no options that a script parses itself."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        own_option = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument"
        if not docstring and not own_option:
            nodes.extend(ast.iter_child_nodes(node))
