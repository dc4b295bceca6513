"""What a command prints: tables, one JSON document, or only where the results are."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bitswap_onnx.cli import console
from bitswap_onnx.cli.option_names import in_options

if TYPE_CHECKING:
    from bitswap_onnx.campaign.options import OnProgress


@dataclass(frozen=True, slots=True)
class View:
    """What stdout and stderr hold.

    ``as_json``: stdout is one JSON document. ``quiet``: no progress and no notes on stderr, and stdout holds only the run
    directory, or the document. Errors are printed in any case.
    """

    as_json: bool = False
    quiet: bool = False

    @property
    def has_tables(self) -> bool:
        """Whether tables, and notes on stdout, are printed."""
        return not (self.as_json or self.quiet)

    @contextmanager
    def progress(self) -> Iterator["OnProgress"]:
        """Give a callback that shows progress on stderr, or that shows nothing."""
        if self.quiet:
            yield lambda _: None
            return
        with console.progress() as on_progress:
            yield on_progress

    def print_notes_aside(self, notes: Iterable[str]) -> None:
        """Print notes of a running campaign to stderr, each on a line."""
        if not self.quiet:
            console.print_notes_aside(notes)

    def print(self, run: Path, document: Callable[[], dict[str, Any]], tables: Callable[[], None]) -> None:
        """Print results in one of the three ways: ``document``, the directory ``run``, or ``tables``."""
        if self.as_json:
            print_json({"run": str(run), **document()})
        elif self.quiet:
            console.out.print(str(run))
        else:
            tables()


def print_json(document: Any) -> None:
    """Print a JSON document to stdout; parameters in backticks become options."""
    typer.echo(in_options(json.dumps(document, indent=2, allow_nan=False)))
