"""``results export``: a run's results in the format of another tool."""

from pathlib import Path
from typing import Annotated

import typer

from bitswap_onnx.campaign.dialect_names import DIALECTS
from bitswap_onnx.cli import console
from bitswap_onnx.errors import RunError, amount
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
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write below this folder, under the tool's own names, and saved scores too."),
    ] = None,
) -> None:
    """Write the results in the format of tf_injector or dnn-benchmarks: single flips of weights."""
    from bitswap_onnx.campaign.dialects import export_dialect, export_folders, left_out_of
    from bitswap_onnx.campaign.run_directory import reading

    if dialect not in DIALECTS:
        raise RunError(f"--dialect: expected {' or '.join(DIALECTS)}, found {dialect!r}")
    if out is not None and output is not None:
        raise RunError("--out writes the tool's own file names, --output one file; give one of them")
    path = output or run / f"results.{dialect}.csv"
    if out is None:
        check_output(path, run.glob("campaign.*"))
    with reading(run) as store:
        if out is None:
            files, left_out = [path], export_dialect(store, dialect, path)
        else:
            files, left_out = export_folders(store, dialect, out)
    console.out.print(f"written: {', '.join(map(str, files))}")
    if left_out:
        number = amount(left_out.total(), "injection", ",")
        note = f"left out, since {dialect} holds single flips of weights alone: {number}: {left_out_of(left_out)}"
        console.print_notes([note], "")
