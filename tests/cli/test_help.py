"""Help screens: groups of options, plain defaults, an example that works, the same names everywhere; completion."""

import re
import shlex
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitswap_onnx.cli.commands import COMMANDS, load_command
from bitswap_onnx.cli.examples import EXAMPLES
from bitswap_onnx.cli.option_groups import GROUPS
from tests.builders import cnn, normal, save
from tests.command_line import HEADER, ROWS, Run, runner

#: Commands whose examples need a framework, or a model of one.
_WITH_FRAMEWORK = ("crosscheck", "export")


def _commands() -> Iterator[tuple[str, Any]]:
    for name in COMMANDS:
        command = load_command(name)
        subcommands = getattr(command, "commands", {})
        yield from ((f"{name} {sub}", subcommands[sub]) for sub in subcommands) if subcommands else [(name, command)]


LEAVES = dict(_commands())


def options(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "option"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a folder laid out like a checkout, with a small model in place of the digits'."""
    monkeypatch.chdir(tmp_path)
    for folder in ("models", "fault_lists"):
        Path(folder).mkdir()
    save(cnn(), Path("models/digits_cnn.onnx"))
    np.savez("models/digits_cnn.npz", x=normal(20, 1, 6, 6, seed=3), y=np.arange(20) % 4)
    Path("fault_lists/digits_cnn.csv").write_text(HEADER + ROWS)
    return runner(monkeypatch, capsys)


def test_every_command_has_an_example() -> None:
    assert EXAMPLES.keys() == LEAVES.keys()


@pytest.mark.parametrize("name", LEAVES)
def test_every_option_has_a_group(name: str) -> None:
    groups = [option.rich_help_panel for option in options(LEAVES[name])]
    assert set(groups) <= set(GROUPS)
    assert groups == sorted(groups, key=GROUPS.index)


def test_shared_options_have_one_group() -> None:
    """An option with the same help in several commands is the same option."""
    groups = defaultdict(set)
    for command in LEAVES.values():
        for option in options(command):
            groups[option.name, option.help].add(option.rich_help_panel)
    assert not {option: found for option, found in groups.items() if len(found) > 1}


def test_the_same_letters_everywhere() -> None:
    short = defaultdict(set)
    for command in LEAVES.values():
        for option in options(command):
            assert not {"--output", "--csv"} & {*option.opts}
            for letter in option.opts:
                if re.fullmatch("-[a-z]", letter):
                    short[letter].add(max(option.opts, key=len))
                if letter == "--out":
                    assert "-o" in option.opts
    assert short == {"-o": {"--out"}, "-q": {"--quiet"}, "-p": {"--proportion"}}


@pytest.mark.parametrize("name", LEAVES)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_breaks_no_word(name: str, columns: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option, value and default stands whole on the screen, at the usual widths."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("rich.console.Console.is_terminal", False)
    code, out, _ = run(*name.split(), "--help")
    assert code == 0
    words = set(re.split(r"[\s│]+", out))
    assert "<bool>" not in words
    assert not re.search(r"<[^<>\s]+\s", out)
    for parameter in LEAVES[name].params:
        assert {*(parameter.metavar or "").split()} <= words
    for option in options(LEAVES[name]):
        assert {*option.opts} <= words
        if option.show_default and isinstance(option.default, str):
            assert option.default in out
        assert {*option.help.split()} <= words | {"Default:"}
    assert f"Example: bitswap-onnx {name} {EXAMPLES[name]}".split() == out[out.index("Example:") :].split()


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_parse(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(EXAMPLES[name])
    for read in arguments[:2]:
        Path(read).parent.mkdir(exist_ok=True)
        Path(read).touch()
    with LEAVES[name].make_context(name, [*arguments]) as context:
        assert not context.args
        assert context.params.get("out") == (Path(arguments[-1]) if "-o" in arguments else None)


def test_examples_run(run: Run) -> None:
    """Each example of a command that needs no framework, in the order of the commands."""
    run("inject", *EXAMPLES["inject"].split(), "-q", "--workers", 0)
    for folder in ("torch_run", "keras_run"):
        shutil.copytree("run", folder)
    shutil.copytree("run", "kept")
    for name in ("torch", "keras"):
        shutil.copy("models/digits_cnn.onnx", f"{name}.onnx")
    shutil.copy("fault_lists/digits_cnn.csv", "torch.csv")
    for name, arguments in EXAMPLES.items():
        if not name.startswith(_WITH_FRAMEWORK):
            shutil.rmtree("run", ignore_errors=True)
            if name != "inject":
                shutil.copytree("kept", "run")
            ours = ["--workers", 0] if "--workers" in {n for o in options(LEAVES[name]) for n in o.opts} else []
            ours = ours if name != "compare" else []
            code, _, err = run(*name.split(), *shlex.split(arguments), *ours)
            assert (code, err if code else "") == (0, ""), name
            if "-o" in arguments.split():
                assert Path(arguments.split()[-1]).exists()


def test_old_names_of_options_are_answered(run: Run) -> None:
    code, _, err = run("inject", "cnn.onnx", "faults.csv", "--output", "scores")
    assert code == 2
    assert "No such option: --output (Possible options: --out, --scores)" in err
    code, _, err = run("rewrite", "cnn.onnx", "faults.csv", "--output", "f.onnx")
    assert code == 2
    assert "No such option: --output (Possible options: --out)" in err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("inj", ["inject"]),
        ("faults gen", ["generate"]),
        ("inject --per", ["--per-input"]),
        ("faults generate --mult", ["--multiplicity"]),
        ("inject --fusion ", ["framework", "deployed"]),
    ],
)
def test_completion(typed: str, offered: list[str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell asks the program itself; commands are loaded for it when they are typed."""
    monkeypatch.setenv("_BITSWAP_ONNX_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"bitswap-onnx {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) if not typed.endswith(" ") else len(typed.split()) + 1))
    code, out, _ = run()
    assert code == 0
    assert out.split() == offered
