"""``results export``: a run's results in the format of another tool."""

from pathlib import Path
from typing import Annotated

import typer

from bitswap_onnx.campaign.dialect_names import DIALECTS
from bitswap_onnx.cli import console
from bitswap_onnx.cli.option_groups import output_option
from bitswap_onnx.cli.option_types import Out
from bitswap_onnx.errors import RunError, amount
from bitswap_onnx.files import check_output

app = typer.Typer(no_args_is_help=True, help="Export the results of a finished campaign.")


@app.callback()
def _results() -> None:
    """Export the results of a finished campaign."""


@app.command("export")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    dialect: Annotated[
        str, output_option(metavar="NAME", help=f"Format: {' or '.join(DIALECTS)}.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        Out(
            metavar="FILE.csv|DIR",
            help="The file to write, or a folder, below which the results and saved scores get the tool's own names; "
            "existing files are replaced. Default: RUN/results.DIALECT.csv.",
        ),
    ] = None,
) -> None:
    """Write the results in the format of tf_injector or dnn-benchmarks: single flips of weights."""
    from bitswap_onnx.campaign.dialects import export_dialect, export_folders, left_out_of
    from bitswap_onnx.campaign.run_directory import reading

    if dialect not in DIALECTS:
        raise RunError(f"--dialect: expected {' or '.join(DIALECTS)}, found {dialect!r}")
    path = out or run / f"results.{dialect}.csv"
    is_file = path.is_file() or (path.suffix == ".csv" and not path.is_dir())
    if is_file:
        check_output(path, run.glob("campaign.*"))
    with reading(run) as store:
        if is_file:
            files, left_out = [path], export_dialect(store, dialect, path)
        else:
            files, left_out = export_folders(store, dialect, path)
    console.out.print(f"written: {', '.join(map(str, files))}")
    if left_out:
        number = amount(left_out.total(), "injection", ",")
        note = f"left out, since {dialect} holds single flips of weights alone: {number}: {left_out_of(left_out)}"
        console.print_notes([note], "")
