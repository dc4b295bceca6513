"""Runs a campaign, from prepared model and fault list to a finished run directory, by the other modules of this package."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from bitswap_onnx.campaign.adaptive_list import INTERIM_ESTIMATES_NAME, AdaptiveList
from bitswap_onnx.campaign.executor import Executor
from bitswap_onnx.campaign.identity import (
    as_begun,
    check_folder,
    check_golden_scores,
    check_identity,
    golden_record,
    identity_of,
)
from bitswap_onnx.campaign.keywords import Keywords, with_keywords
from bitswap_onnx.campaign.memory import share_memory
from bitswap_onnx.campaign.options import RunOptions, starting_workers
from bitswap_onnx.campaign.plan import CheckedList, check_list
from bitswap_onnx.campaign.records import GoldenRecord, Identity
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
from bitswap_onnx.campaign.run_directory import writing
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import Setup, prepare
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.campaign.workers import SCRATCH
from bitswap_onnx.data.chunks import chunk_length
from bitswap_onnx.errors import BitswapError, ControlFailedError, RunError, amount
from bitswap_onnx.faults.fault_list import FaultList
from bitswap_onnx.files import folder_of_now
from bitswap_onnx.outcome import COUNTS, OUTCOME_NAMES, Golden
from bitswap_onnx.runtime.session import choose_provider
from bitswap_onnx.tables import Tabular, percent, read_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Campaign(Tabular):
    """A finished campaign: its run directory, its numbers, its golden run and lanes as golden.json has them, its notes.

    ``frame()`` has one row per fault, as results.csv, with the columns of a fault list among its own.
    """

    run: Path
    summary: Summary
    golden: dict[str, Any]
    notes: tuple[str, ...]

    def headline(self) -> str:
        """Return what ran, and the critical share of all inferences."""
        totals, golden = self.summary.totals, self.golden
        share = (totals["critical"] or 0) / max(totals["inputs"] or 0, 1)
        warned = len(golden["warnings"])
        return (
            f"{golden['network']} on {golden['dataset']}: {amount(self.summary.injections, 'injection', ',')}, "
            f"{amount(totals['inputs'] or 0, 'inference', ',')}, {percent(share)} critical; run {self.run}"
            + (f"; {amount(warned, 'warning')} in campaign.golden['warnings']" if warned else "")
        )

    def shown_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the outcomes, as shares of all inferences, of all bits and of each class of bits."""
        summary = self.summary
        for name, number, counts in (("all bits", summary.injections, summary.totals), *summary.bit_classes):
            inputs = max(counts["inputs"] or 0, 1)
            shares = {kind.replace("_", "-"): percent((counts[kind] or 0) / inputs) for kind in OUTCOME_NAMES[:3]}
            yield {"faults in": name, "injections": number, **shares}

    def frame(self) -> "pd.DataFrame":
        """Return results.csv as a pandas DataFrame: one row per fault; counts are whole numbers, missing where empty.

        It is a fault list too, whole or in part: ``run_campaign(model, frame[frame.critical > 0], ...)``. Of an injection
        with several faults, the first row has the counts. Raises MissingExtraError without pandas.
        """
        return read_frame(self.run / "results.csv", ("Bit", "n_injections", *COUNTS), ("clean_value", "faulty_value"))


def run_campaign(
    model: object,
    faults: object,
    data: object = None,
    *,
    settings: Settings = Settings(),
    options: RunOptions = RunOptions(),
    **keywords: Unpack[Keywords],
) -> Campaign:
    """Run every injection of ``faults`` on ``model`` over ``data``, and write a run directory.

    ``model``: the path of an ONNX file, a `Model`, an ``onnx.ModelProto``, a PyTorch module or a Keras model, which is
    exported first; or what `prepare` made of one, with its data. ``faults``: the path of a fault list, `Injection` or
    `Fault` objects, a DataFrame (`bitswap_onnx.faults.in_memory.given_faults`), or a list that is drawn in rounds.
    ``data``: as in `Settings`; None: those of the settings. ``keywords``: fields of ``settings`` and ``options``.

    Raises BitswapError for wrong input (nothing is written then), ControlFailedError if a null control or the audit does
    not hold, InterruptedRunError after ``options.stop``. Whatever happens, finished units are kept.
    """
    settings, options = with_keywords(data, settings, options, keywords)
    if options.per_input:
        require_parquet()
    provider = model.settings.provider if isinstance(model, Setup) else settings.provider
    with starting_workers(options, choose_provider(provider)) as options_with_workers:
        return _run(_prepared(model, settings, options), faults, options_with_workers)


def _prepared(model: object, settings: Settings, options: RunOptions) -> Setup:
    if not isinstance(model, Setup):
        return prepare_run(model, settings, options)
    if settings != Settings():
        raise BitswapError(
            "`settings`: expected none with a prepared model, found some; give them and `data` to prepare"
        )
    return as_begun(model, options.run) if options.resume else model


