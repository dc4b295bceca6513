"""The app and its exit codes: 0 done, 1 wrong input, 2 wrong usage, 3 a control failed, 130 interrupted."""

import contextlib
import io
import os
import sys
from typing import NoReturn

import typer

from bitswap_onnx.cli.commands import LazyGroup, add_commands
from bitswap_onnx.cli.option_names import in_options
from bitswap_onnx.errors import BitswapError, printable

_LONGEST = 1000

app = typer.Typer(
    cls=LazyGroup,
    name="bitswap-onnx",
    help="Bit-exact fault injection into ONNX models: flip bits, run a whole test set clean and faulty, count what changed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
add_commands(app)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from importlib import metadata  # as slow to load as Typer

        typer.echo(metadata.version("bitswap-onnx"))
        raise typer.Exit


def main() -> None:
    """Run the command line. A BitswapError becomes one line on stderr; a defect of the program shows its traceback."""
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="bitswap-onnx")
    except BitswapError as error:
        _end(str(error), error.exit_code)
    except MemoryError:
        _end("not enough memory for so many inputs of that shape; choose fewer with --first or --limit", 1)
    except OSError as error:
        _end(f"{error.filename or 'output'}: {error.strerror or error}", 1)


def _end(message: str, code: int) -> NoReturn:
    line = " ".join(printable(in_options(message)).split())
    with contextlib.suppress(OSError):
        sys.stderr.write(f"error: {line if len(line) < _LONGEST else line[:_LONGEST] + '...'}\n")
    sys.exit(code)
