"""Parameters that messages name in backticks become the options of the command line."""

from pathlib import Path

import pytest

from bitswap_onnx.cli import console
from bitswap_onnx.cli.option_names import in_options, names_on_the_command_line
from bitswap_onnx.errors import BitswapError
from tests.command_line import runner


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("`batch_size`: expected a positive number, found 0", "--batch-size: expected a positive number, found 0"),
        ("`layout` blocked: leave it out", "--layout blocked: leave it out"),
        ("`resume` needs `run`: the run directory to continue", "--resume needs --out: the run directory to continue"),
        ("`mean` or `std`", "--mean or --std"),
        ("``std``", "``std``"),
        ("`site` weights, `where` weights", "--site weights, --site weights"),
        ("`numbers`: expected at least one number", "--layer-num: expected at least one number"),
        ("`goal`: expected a share", "--until: expected a share"),
        ("choose another `folder`", "choose another --out"),
        ("`as_json`, `quiet` and `form` order", "--json, --quiet and --as order"),
        ("`model`, `faults`, `run_a`", "MODEL, FAULTS, RUN_A"),
        ("layer `conv1.weight`", "layer `conv1.weight`"),
        ("layer `conv1`", "layer `conv1`"),
        ("`source`", "`source`"),
        ("`limit 3`", "`limit 3`"),
        ("`batch-size`", "`batch-size`"),
        ("batch_size", "batch_size"),
        ("one ` alone, `limit", "one ` alone, `limit"),
        ("", ""),
    ],
)
def test_in_options(message: str, printed: str) -> None:
    assert in_options(message) == printed


def test_every_option_is_known() -> None:
    """Options of every command are in the table, those of nested commands too."""
    known = names_on_the_command_line()
    for option in (
        "--data",
        "--until",
        "--trust-pickle",
        "--multiplicity",
        "--dialect",
        "--fit-per-mbit",
        "--drop-last",
    ):
        assert known[option[2:].replace("-", "_")] == option


def test_errors_and_notes_name_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BitswapError("`batch_size` 3: see `nothing`")

    monkeypatch.chdir(tmp_path)
    Path("cnn.onnx").touch()
    monkeypatch.setattr("bitswap_onnx.graph.model.load_model", refuse)
    code, out, err = runner(monkeypatch, capsys)("inspect", "cnn.onnx")
    assert (code, out, err) == (1, "", "error: --batch-size 3: see `nothing`\n")
    console.print_notes_aside(["`layout`: plain"])
    assert capsys.readouterr().err == "--layout: plain\n"
    console.print_notes(["`layout`: plain"])
    assert capsys.readouterr().out == "note: --layout: plain\n"
