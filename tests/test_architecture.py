"""The house: who may import whom, read from the source."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from bitswap_onnx.cli.option_names import names_on_the_command_line
from tests.source_tree import definitions, imports, modules, room, texts

REPO = Path(__file__).parent.parent

#: The rooms from the ground up. A module imports from its own room and from rooms above it in this list.
ROOMS = [
    "errors",
    "files",
    "outcome",
    "tables",
    "faults",
    "data",
    "graph",
    "converters",
    "sampling",
    "models",
    "stats",
    "report",
    "runtime",
    "campaign",
    "estimates",
    "experiments",
    "until",
    "cli",
]

#: Heavy libraries and the rooms that may import them, at module level or inside functions.
HOMES = {
    "onnxruntime": {"runtime", "converters"},  # converters run what they wrote, beside the framework
    "typer": {"cli"},
    "rich": {"cli"},
    "torch": {"converters", "models"},
    "torchvision": {"converters"},
    "timm": {"converters"},
    "tensorflow": {"converters", "models"},
    "keras": {"converters", "models"},
    "tf2onnx": {"converters"},
    "onnx2tf": {"converters"},
    "sklearn": {"models"},
    "PIL": {"data"},
    "pyarrow": {"campaign"},
    "matplotlib": {"report"},
    "pandas": {"tables"},
    "scipy": {"stats", "sampling"},
    "sqlite3": {"campaign"},
}
#: Libraries that are optional, or slow to load where few commands compute with them: never imported when a module is.
LAZY = {
    "torch",
    "torchvision",
    "timm",
    "tensorflow",
    "keras",
    "sklearn",
    "PIL",
    "pyarrow",
    "tf2onnx",
    "onnx2tf",
    "matplotlib",
    "pandas",
    "scipy",
}

#: An option as a message may name it; a command with its options (``inject --resume``) may be named.
OPTION = re.compile(r"--([a-z]|$)")
COMMAND = re.compile(
    r"\b(inspect|evaluate|inject|rewrite|neurons|sweep|rank|export|crosscheck|compare|estimate|faults \w+)( --[a-z-]+)+"
)

#: Parameters that messages name and no command has.
PYTHON_ONLY = {"count", "index", "input", "natives", "opset", "records", "settings"}


MODULES = modules(REPO)


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_stay_at_home(module: str) -> None:
    used = {name.split(".")[0] for name in imports(MODULES[module], top_level=False)}
    strays = {library for library in used & HOMES.keys() if room(module) not in HOMES[library]}
    assert not strays
    assert not {name.split(".")[0] for name in imports(MODULES[module], top_level=True)} & LAZY


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in ROOMS])
def test_data_flows_one_way(module: str) -> None:
    allowed = ROOMS[: ROOMS.index(room(module)) + 1]
    used = {room(name) for name in imports(MODULES[module], top_level=False) if name.startswith("bitswap_onnx.")}
    assert used <= set(allowed), f"{module} imports from a room below its own"


def test_every_module_has_a_room() -> None:
    known = {*ROOMS, "__init__", "__main__"}
    assert {name.split(".")[1] for name in MODULES if "." in name} <= known


def test_faults_know_no_onnx() -> None:
    for module, path in MODULES.items():
        if room(module) in ("errors", "files", "outcome", "faults"):
            assert not {name for name in imports(path, top_level=False) if name.split(".")[0].startswith("onnx")}


def test_the_library_names_parameters_not_options() -> None:
    """The command line turns parameters in backticks into its options; a Python caller has no options."""
    assert not [
        f"{module}: {text}"
        for module, path in MODULES.items()
        for text in texts(path)
        if room(module) != "cli" and OPTION.search(COMMAND.sub("", text))
    ]


def test_parameters_that_messages_name_are_known() -> None:
    """A name in backticks is a parameter that the command line can translate, or one that it does not have."""
    named = {
        name
        for module, path in MODULES.items()
        for text in texts(path)
        for name in re.findall(r"(?<!`)`([A-Za-z_]\w*)`(?!`)", text)
        if room(module) not in ("cli", "converters")
    }
    assert named <= names_on_the_command_line().keys() | PYTHON_ONLY


def test_public_names_exist_once() -> None:
    """A name has one meaning. Commands are exempt: each of their modules has a ``command`` or an ``app``."""
    homes = defaultdict(list)
    for module, path in MODULES.items():
        for name in definitions(path):
            if not name.startswith("_") and name not in ("app", "command", "main"):
                homes[name].append(module)
    assert not {name: found for name, found in homes.items() if len(found) > 1}


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
