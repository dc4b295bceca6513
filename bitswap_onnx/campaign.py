"""A campaign, from model, fault list and data to a finished run directory. Joins the line; no logic of its own."""

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from bitswap_onnx.audit import DEFAULT_AUDIT, Audit
from bitswap_onnx.dataset import Dataset
from bitswap_onnx.errors import ControlFailedError, FaultListError, RunError
from bitswap_onnx.execute import SCRATCH, Execution, OnProgress, execute
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.faults.fault_list import fingerprint as list_fingerprint
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.resolve import BitOrder, ResolvedInjection, Resolver
from bitswap_onnx.outcome import Golden, judge
from bitswap_onnx.plan import chunk_length
from bitswap_onnx.prepare import Settings, Setup, prepare
from bitswap_onnx.results import (
    Summary,
    how_it_ran,
    require_parquet,
    summarize,
    write_golden,
    write_per_input,
    write_results,
    write_scores,
)
from bitswap_onnx.run_directory import has_store, holds_other_files, locked, reading, writing
from bitswap_onnx.runtime.golden import fingerprint as score_fingerprint
from bitswap_onnx.runtime.session import machine_name, versions
from bitswap_onnx.store import Store

#: What the parts of a run's identity are called in messages, where that is not their key.
_IDENTITY_WORDS = {"records": "--save-outputs or --per-input", "tolerance": "--criterion"}


@dataclass(frozen=True)
class Campaign:
    """A finished campaign."""

    run: Path
    summary: Summary
    golden: dict[str, Any]
    notes: tuple[str, ...]


