"""The app and its exit codes: 0 done, 1 the input is wrong, 2 usage, 3 a control failed, 130 interrupted."""

import sys
from importlib import metadata

import typer

from bitswap_onnx.cli import evaluate, faults, inject, inspect, results, rewrite
from bitswap_onnx.errors import BitswapError

app = typer.Typer(
    name="bitswap-onnx",
    help="Bit-exact fault injection into ONNX models: corrupt weights, run a whole test set, know what it does.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("inspect")(inspect.command)
app.command("inject")(inject.command)
app.command("evaluate")(evaluate.command)
app.command("rewrite")(rewrite.command)
app.add_typer(faults.app, name="faults")
app.add_typer(results.app, name="results")


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        typer.echo(metadata.version("bitswap-onnx"))
        raise typer.Exit


def main() -> None:
    """Run the command line; an error of the user's is one line on stderr, any other stays loud."""
    try:
        app()
    except BitswapError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(error.exit_code)
