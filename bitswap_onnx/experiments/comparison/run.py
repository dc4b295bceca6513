"""Run one fault list on two models with the same weights, each in its own run directory, and compare the runs."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from bitswap_onnx.campaign.inputs import chosen_data
from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.results import require_parquet
from bitswap_onnx.campaign.run import prepare_run, run_campaign
from bitswap_onnx.campaign.run_directory import has_store
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.errors import FaultListError, MissingExtraError, RunError
from bitswap_onnx.experiments.comparison.compare_runs import Comparison, Judgement, compare_runs
from bitswap_onnx.faults.fault import BitOrder, Injection
from bitswap_onnx.faults.fault_list import read_fault_list, refuse_neurons, write_fault_list
from bitswap_onnx.graph.list_conversion import convert_faults
from bitswap_onnx.graph.model import Model, load_model
from bitswap_onnx.graph.resolve import resolve

#: Names in the folder of a comparison, beside compare.json and compare.csv: both runs, and a converted list.
RUN_A, RUN_B, LIST_B = "a", "b", "faults_b.csv"


def compare_models(
    model_a: Path,
    model_b: Path,
    faults: Path,
    folder: Path,
    judgement: Judgement,
    settings: Settings = Settings(),
    options: RunOptions = RunOptions(),
) -> Comparison:
    """Run ``faults``, a list for ``model_a``, on both models into ``folder``/a and ``folder``/b, and compare them.

    Where the list does not hit the same bits in ``model_b``, it is converted by content into ``folder``/faults_b.csv.
    Both runs have the same data: if the settings name none, the data beside ``model_a``. Raises BitswapError as
    `run_campaign`, `convert_faults` and `compare_runs` do, and for a folder that holds runs, without ``resume``.
    """
    if not options.resume and any(has_store(folder / name) for name in (RUN_A, RUN_B)):
        raise RunError(f"{folder}: holds runs already; continue them with `resume` or choose another `run`")
    settings = replace(settings, data=chosen_data(model_a, settings))
    injections = read_fault_list(faults)
    refuse_neurons(injections, "a comparison")
    a, b = load_model(model_a), load_model(model_b)
    fits = _hits_the_same(injections, a, b, options.bit_order)
    converted = None if fits else convert_faults(injections, a, b)
    notes = [f"{faults.name} converted for {b.name} by content", *converted.notes] if converted else []
    runs = (model_a, RUN_A, faults), (model_b, RUN_B, folder / LIST_B if converted else faults)
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
        run_campaign(*campaigns.pop(0))
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
        return False  # if the list does not fit A, convert_faults raises the error again
    return True


def _can_record_inputs() -> bool:
    """Whether the runs can record outcomes per input, on which agreement is measured best."""
    try:
        require_parquet()
    except MissingExtraError:
        return False
    return True