def _run(setup: Setup, faults: object, options: RunOptions) -> Campaign:
    adaptive = faults if isinstance(faults, AdaptiveList) else None
    first = faults.pilot.injections if isinstance(faults, AdaptiveList) else faults
    plan = check_list(setup, first, options.bit_order, options.inputs_per_injection)
    identity = identity_of(plan, adaptive, options)
    folder = options.folder or default_run(plan.setup)
    check_folder(folder, identity, options.resume)
    stop = options.stop or threading.Event()
    clean = plan.setup.clean_run(stop)
    shares = share_memory(plan.setup, options)
    options.end_waiting(shares.workers)
    if options.on_notes:
        options.on_notes([*plan.notes, *shares.notes, *plan.setup.warnings])
    golden = golden_record(plan, clean, adaptive.name if adaptive else _drawn_or_given(faults, options, plan.setup))
    with _run_directory(folder) as store:
        if store.is_new:
            if options.resume and options.on_notes:
                options.on_notes([f"`resume`: {folder} holds no campaign yet, so this one begins there"])
            settings = _begun(plan, identity, golden, clean.seconds_per_input, shares.workers)
            settings |= adaptive.pilot.settings if adaptive else {}
            settings["experiment"] = options.experiment
            covered = adaptive.coverage if adaptive else plan.coverage
            settings["coverage"] = covered and asdict(covered)
            plan.write(store, settings, clean.golden, stop)
        else:
            _check_begun(store, plan, identity, golden, options.resume)
        _execute(Executor(store, plan.setup, clean.golden, options, shares, stop), plan, adaptive)
        _write_files(store, folder, clean.golden, options, adaptive)
        return Campaign(folder, summarize(store), {**store.golden.stored(), **how_it_ran(store)}, plan.notes)


def prepare_run(model: object, settings: Settings, options: RunOptions) -> Setup:
    """Prepare a model for a run, a resumed one with the choices that it began with."""
    setup = prepare(model, settings)
    return as_begun(setup, options.run) if options.resume else setup


def default_run(setup: Setup) -> Path:
    """Return the run directory of a campaign that was given none."""
    return folder_of_now(Path("reports", setup.dataset.name, setup.model.name))


def _drawn_or_given(faults: object, options: RunOptions, setup: Setup) -> str:
    if options.experiment:
        return f"drawn by {options.experiment}, seed {setup.seed}"
    return list_name(faults)


def list_name(faults: object) -> str:
    """Return the name of a list's file, or that the faults are given in memory."""
    path = faults.path if isinstance(faults, FaultList) else faults
    return Path(path).name if isinstance(path, str | PathLike) else "given in memory"


def _begun(
    plan: CheckedList, identity: Identity, golden: GoldenRecord, seconds_per_input: float, workers: int
) -> dict[str, Any]:
    """Return the settings that a store gets when its campaign begins."""
    setup = plan.setup
    inputs, batch_size = len(setup.dataset), setup.batch_size
    unit_length = plan.sample.length or chunk_length(inputs, batch_size, seconds_per_input, workers)
    return {
        "identity": identity.stored(),
        "golden": golden.stored(),
        "notes": plan.notes,
        "warnings": setup.warnings,
        "unit_length": unit_length,
        "design": plan.design and plan.design.text,
    }


def _check_begun(store: Store, plan: CheckedList, identity: Identity, golden: GoldenRecord, resume: bool) -> None:
    """Check that a store holds the beginning of this campaign."""
    check_identity(store, identity, resume)
    if plan.design and store.design is None:
        store.keep_design(plan.design.text, plan.coverage)
    check_golden_scores(store, golden)
    store.check_content(golden)


def _execute(executor: Executor, plan: CheckedList, adaptive: AdaptiveList | None) -> None:
    """Run the list, and every further round of an adaptive one; audit it in the end."""
    store = executor.store
    with executor:
        if adaptive:
            executor.run(audited=False)
            while (addition := adaptive.more(store)) is not None:
                _remove_files(store.run)  # of an earlier goal
                plan.extend(store, addition)
                executor.run(audited=False)
            store.end_growth()
        executor.run()
    store.check_complete()


@contextmanager
def _run_directory(folder: Path) -> Iterator[Store]:
    """Make and lock the run directory, and give its store; clean up before the lock goes.

    In the end the scratch files are gone, and so is a directory that was made here and in which nothing was committed. If
    a control failed, the result files are gone as well.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make the run directory: {error.strerror}") from None
    with writing(folder) as store:
        try:
            yield store
        except ControlFailedError:  # files of an earlier end of this run are wrong
            _remove_files(folder)
            raise
        finally:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
            if made and store.is_new:
                shutil.rmtree(folder, ignore_errors=True)


def _remove_files(folder: Path) -> None:
    """Remove what a finished run has beside its store."""
    for name in ("results.csv", "golden.json", "per_input.parquet", INTERIM_ESTIMATES_NAME):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "outputs", ignore_errors=True)


def _write_files(
    store: Store, folder: Path, golden: Golden, options: RunOptions, adaptive: AdaptiveList | None
) -> None:
    if adaptive:
        adaptive.write(store, folder / INTERIM_ESTIMATES_NAME)
    if options.save_outputs:
        write_scores(store, folder / "outputs", golden.scores)
    if options.per_input:
        write_per_input(store, folder / "per_input.parquet")
    write_golden(store, folder / "golden.json")
    write_results(store, folder / "results.csv")
