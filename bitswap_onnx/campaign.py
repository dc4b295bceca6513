"""A campaign, from model, fault list and data to a finished run directory. Joins the line; no logic of its own."""

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bitswap_onnx.errors import RunError
from bitswap_onnx.execute import OnProgress, execute
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.faults.fault_list import fingerprint as list_fingerprint
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.resolve import BitOrder, Resolver
from bitswap_onnx.outcome import Golden, judge
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
from bitswap_onnx.runtime.session import versions
from bitswap_onnx.store import Store, has_store, writing


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
        execute(store, setup, golden, workers or _cores(), on_progress, stop or threading.Event())
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


def _write_files(store: Store, folder: Path, golden: Golden) -> None:
    records = store.setting("identity")["records"]
    if "scores" in records:
        write_scores(store, folder / "outputs", golden.scores)
    if "per_input" in records:
        write_per_input(store, folder / "per_input.parquet")
    write_golden(store, folder / "golden.json")
    write_results(store, folder / "results.csv")
