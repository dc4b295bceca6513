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
    """``path``: a run directory or a results file. ``store``: the open store of the run directory, None for a file.

    ``beside``: the open store of the run directory that a results file lies in.
    """

    path: Path
    store: Store | None
    beside: Store | None = None

    def __str__(self) -> str:
        return str(self.path)


@contextmanager
def open_source(path: object) -> Iterator[Source]:
    """Open a run directory or a results file.

    Raises RunError where there is neither, for a run that is not finished or whose audit failed, and for a run whose
    injections are no sample of faults (`EXPERIMENTS`), or a file of it.
    """
    path = check_path("source", path)
    if not path.exists():
        raise RunError(f"{path}: expected a run directory or a results file, found nothing there")
    if path.is_dir():
        with reading(path) as store:
            store.check_complete()
            _refuse_experiment(store)
            yield Source(path, store)
    elif lies_in_run(path):
        with reading(path.parent) as store:
            _refuse_experiment(store)
            yield Source(path, None, store)
    else:
        yield Source(path, None)


#: Where the shares of a run are whose injections are no sample of faults, and why they are none, by what drew them.
_ELSEWHERE = {
    "neurons": ("{network}_{dataset}_*.csv", "each input has a fault of its own"),
    "rank": ("{network}_layers.csv", "each input has a fault of its own"),
    "sweep": ("{network}.csv", "each injection is a draw at one of several bit error rates"),
}


def _refuse_experiment(store: Store) -> None:
    if store.experiment is not None:
        name, why = _ELSEWHERE[store.experiment]
        file = name.format(network=store.golden.network, dataset=store.golden.dataset)
        raise RunError(
            f"{store.run}: a run of {store.experiment}, of which there are no rates per fault: {why}; its shares and their "
            f"intervals are in {file} there, and {store.experiment} with `resume` prints them again"
        )


def lies_in_run(path: Path) -> bool:
    """Whether a results file lies in a run directory, whose store knows more than the file."""
    return (path.parent / STORE_NAME).is_file()
