"""Run one fault list on two models with the same weights, each in its own run directory, and compare the runs."""

from collections.abc import Iterable
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Unpack

from bitswap_onnx.campaign.inputs import chosen_data
from bitswap_onnx.campaign.keywords import Keywords, with_keywords
from bitswap_onnx.campaign.live import given_model
from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.results import require_parquet
from bitswap_onnx.campaign.run import list_name, prepare_run, run_campaign
from bitswap_onnx.campaign.run_directory import has_store
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.errors import BitswapError, FaultListError, MissingExtraError, RunError
from bitswap_onnx.experiments.comparison.compare_runs import Comparison, Judgement, compare_runs
from bitswap_onnx.faults.fault import BitOrder, Injection
from bitswap_onnx.faults.fault_list import refuse_neurons, write_fault_list
from bitswap_onnx.faults.in_memory import given_faults
from bitswap_onnx.files import folder_of_now
from bitswap_onnx.graph.list_conversion import converted_faults
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.resolve import resolve

#: Names in the folder of a comparison, beside compare.json and compare.csv: both runs, and a converted list.
RUN_A, RUN_B, LIST_B = "a", "b", "faults_b.csv"


def compare(
    a: object,
    b: object,
    faults: object = None,
    data: object = None,
    *,
    judgement: Judgement = Judgement(),
    allow_unpaired: bool = False,
    settings: Settings = Settings(),
    options: RunOptions = RunOptions(),
    **keywords: Unpack[Keywords],
) -> Comparison:
    """Compare two models under the same ``faults``, or without ``faults`` two finished campaigns or run directories.

    Models, ``faults``, ``data`` and ``keywords`` are as in `compare_models`; ``judgement`` and ``allow_unpaired`` as in
    `compare_runs`. Raises what these raise, and BitswapError for what has no effect: data, settings or keywords beside
    runs, ``allow_unpaired`` beside faults; also for models without faults.
    """
    if faults is not None:
        if allow_unpaired:
            raise BitswapError(
                "`allow_unpaired`: expected with two finished runs; one list gives each fault its partner"
            )
        return compare_models(a, b, faults, data, judgement=judgement, settings=settings, options=options, **keywords)
    run_a, run_b = (getattr(run, "run", run) for run in (a, b))
    paths = [Path(run) for run in (run_a, run_b) if isinstance(run, str | PathLike)]
    beside = data is not None or keywords or settings != Settings() or options != RunOptions()
    if beside or len(paths) < 2 or not all(path.is_dir() for path in paths):
        raise BitswapError("`faults`: expected faults for two models; without them, two run directories alone")
    return compare_runs(paths[0], paths[1], judgement, allow_unpaired=allow_unpaired)


def compare_models(
    model_a: object,
    model_b: object,
    faults: object,
    data: object = None,
    *,
    judgement: Judgement = Judgement(),
    settings: Settings = Settings(),
    options: RunOptions = RunOptions(),
    **keywords: Unpack[Keywords],
) -> Comparison:
    """Run ``faults``, a list for ``model_a``, on both models into the folders a and b of the run directory; compare them.

    Models, ``faults``, ``data`` and ``keywords`` are as in `run_campaign`. Where the list does not hit the same bits in
    ``model_b``, it is converted by content into faults_b.csv there. Both runs have the same data: if the settings name
    none, the data beside ``model_a``. Without ``run``, the directory is ``reports/compare/<model_a>_<model_b>/<time>``.
    Raises BitswapError as `run_campaign`, `convert` and `compare_runs` do, and for a folder that holds runs,
    without ``resume``.
    """
    settings, options = with_keywords(data, settings, options, keywords)
    injections = given_faults(faults)
    refuse_neurons(injections, "a comparison")
    a, b = (given_model(model, settings) for model in (model_a, model_b))
    folder = options.folder or folder_of_now(Path("reports", "compare", f"{a.name}_{b.name}"))
    if not options.resume and any(has_store(folder / name) for name in (RUN_A, RUN_B)):
        raise RunError(f"{folder}: holds runs already; continue them with `resume` or choose another `run`")
    settings = replace(settings, data=chosen_data(a, settings))
    fits = _hits_the_same(injections, a, b, options.bit_order)
    converted = None if fits else converted_faults(injections, a, b)
    notes = [f"{list_name(injections)} converted for {b.name} by content", *converted.notes] if converted else []
    runs = (a, RUN_A, injections), (b, RUN_B, folder / LIST_B if converted else injections)
    campaigns = []
    for model, name, fault_list in runs:  # both are prepared before anything is written
        resume, per_input = options.resume and has_store(folder / name), _can_record_inputs()
        own_options = replace(options, run=folder / name, resume=resume, per_input=per_input)
        campaigns.append((prepare_run(model, settings, own_options), fault_list, own_options))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make the folder: {error.strerror}") from None
    if converted:
        write_fault_list(folder / LIST_B, converted)
    if options.on_notes:
        options.on_notes(notes)
    while campaigns:
        prepared, fault_list, own_options = campaigns.pop(0)
        run_campaign(prepared, fault_list, options=own_options)
    return compare_runs(folder / RUN_A, folder / RUN_B, judgement)


def _hits_the_same(injections: Iterable[Injection], a: Model, b: Model, bit_order: BitOrder) -> bool:
    """Whether the unconverted list resolves to the same bits in both models."""
    try:
        for in_a, in_b in zip(resolve(a, injections, bit_order), resolve(b, injections, bit_order), strict=True):
            changes_a, changes_b = (
                [(receipt.clean_bits, receipt.faulty_bits) for receipt in resolved.receipts]
                for resolved in (in_a, in_b)
            )
            if changes_a != changes_b:
                return False
    except FaultListError:
        return False  # if the list does not fit A, converted_faults raises the error again
    return True


def _can_record_inputs() -> bool:
    """Whether the runs can record outcomes per input, on which agreement is measured best."""
    try:
        require_parquet()
    except MissingExtraError:
        return False
    return True
