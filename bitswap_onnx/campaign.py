"""A campaign, from model, fault list and data to a finished run directory. Joins the line; no logic of its own."""

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from bitswap_onnx.errors import ControlFailedError, InterruptedRunError, RunError
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.faults.fault_list import fingerprint as list_fingerprint
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.resolve import BitOrder, Resolver
from bitswap_onnx.outcome import Counts, Golden, judge
from bitswap_onnx.plan import Chunk, chunks
from bitswap_onnx.prepare import Settings, Setup, machine_name, prepare
from bitswap_onnx.results import (
    Summary,
    require_parquet,
    summarize,
    write_golden,
    write_per_input,
    write_results,
    write_scores,
)
from bitswap_onnx.runtime.golden import fingerprint as score_fingerprint
from bitswap_onnx.runtime.pool import Pool, Unit
from bitswap_onnx.runtime.session import versions
from bitswap_onnx.store import Store, Task, has_store, writing


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is: ``done`` of ``total`` units of a ``stage``; sums over the inferences so far."""

    stage: str
    done: int
    total: int
    inferences: int = 0
    critical: int = 0


@dataclass(frozen=True)
class Campaign:
    """A finished campaign."""

    run: Path
    summary: Summary
    golden: dict[str, Any]
    notes: tuple[str, ...]


_DEFAULTS = Settings()

OnProgress = Callable[[Progress], None]


def run_campaign(
    model: str | Path,
    faults: str | Path | Iterable[Injection],
    *,
    settings: Settings = _DEFAULTS,
    run: str | Path | None = None,
    resume: bool = False,
    workers: int | None = None,
    bit_order: BitOrder = "lsb",
    save_outputs: bool = False,
    per_input: bool = False,
    on_progress: OnProgress | None = None,
    on_notes: Callable[[Iterable[str]], None] | None = None,
    stop: threading.Event | None = None,
) -> Campaign:
    """Run every injection of ``faults`` on ``model`` over a dataset and return the finished campaign.

    ``faults`` is a fault list's path, or injections (iterated twice, so a list rather than a generator). ``run`` is the
    run directory (default: ``reports/<dataset>/<model>/<yymmdd_HHMMSS>``); ``resume`` continues what is there.
    ``workers`` processes of one thread each (default: one per core) never change a result. Setting ``stop`` from another
    thread or a signal handler ends the campaign after the units at hand.

    Raises BitswapError for wrong input (nothing is written then), ControlFailedError if a null control does not hold,
    InterruptedRunError after ``stop``. Whatever happens, finished units are kept.
    """
    if per_input:
        require_parquet()
    setup = prepare(Path(model), settings)
    if on_notes:
        on_notes(setup.notes)
    injections = faults if not isinstance(faults, str | Path) else read_fault_list(faults)
    resolver = Resolver(setup.model, bit_order)
    records = [name for name, wanted in (("scores", save_outputs), ("per_input", per_input)) if wanted]
    identity = _identity(setup, injections, resolver) | {"bit_order": bit_order, "records": records}
    folder = Path(run) if run else default_run(setup)
    _check_run(folder, identity, resume)
    golden, providers = setup.golden()
    description = _description(setup, golden, providers, faults)
    with _directory(folder), writing(folder) as store:
        if store.is_new:
            store.create(
                {"identity": identity, "golden": description, "notes": setup.notes},
                map(resolver.resolve, injections),
                lambda receipt: resolver.parameter_name(receipt.target),
            )
        _check_golden(store, description)
        _execute(store, setup, golden, workers or _cores(), on_progress, stop or threading.Event())
        _write_files(store, folder, golden)
        return Campaign(folder, summarize(store), store.setting("golden"), setup.notes)


def default_run(setup: Setup) -> Path:
    """Return the run directory of a campaign that was given none."""
    return Path("reports", setup.dataset.name, setup.model.name, datetime.now().strftime("%y%m%d_%H%M%S"))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _identity(setup: Setup, injections: Iterable[Injection], resolver: Resolver) -> dict[str, Any]:
    """Resolve the whole list once, so that its last row is known to be right before anything is written."""
    fault_hash = ""
    for injection, running_hash in list_fingerprint(injections):
        resolver.resolve(injection)
        fault_hash = running_hash
    return {
        "model": setup.model.sha256,
        "faults": fault_hash,
        "data": setup.dataset.content_hash(),
        "output": setup.output,
        "tolerance": setup.tolerance,
        "numerics": setup.numerics.as_dict(),
    }


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
        "top_1_correct": counts["top_1_correct"],
        "top_5_correct": counts["top_5_correct"],
        "scores": score_fingerprint(golden.scores),
        "providers": providers,
        "machine": machine_name(setup.numerics.provider),
        "versions": versions(),
    }


def _check_run(folder: Path, identity: dict[str, Any], resume: bool) -> None:
    """Refuse a run directory that holds something else, before any work is done."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: expected a run directory, found a file; choose another --out")
    if not has_store(folder):
        return
    if not resume:
        raise RunError(f"{folder}: holds a campaign already; continue it with --resume or choose another --out")
    with writing(folder) as store:
        stored = store.setting("identity")
    different = [key for key in identity if stored.get(key) != identity[key]]
    if different:
        raise RunError(
            f"{folder}: holds another campaign: {', '.join(different)} differ{'s' if len(different) == 1 else ''}; "
            "choose another --out, or run again with the same model, list, data and settings"
        )


