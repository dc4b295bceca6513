"""The identity of a run and the record of its golden run: computed, and compared with what a run directory holds."""

import hashlib
from dataclasses import replace
from pathlib import Path

from bitswap_onnx.campaign.adaptive_list import AdaptiveList
from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.plan import CheckedList
from bitswap_onnx.campaign.records import GoldenRecord, Identity
from bitswap_onnx.campaign.run_directory import has_store, holds_other_files, locked, reading
from bitswap_onnx.campaign.setup import CleanRun, Setup
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.data.dataset import Dataset
from bitswap_onnx.errors import RunError
from bitswap_onnx.outcome import judge
from bitswap_onnx.runtime.golden import score_fingerprint
from bitswap_onnx.runtime.session import machine_name, versions

#: The parameters that set a field of the identity, where the field is not itself a parameter.
_PARAMETERS = {
    "records": "`save_outputs`, `per_input` or `detailed_log`",
    "tolerance": "`criterion`",
    "numerics": "`batch_size`, `fusion`, `layout` or `provider`",
    "inputs": "`inputs_per_injection` or its `seed`",
}


def identity_of(plan: CheckedList, adaptive: AdaptiveList | None, options: RunOptions) -> Identity:
    """Return the identity of a run of ``plan``; an adaptive list has an identity of its own."""
    setup = plan.setup
    return Identity(
        model=setup.model.sha256,
        faults=adaptive.identity if adaptive else plan.fingerprint,
        data=setup.dataset.content_hash(),
        output=setup.output,
        tolerance=setup.criterion.tolerance,
        numerics=setup.numerics,
        inputs=plan.sample.identity,
        bit_order=options.bit_order,
        records=options.kept_records,
    )


def golden_record(plan: CheckedList, clean: CleanRun, fault_list: str) -> GoldenRecord:
    """Return the record of the clean run; ``fault_list`` is the list's name."""
    setup, golden = plan.setup, clean.golden
    counts = judge(golden, golden.scores).counts
    return GoldenRecord(
        network=setup.model.name,
        model_file=setup.path.name if setup.path else "in memory",
        fault_list=fault_list,
        dataset=setup.dataset.name,
        data=setup.dataset.source,
        inputs=len(golden.scores),
        input_design=plan.sample.design,
        values_per_input=golden.scores.shape[1],
        probabilities=golden.criterion.probabilities,
        labels=_labels_hash(setup.dataset),
        top_1_correct=counts["top_1_correct"],
        top_5_correct=counts["top_5_correct"],
        scores=score_fingerprint(golden.scores),
        providers=clean.providers,
        machine=machine_name(setup.numerics.provider),
        versions=versions(),
    )


def _labels_hash(dataset: Dataset) -> str | None:
    """Return the SHA-256 of the labels in their order: the same for every layout of the inputs."""
    return None if dataset.labels is None else hashlib.sha256(dataset.labels.astype("<i8").tobytes()).hexdigest()


def as_begun(setup: Setup, run: str | Path | None) -> Setup:
    """Return the setup with the choices that a run began with, `layout` auto and the batch size: others may be made today.

    Raises RunError for a seed from the clock, which would differ from the first one.
    """
    settings = setup.settings
    if settings.from_clock:
        raise RunError("`seed` -1 with `resume`: expected the seed that was printed when the run began; pass that")
    if run is None or not has_store(Path(run)):
        return setup
    with reading(Path(run)) as store:
        begun = store.identity.numerics
    layout = begun.layout if settings.layout == "auto" else settings.layout
    begun_settings = replace(settings, layout=layout, apart=begun.apart)
    chose_batch = settings.batch_size is None and setup.spec.batch is None and not setup.batch_notes
    batch_size = begun.batch_size if chose_batch else setup.batch_size
    if settings == begun_settings and batch_size == setup.batch_size:
        return setup
    return replace(setup, settings=begun_settings, batch_size=batch_size)


def check_folder(folder: Path, identity: Identity, resume: bool) -> None:
    """Refuse a run directory that holds something else, before any work is done."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: expected a run directory, found a file; choose another `run`")
    if folder.is_dir() and holds_other_files(folder):
        raise RunError(
            f"{folder}: expected an empty folder or a run directory, found other files; choose another `run`"
        )
    if has_store(folder):
        with locked(folder), reading(folder) as store:
            check_identity(store, identity, resume)


def check_identity(store: Store, identity: Identity, resume: bool) -> None:
    """Raise RunError if a store holds another campaign, or this one and it is not to be resumed."""
    if not resume:
        raise RunError(f"{store.run}: holds a campaign already; continue it with `resume` or choose another `run`")
    stored = store.identity
    if stored.numerics.quantized != identity.numerics.quantized:
        raise RunError(
            f"{store.run}: began with quantized operators computed in another way ({stored.numerics.quantized}, now "
            f"{identity.numerics.quantized}); their clean scores may differ; start again with another `run`"
        )
    different = [_PARAMETERS.get(name, name) for name in identity.differences(stored)]
    if different:
        raise RunError(
            f"{store.run}: holds another campaign, with other {', '.join(different)}; choose another `run`, or run again "
            "with the same model, list, data and settings"
        )


def check_golden_scores(store: Store, golden: GoldenRecord) -> None:
    """Raise RunError if the golden scores differ from those that the campaign began with."""
    stored = store.golden
    if stored.scores != golden.scores:
        raise RunError(
            f"{store.run}: the clean model's scores differ from when the campaign began (then on {stored.machine}, "
            f"now on {golden.machine}); finish it where it began, or start again with another `run`"
        )
