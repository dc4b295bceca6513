"""Where an estimate reads from: a finished run, by its store, or a results file. It is opened once and passed on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.campaign.store_file import STORE_NAME
from bitswap_onnx.errors import RunError, check_path


@dataclass(frozen=True, eq=False)
class Source:
    """``path``: a run directory or a results file. ``store``: the open store of the run directory, None for a file."""

    path: Path
    store: Store | None

    def __str__(self) -> str:
        return str(self.path)


@contextmanager
def open_source(path: str | Path) -> Iterator[Source]:
    """Open a run directory or a results file.

    Raises RunError where there is neither, and for a run that is not finished or whose audit failed.
    """
    path = check_path("source", path)
    if not path.exists():
        raise RunError(f"{path}: expected a run directory or a results file, found nothing there")
    if not path.is_dir():
        yield Source(path, None)
        return
    with reading(path) as store:
        store.check_complete()
        yield Source(path, store)


def lies_in_run(path: Path) -> bool:
    """Whether a results file lies in a run directory, whose store knows more than the file."""
    return (path.parent / STORE_NAME).is_file()