def run_campaign(
    model: str | Path,
    faults: str | Path | Iterable[Injection],
    *,
    settings: Settings = Settings(),
    run: str | Path | None = None,
    resume: bool = False,
    workers: int | None = None,
    engine: Literal["auto", "incremental", "reference"] = "auto",
    memory: int | None = None,
    audit: Audit = DEFAULT_AUDIT,
    bit_order: BitOrder = "lsb",
    save_outputs: bool = False,
    per_input: bool = False,
    on_progress: OnProgress | None = None,
    on_notes: Callable[[Iterable[str]], None] | None = None,
    stop: threading.Event | None = None,
) -> Campaign:
    """Run every injection of ``faults`` (a fault list's path, or injections) on ``model`` over a dataset.

    ``run`` is the run directory (default: ``reports/<dataset>/<model>/<yymmdd_HHMMSS>``); ``resume`` continues what is
    there. ``workers`` processes of one thread each (default: one per core; one on a GPU) with ``memory`` bytes for golden
    values (default: half of what is free), the ``engine`` and how much is audited never change a result. Setting ``stop``
    from another thread or a signal handler ends the campaign after the units at hand.

    Raises BitswapError for wrong input (nothing is written then), ControlFailedError if a null control or the audit does
    not hold, InterruptedRunError after ``stop``. Whatever happens, finished units are kept.
    """
    if per_input:
        require_parquet()
    if resume and run is None:
        raise RunError("--resume needs --out RUN: the run directory to continue")
    setup = prepare(Path(model), _as_begun(settings, run) if resume and run else settings)
    injections = read_fault_list(faults) if isinstance(faults, str | Path) else tuple(faults)
    resolver = Resolver(setup.model, bit_order)
    records = [name for name, wanted in (("scores", save_outputs), ("per_input", per_input)) if wanted]
    identity = _identity(setup, injections, resolver) | {"bit_order": bit_order, "records": records}
    folder = Path(run) if run else default_run(setup)
    _check_folder(folder, identity, resume)
    stop = stop or threading.Event()
    start = time.perf_counter()
    golden, providers = setup.golden(stop)
    seconds = (time.perf_counter() - start) / len(golden.scores)
    unit = chunk_length(len(golden.scores), setup.numerics.batch_size, seconds)
    if on_notes:
        on_notes(setup.notes)
    description = _description(setup, golden, providers, faults)
    with _run_directory(folder) as store:
        if store.is_new:
            plan = {"identity": identity, "golden": description, "notes": setup.notes, "unit_length": unit}
            store.create(plan, _resolved(injections, resolver, identity["faults"]), resolver.address)
        else:
            _check_identity(store, identity, resume)
        _check_golden(store, description)
        workers = workers or (_cores() if setup.numerics.provider == "cpu" else 1)
        execution = Execution(engine, workers, memory or _free_memory() // 2, audit)
        execute(store, setup, golden, execution, on_progress, stop)
        store.check_complete()
        _write_files(store, folder, golden)
        return Campaign(folder, summarize(store), {**store.setting("golden"), **how_it_ran(store)}, setup.notes)


def _as_begun(settings: Settings, run: str | Path) -> Settings:
    """Return what ``--layout auto`` meant when a run began: another version might choose otherwise."""
    if settings.layout != "auto" or not has_store(Path(run)):
        return settings
    with reading(Path(run)) as store:
        return replace(settings, layout=store.setting("identity")["numerics"]["layout"])


def default_run(setup: Setup) -> Path:
    """Return the run directory of a campaign that was given none."""
    return Path("reports", setup.dataset.name, setup.model.name, datetime.now().strftime("%y%m%d_%H%M%S"))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_memory() -> int:
    """Return the bytes of memory that are free, as far as the system tells."""
    info = Path("/proc/meminfo")
    match = re.search(r"MemAvailable:\s*(\d+) kB", info.read_text()) if info.is_file() else None
    return int(match[1]) * 1024 if match else 1 << 32


def _identity(setup: Setup, injections: Iterable[Injection], resolver: Resolver) -> dict[str, Any]:
    """Resolve the whole list once, so that its last row is known to be right before anything is written."""
    seen: set[str] = set()
    fault_hash = ""
    for injection, running_hash in list_fingerprint(injections):
        if injection.id in seen:
            raise FaultListError(f"injection {injection.id} is given twice; give each its own id")
        seen.add(injection.id)
        resolver.resolve(injection)
        fault_hash = running_hash
    if not seen:
        raise FaultListError("the fault list has no injections")
    return {
        "model": setup.model.sha256,
        "faults": fault_hash,
        "data": setup.dataset.content_hash(),
        "output": setup.output,
        "tolerance": setup.tolerance,
        "numerics": setup.numerics.as_dict(),
    }


def _resolved(injections: Iterable[Injection], resolver: Resolver, expected: str) -> Iterator[ResolvedInjection]:
    """Resolve the list again for the store, and refuse one that changed since it was first read."""
    fault_hash = ""
    for injection, running_hash in list_fingerprint(injections):
        fault_hash = running_hash
        yield resolver.resolve(injection)
    if fault_hash != expected:
        raise FaultListError("the fault list changed while the campaign began; run it again")


def _description(setup: Setup, golden: Golden, providers: list[str], faults: object) -> dict[str, Any]:
    counts = judge(golden, golden.scores).counts
    return {
        "network": setup.model.name,
        "model_file": setup.path.name,
        "fault_list": Path(faults).name if isinstance(faults, str | Path) else "given in memory",
        "dataset": setup.dataset.name,
        "data": setup.dataset.source,
        "inputs": len(golden.scores),
        "values_per_input": golden.scores.shape[1],
        "probabilities": golden.criterion.probabilities,
        "labels": _labels_hash(setup.dataset),
        "top_1_correct": counts["top_1_correct"],
        "top_5_correct": counts["top_5_correct"],
        "scores": score_fingerprint(golden.scores),
        "providers": providers,
        "machine": machine_name(setup.numerics.provider),
        "versions": versions(),
    }


def _labels_hash(dataset: Dataset) -> str | None:
    """Return the SHA-256 of the labels in their order: the same for every layout of the inputs."""
    return None if dataset.labels is None else hashlib.sha256(dataset.labels.astype("<i8").tobytes()).hexdigest()


def _check_folder(folder: Path, identity: dict[str, Any], resume: bool) -> None:
    """Refuse a run directory that holds something else, before any work is done."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: expected a run directory, found a file; choose another --out")
    if folder.is_dir() and holds_other_files(folder):
        raise RunError(f"{folder}: holds files that are no campaign's; choose another --out")
    if has_store(folder):
        with locked(folder), reading(folder) as store:
            _check_identity(store, identity, resume)


def _check_identity(store: Store, identity: dict[str, Any], resume: bool) -> None:
    if not resume:
        raise RunError(f"{store.run}: holds a campaign already; continue it with --resume or choose another --out")
    stored = store.setting("identity")
    different = [_IDENTITY_WORDS.get(key, key) for key in identity if stored.get(key) != identity[key]]
    if different:
        raise RunError(
            f"{store.run}: holds another campaign, with other {', '.join(different)}; choose another --out, or run again "
            "with the same model, list, data and settings"
        )


def _check_golden(store: Store, description: dict[str, Any]) -> None:
    stored = store.setting("golden")
    if stored["scores"] != description["scores"]:
        raise RunError(
            f"{store.run}: the clean model's scores differ from when the campaign began (then on {stored['machine']}, "
            f"now on {description['machine']}); finish it where it began, or start again with another --out"
        )


@contextmanager
def _run_directory(folder: Path) -> Iterator[Store]:
    """Make and lock the run directory, and give its store; clean up before the lock goes.

    In the end the scratch files are gone, and so is a directory that was made here and in which nothing was committed; if
    a control failed, so are the result files.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make the run directory: {error.strerror}") from None
    with writing(folder) as store:
        try:
            yield store
        except ControlFailedError:  # what an earlier end of this run wrote is wrong
            for name in ("results.csv", "golden.json", "per_input.parquet"):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "outputs", ignore_errors=True)
            raise
        finally:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
            if made and store.is_new:
                shutil.rmtree(folder, ignore_errors=True)


def _write_files(store: Store, folder: Path, golden: Golden) -> None:
    records = store.setting("identity")["records"]
    if "scores" in records:
        write_scores(store, folder / "outputs", golden.scores)
    if "per_input" in records:
        write_per_input(store, folder / "per_input.parquet")
    write_golden(store, folder / "golden.json")
    write_results(store, folder / "results.csv")
