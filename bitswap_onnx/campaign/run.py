"""A campaign, from model, fault list and data to a finished run directory. Joins the line; no logic of its own."""

import hashlib
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from bitswap_onnx.campaign.adaptive_list import GROWTH_NAME, GrowingList
from bitswap_onnx.campaign.audit import DEFAULT_AUDIT, Audit
from bitswap_onnx.campaign.executor import SCRATCH, Execution, Executor, OnProgress, cores, free_memory
from bitswap_onnx.campaign.plan import CheckedList, check_list
from bitswap_onnx.campaign.results import (
    Summary,
    how_it_ran,
    require_parquet,
    summarize,
    write_golden,
    write_per_input,
    write_results,
    write_scores,
)
from bitswap_onnx.campaign.run_directory import has_store, holds_other_files, locked, reading, writing
from bitswap_onnx.campaign.setup import CleanRun, Settings, Setup
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.data.chunks import chunk_length
from bitswap_onnx.data.dataset import Dataset
from bitswap_onnx.errors import ControlFailedError, RunError
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.graph.resolve import BitOrder
from bitswap_onnx.outcome import Golden, judge
from bitswap_onnx.runtime.golden import score_fingerprint as score_fingerprint
from bitswap_onnx.runtime.session import Numerics, machine_name, versions
from bitswap_onnx.sampling.input_blocks import PerInjection

#: What the parts of a run's identity are called in messages, where that is not their key.
_IDENTITY_WORDS = {
    "records": "--save-outputs, --per-input or --detailed-log",
    "tolerance": "--criterion",
    "numerics": "--batch-size, --fusion, --layout or --provider",
    "inputs": "--inputs-per-injection or its --seed",
}


#: What a store can keep of every inference.
Record = Literal["scores", "per_input"]


@dataclass(frozen=True)
class Campaign:
    """A finished campaign."""

    run: Path
    summary: Summary
    golden: dict[str, Any]
    notes: tuple[str, ...]