def _check_golden(store: Store, description: dict[str, Any]) -> None:
    stored = store.setting("golden")
    if stored["scores"] != description["scores"]:
        raise RunError(
            f"{store.run}: the clean model's scores differ from when the campaign began (then on {stored['machine']}, "
            f"now on {description['machine']}); finish it where it began, or start again with another --out"
        )


@contextmanager
def _directory(folder: Path) -> Iterator[None]:
    """Make the run directory; in the end, take away the scratch files and a directory in which nothing was committed."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make the run directory: {error.strerror}") from None
    try:
        yield
    finally:
        shutil.rmtree(folder / "scratch", ignore_errors=True)
        if made and not has_store(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _execute(
    store: Store, setup: Setup, golden: Golden, workers: int, on_progress: OnProgress | None, stop: threading.Event
) -> None:
    """Run what the store still lacks: first the null controls, then the injections."""
    parts = chunks(len(golden.scores), setup.numerics.batch_size)
    report = on_progress or (lambda progress: None)
    if not any(store.open_controls(chunk) for chunk in parts) and _is_complete(store, parts):
        return
    with Pool(_worker_settings(store, setup, golden), workers) as pool:
        _run_controls(store, pool, parts, report, stop)
        _run_injections(store, pool, parts, golden, report, stop)
    if not _is_complete(store, parts):
        raise InterruptedRunError(f"stopped; everything finished is saved: continue with --resume --out {store.run}")


def _is_complete(store: Store, parts: tuple[Chunk, ...]) -> bool:
    return all(next(store.open_injections(chunk, page=1), None) is None for chunk in parts)


def _worker_settings(store: Store, setup: Setup, golden: Golden) -> dict[str, Any]:
    """Write what all workers read into the run's scratch folder and return the message that starts them."""
    scratch = store.run / "scratch"
    try:
        scratch.mkdir(exist_ok=True)
        setup.dataset.save(scratch / "inputs.npy")
        np.save(scratch / "golden.npy", golden.scores)
        if golden.labels is not None:
            np.save(scratch / "labels.npy", golden.labels)
    except OSError as error:
        raise RunError(f"{scratch}: cannot write the prepared inputs: {error.strerror}; free some space") from None
    return {
        "model": str(setup.path.resolve()),
        "sha256": setup.model.sha256,
        "scratch": str(scratch.resolve()),
        "labels": golden.labels is not None,
        "numerics": setup.numerics.as_dict(),
        "output": setup.output,
        "criterion": asdict(golden.criterion),
        "records": store.setting("identity")["records"],
    }


def _run_controls(
    store: Store, pool: Pool, parts: tuple[Chunk, ...], report: OnProgress, stop: threading.Event
) -> None:
    tasks = [(task, chunk) for chunk in parts for task in store.open_controls(chunk)]
    for done, result in enumerate(pool.run(map(_unit, *zip(*tasks, strict=True)) if tasks else (), stop), 1):
        masked = result.counts["masked"]
        assert masked is not None
        store.add_control(result.unit.key, result.unit.chunk, masked)
        report(Progress("null controls", done, len(tasks)))
    failed = store.failed_controls()
    if failed:
        tensors, unmasked = failed[0]
        raise ControlFailedError(
            f"null control failed: without any fault, rewriting {tensors} changed {unmasked} outputs "
            f"({len(failed)} faulty paths affected); results would be wrong, none are written"
        )


def _run_injections(
    store: Store, pool: Pool, parts: tuple[Chunk, ...], golden: Golden, report: OnProgress, stop: threading.Event
) -> None:
    total = store.injections * len(parts)
    sums = store.totals()
    done = store.query("SELECT COUNT(*) FROM outcome").fetchone()[0]
    inferences, critical = sums["inputs"] or 0, sums["critical"] or 0

    def advance(chunk: Chunk, counts: Counts) -> None:
        nonlocal done, inferences, critical
        done, inferences, critical = done + 1, inferences + len(chunk), critical + (counts["critical"] or 0)
        report(Progress("injections", done, total, inferences, critical))

    def units() -> Iterator[Unit]:
        for chunk in parts:
            for task in store.open_injections(chunk):
                if task.changes:
                    yield _unit(task, chunk)
                else:
                    advance(chunk, _add_unchanged(store, task, chunk, golden))

    for result in pool.run(units(), stop):
        store.add_outcome(result.unit.key, result.unit.chunk, result.counts, result.blobs)
        advance(result.unit.chunk, result.counts)


def _unit(task: Task, chunk: Chunk) -> Unit:
    return Unit(task.key, task.label, task.edits, chunk)


def _add_unchanged(store: Store, task: Task, chunk: Chunk, golden: Golden) -> Counts:
    """Commit the outcome of an injection that the weights already satisfy: masked everywhere, without running it."""
    part = golden.slice(chunk.first, chunk.stop)
    outcomes = judge(part, part.scores)
    blobs = {"per_input": outcomes.code.tobytes(), "scores": part.scores.astype(np.float32).tobytes()}
    wanted = store.setting("identity")["records"]
    store.add_outcome(task.key, chunk, outcomes.counts, {name: blobs[name] for name in wanted})
    return outcomes.counts


def _write_files(store: Store, folder: Path, golden: Golden) -> None:
    records = store.setting("identity")["records"]
    if "scores" in records:
        write_scores(store, folder / "outputs", golden.scores)
    if "per_input" in records:
        write_per_input(store, folder / "per_input.parquet")
    write_golden(store, folder / "golden.json")
    write_results(store, folder / "results.csv")
