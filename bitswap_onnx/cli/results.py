"""``results export``: a run's results in the format of another tool."""

from pathlib import Path
from typing import Annotated

import typer

from bitswap_onnx.campaign.results import DIALECTS, export_dialect
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.cli import console
from bitswap_onnx.errors import RunError
from bitswap_onnx.files import check_output

app = typer.Typer(no_args_is_help=True, help="Export the results of a finished campaign.")


@app.callback()
def _results() -> None:
    """Export the results of a finished campaign."""


@app.command("export")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    dialect: Annotated[str, typer.Option(help=f"Format: {' or '.join(DIALECTS)}.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new file. Default: RUN/results.DIALECT.csv.")
    ] = None,
) -> None:
    """Write the results in the format of tf_injector or dnn-benchmarks."""
    if dialect not in DIALECTS:
        raise RunError(f"--dialect: expected {' or '.join(DIALECTS)}, found {dialect!r}")
    path = output or run / f"results.{dialect}.csv"
    check_output(path, run.glob("campaign.*"))
    with reading(run) as store:
        export_dialect(store, dialect, path)
    console.out.print(f"written: {path}")