def run_campaign(
    model: str | Path | Setup,
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
    records: Collection[Record] = (),
    inputs_per_injection: PerInjection = None,
    growth: GrowingList | None = None,
    on_progress: OnProgress | None = None,
    on_notes: Callable[[Iterable[str]], None] | None = None,
    stop: threading.Event | None = None,
) -> Campaign:
    """Run every injection of ``faults`` (a fault list's path, or injections) on ``model`` over a dataset.

    A model that is prepared already (a Setup) brings its own ``settings``. ``run`` is the run directory (default:
    ``reports/<dataset>/<model>/<yymmdd_HHMMSS>``); ``resume`` continues what is there. ``workers`` processes of one thread
    each (0: none, all runs in this process; default: one per core; one on a GPU) with ``memory`` bytes for golden values
    (default: half of what is free), the ``engine`` and how much is audited never change a result.
    ``save_outputs`` and ``per_input`` write files of what the store keeps of every inference; ``records`` keeps it without
    a file. ``inputs_per_injection``: every injection runs over so many inputs of its own, whole batches (``"auto"``: one),
    drawn with the settings' seed (`input_sample`); None, or as many as there are: over all. ``growth``: where the list goes
    on behind ``faults``, which it began with. Setting ``stop`` from another thread or a signal handler ends the campaign
    after the units at hand.

    Raises BitswapError for wrong input (nothing is written then), ControlFailedError if a null control or the audit does
    not hold, InterruptedRunError after ``stop``. Whatever happens, finished units are kept.
    """
    if resume and run is None:
        raise RunError("--resume needs --out RUN: the run directory to continue")
    if per_input:
        require_parquet()
    settings = as_begun(settings, run) if resume else settings
    plan = check_list(model, faults, settings, bit_order, inputs_per_injection)
    kept = {*records, *(["scores"] if save_outputs else []), *(["per_input"] if per_input else [])}
    identity = _identity(plan, growth) | {"bit_order": bit_order, "records": sorted(kept, reverse=True)}
    folder = Path(run) if run else default_run(plan.setup)
    _check_folder(folder, identity, resume)
    setup, stop = plan.setup, stop or threading.Event()
    clean = setup.clean_run(stop)
    unit = plan.sample.length or chunk_length(len(setup.dataset), setup.numerics.batch_size, clean.seconds_per_input)
    if on_notes:
        on_notes(plan.notes)
    described = _description(plan, clean, growth.name if growth else _list_name(faults))
    begun = {"identity": identity, "golden": described, "notes": plan.notes, "unit_length": unit}
    with _run_directory(folder) as store:
        _begin(store, plan, begun | (growth.settings if growth else {}), clean.golden, resume, stop)
        own = cores() if setup.numerics.provider == "cpu" else 1
        execution = Execution(engine, own if workers is None else workers, memory or free_memory() // 2, audit)
        _execute_all(Executor(store, setup, clean.golden, execution, on_progress, stop), plan, growth)
        _write_files(store, folder, clean.golden, save_outputs, per_input, growth)
        return Campaign(folder, summarize(store), {**store.setting("golden"), **how_it_ran(store)}, plan.notes)


def _begin(
    store: Store, plan: CheckedList, begun: dict[str, Any], golden: Golden, resume: bool, stop: threading.Event
) -> None:
    """Commit the plan of a new campaign with the settings that it has ``begun`` with, or check that they are the store's."""
    if store.is_new:
        plan.write(store, begun, golden, stop)
    else:
        _check_identity(store, begun["identity"], resume)
        if plan.design and store.setting("design") is None:
            store.put("design", plan.design.text)
        _check_golden(store, begun["golden"])
        store.check_content(begun["golden"])


def _execute_all(executor: Executor, plan: CheckedList, growth: GrowingList | None) -> None:
    """Run the list, and as long as it grows what comes next; then audit it."""
    store = executor.store
    with executor:
        if growth:
            executor.run(audited=False)
            while (addition := growth.more(store)) is not None:
                _remove_files(store.run)  # of an earlier goal
                plan.extend(store, addition)
                executor.run(audited=False)
            store.put("growing", False)
        executor.run()
    store.check_complete()


def as_begun(settings: Settings, run: str | Path | None) -> Settings:
    """Return what was chosen for a run when it began, such as ``--layout auto``: another version might choose otherwise.

    Raises RunError for a seed from the clock, which would be another one.
    """
    if settings.from_clock:
        raise RunError("--seed -1 with --resume: expected the seed that was printed when the run began; pass that")
    if run is None or not has_store(Path(run)):
        return settings
    with reading(Path(run)) as store:
        begun = store.setting("identity")["numerics"]
    layout = begun["layout"] if settings.layout == "auto" else settings.layout
    return replace(settings, layout=layout, apart=begun.get("apart", False))


def default_run(setup: Setup) -> Path:
    """Return the run directory of a campaign that was given none."""
    return Path("reports", setup.dataset.name, setup.model.name, datetime.now().strftime("%y%m%d_%H%M%S"))


def _identity(plan: CheckedList, growth: GrowingList | None) -> dict[str, Any]:
    setup, fault_hash = plan.setup, plan.check()
    return {
        "model": setup.model.sha256,
        "faults": growth.identity if growth else fault_hash,
        "data": setup.dataset.content_hash(),
        "output": setup.output,
        "tolerance": setup.tolerance,
        "numerics": setup.numerics.as_dict(),
        "inputs": plan.sample.identity,
    }


def _list_name(faults: object) -> str:
    return Path(faults).name if isinstance(faults, str | Path) else "given in memory"


def _description(plan: CheckedList, clean: CleanRun, fault_list: str) -> dict[str, Any]:
    setup, golden = plan.setup, clean.golden
    counts = judge(golden, golden.scores).counts
    return {
        "network": setup.model.name,
        "model_file": setup.path.name,
        "fault_list": fault_list,
        "dataset": setup.dataset.name,
        "data": setup.dataset.source,
        "inputs": len(golden.scores),
        "input_design": plan.sample.design,
        "values_per_input": golden.scores.shape[1],
        "probabilities": golden.criterion.probabilities,
        "labels": _labels_hash(setup.dataset),
        "top_1_correct": counts["top_1_correct"],
        "top_5_correct": counts["top_5_correct"],
        "scores": score_fingerprint(golden.scores),
        "providers": clean.providers,
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
    stored = stored | {
        "numerics": Numerics().as_dict() | stored["numerics"]
    }  # an older store lacks what was added since
    if stored["numerics"]["quantized"] != identity["numerics"]["quantized"]:
        raise RunError(
            f"{store.run}: began with quantized operators computed otherwise ({stored['numerics']['quantized']}, now "
            f"{identity['numerics']['quantized']}), whose clean scores may differ; start again with another --out"
        )
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
            _remove_files(folder)
            raise
        finally:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
            if made and store.is_new:
                shutil.rmtree(folder, ignore_errors=True)


def _remove_files(folder: Path) -> None:
    """Remove what a finished run has beside its store."""
    for name in ("results.csv", "golden.json", "per_input.parquet", GROWTH_NAME):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "outputs", ignore_errors=True)


def _write_files(
    store: Store, folder: Path, golden: Golden, save_outputs: bool, per_input: bool, growth: GrowingList | None
) -> None:
    if growth:
        growth.write(store, folder / GROWTH_NAME)
    if save_outputs:
        write_scores(store, folder / "outputs", golden.scores)
    if per_input:
        write_per_input(store, folder / "per_input.parquet")
    write_golden(store, folder / "golden.json")
    write_results(store, folder / "results.csv")
