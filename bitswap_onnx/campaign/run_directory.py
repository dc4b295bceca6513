"""Opens the store of a run directory: for one writer at a time, held by a lock, or for any number of readers."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bitswap_onnx.campaign.store import Store
from bitswap_onnx.campaign.store_checks import REMEDY
from bitswap_onnx.campaign.store_file import STORE_NAME
from bitswap_onnx.errors import RunError

LOCK_NAME = "campaign.lock"


@contextmanager
def writing(run: Path) -> Iterator[Store]:
    """Open the store of ``run``, an existing directory, as its one writer; raises RunError if another process has it."""
    with locked(run), _translated(run), Store(run) as store:
        store.check_file()
        store.begin_writing()
        try:
            yield store
        finally:
            store.end_writing()


@contextmanager
def reading(run: Path) -> Iterator[Store]:
    """Open the store of an existing run, finished or under way; raises RunError if there is none."""
    if not has_store(run):
        raise RunError(f"{run}: expected a run directory with a {STORE_NAME}, found none that has begun")
    with _translated(run), Store(run) as store:
        store.check_file()
        yield store


def holds_other_files(run: Path) -> bool:
    """Whether a folder has files (hidden ones aside), but neither the lock nor the store of a run."""
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    return bool(names) and not names & {LOCK_NAME, STORE_NAME}


def has_store(run: Path) -> bool:
    """Whether ``run`` holds a committed store; raises RunError for one of another version or a file that is none."""
    path = run / STORE_NAME
    if not path.is_file() or not path.stat().st_size:
        return False
    with _translated(run), Store(run) as store:
        store.check_file()
        return not store.is_new


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run's lock, an exclusive SQLite transaction, which ends with its process on every system."""
    with closing(_lock(run)):
        yield


def _lock(run: Path) -> sqlite3.Connection:
    lock = None
    try:
        lock = sqlite3.connect(run / LOCK_NAME, isolation_level=None, timeout=0)
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        if lock is not None:
            lock.close()
        if "locked" in str(error):
            raise RunError(f"{run}: another process is running this campaign; wait for it or stop it") from None
        raise RunError(f"{run / LOCK_NAME}: cannot lock the run: {error}") from None
    return lock


@contextmanager
def _translated(run: Path) -> Iterator[None]:
    """Say in one line what SQLite could not do."""
    try:
        yield
    except sqlite3.ProgrammingError:  # a defect of ours
        raise
    except sqlite3.OperationalError as error:
        remedy = "check the folder"
        if "full" in str(error) or "disk I/O" in str(error):
            remedy = "free some space and run again with `resume`; what was finished is saved"
        elif "decode" in str(error):
            remedy = REMEDY
        raise RunError(f"{run}: cannot open, read or write the store: {error}; {remedy}") from None
    except sqlite3.DatabaseError as error:
        raise RunError(
            f"{run / STORE_NAME}: expected a store of bitswap-onnx, found another or a damaged file: {error}; run the "
            "campaign again in another folder"
        ) from None
