"""ONNX Runtime against a framework's own run, clean and faulty, injection by injection.

A crosscheck measures the *kernel effect*: the same graph and the same bits, computed by different kernels. Rounding
makes scores and masked counts differ; predictions must be equal, except near ties. Runtimes handle NaN and Inf
differently (ONNX Runtime's CPU MaxPool keeps a NaN only if it is the window's last element), so nonfinite inferences
are counted separately.
"""

import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from bitswap_onnx.campaign.keywords import Keywords, with_keywords
from bitswap_onnx.campaign.live import given_native, is_keras_model, is_torch_module
from bitswap_onnx.campaign.options import Progress, RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import Setup, prepare
from bitswap_onnx.converters.native import Native
from bitswap_onnx.errors import ControlFailedError, ModelError, amount
from bitswap_onnx.experiments.crosscheck.agreement import Agreement, measure_agreement
from bitswap_onnx.experiments.crosscheck.divergence import Divergence, find_divergence
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.faults.fault_list import refuse_neurons
from bitswap_onnx.faults.in_memory import given_faults
from bitswap_onnx.graph.resolve import resolve
from bitswap_onnx.tables import Tabular

#: Clean scores may differ by this much of an input's largest score: float32 rounding through a deep network.
MAX_CLEAN_DIFFERENCE = 1e-3

#: For this many injections with differing predictions, the divergence is located.
MAX_DIVERGENCES = 5


@dataclass(frozen=True, repr=False)
class Verdict(Tabular):
    """All agreements with one native run, and ``max_nonfinite``, the tolerated share of differing nonfinite inferences.

    ``divergences`` locate the first difference of both runs, for the first injections whose predictions differ. ``frame()``
    has a row for the clean run, and one per injection.
    """

    notebook_columns = ("id", "inputs", "difference", "differing", "near_ties", "nonfinite", "nonfinite_differing")

    native: str
    clean: Agreement
    injections: tuple[Agreement, ...]
    max_nonfinite: float
    has_max_pool: bool
    divergences: tuple[Divergence, ...] = ()

    def headline(self) -> str:
        """Return what ran, and the number of predictions that differ without explanation."""
        return (
            f"ONNX Runtime and {self.native}: {amount(len(self.injections), 'injection')}, clean scores within "
            f"{self.clean.relative:.1e}, {amount(self.unexplained, 'prediction')} differ without explanation"
        )

    def table_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the agreement of the clean run and of each injection; counts are those of outcomes on each side."""
        for agreement in (self.clean, *self.injections):
            row = asdict(agreement)
            sides = {"runtime": row.pop("runtime"), self.native: row.pop("native")}
            counts = {f"{name}_{side}": each[name] for side, each in sides.items() for name in ("masked", "critical")}
            yield row | counts

    @property
    def unexplained(self) -> int:
        """The number of predictions that differ with finite scores on both sides, without near ties."""
        return sum(agreement.differing - agreement.near_ties for agreement in (self.clean, *self.injections))

    @property
    def nonfinite_share(self) -> float:
        """The share of all faulty inferences that have a NaN or Inf and different predictions."""
        return sum(a.nonfinite_differing for a in self.injections) / max(sum(a.inputs for a in self.injections), 1)

    @property
    def cause(self) -> str:
        """The cause of differing nonfinite predictions: operators where runs diverge, else ONNX Runtime's MaxPool rule."""
        places = dict.fromkeys(divergence.operators for divergence in self.divergences if divergence.nodes)
        if places:
            return f"the runs diverge at {', '.join(places)}"
        known = "MaxPool: ONNX Runtime keeps a NaN only if it is a window's last element, frameworks propagate it"
        return known if self.has_max_pool else "no cause known for this model"

    def check(self) -> None:
        """Raise ControlFailedError if ONNX Runtime and the native run disagree.

        They disagree if clean scores differ by more than rounding (then near ties would mean nothing), if predictions
        differ with finite scores and no near tie, or if more than `max_nonfinite` of the inferences differ with NaN or
        Inf.
        """
        if self.clean.relative > MAX_CLEAN_DIFFERENCE:
            raise ControlFailedError(
                f"crosscheck: the clean scores of ONNX Runtime and {self.native} differ by {self.clean.relative:.1e} of "
                f"their size, more than {MAX_CLEAN_DIFFERENCE:.0e}; the file is not the native model"
            )
        if self.unexplained:
            raise ControlFailedError(
                f"crosscheck: {self.unexplained} predictions of ONNX Runtime and {self.native} differ with finite scores "
                "and no near tie; the file is not the native model"
            )
        if self.nonfinite_share > self.max_nonfinite:
            raise ControlFailedError(
                f"crosscheck: {self.nonfinite_share:.2%} of the faulty inferences have NaN or Inf and other predictions in "
                f"{self.native}, more than `max_nonfinite` {self.max_nonfinite:.2%} ({self.cause})"
            )


def crosscheck(
    model: object,
    faults: object,
    data: object = None,
    *,
    natives: Sequence[object] | None = None,
    injections: int | None = None,
    max_nonfinite: float = 0.01,
    settings: Settings = Settings(),
    options: RunOptions = RunOptions(),
    **keywords: Unpack[Keywords],
) -> list[Verdict]:
    """Run injections of ``faults`` as a campaign, then natively, and return one verdict for each native run.

    ``model``, ``faults``, ``data`` and ``keywords`` are as in `run_campaign`. ``natives``: torch modules, Keras models,
    ``tf`` (TensorFlow through onnx2tf), or functions that make a `Native` of the loaded model; None: ``model`` itself, which
    then is a torch module or a Keras model. ``injections``: the size of a random sample, drawn with the settings' seed and
    kept in the list's order; None takes all. Without ``run``, the run directory is not kept. Raises BitswapError as
    `run_campaign` does, and FaultListError where a native model does not fit the file. `Verdict.check` raises where the
    runs disagree.
    """
    settings, options = with_keywords(data, settings, options, keywords)
    if natives is None and not (is_torch_module(model) or is_keras_model(model)):
        raise ModelError(
            "`natives`: expected a torch module or a Keras model to compare with, found none; give natives=[module]"
        )
    listed = given_faults(faults)
    refuse_neurons(listed, "a crosscheck")
    setup = prepare(model, settings)
    chosen = _sample(list(listed), injections, settings.seed)
    runs = [given_native(native, setup.model) for native in ([model] if natives is None else natives)]
    with tempfile.TemporaryDirectory() as scratch:
        run = options.folder or Path(scratch, "run")
        run_campaign(setup, chosen, options=replace(options, run=run, save_outputs=True))
        return _verdicts(setup, chosen, runs, run, max_nonfinite, options)


def _verdicts(
    setup: Setup,
    chosen: Sequence[Injection],
    runs: Sequence[Native],
    run: Path,
    max_nonfinite: float,
    options: RunOptions,
) -> list[Verdict]:
    """Return one verdict for each native run, from the scores of a finished campaign."""
    inputs = setup.dataset.batch(0, len(setup.dataset))
    clean = np.load(run / "outputs" / "clean.npy")
    resolved = list(resolve(setup.model, chosen, options.bit_order))
    has_max_pool = any(node.op_type == "MaxPool" for node in setup.model.proto.graph.node)
    verdicts = []
    for native in runs:
        native_clean = native.clean(inputs)
        agreements: list[Agreement] = []
        divergences: list[Divergence] = []
        for number, injection in enumerate(resolved, 1):
            scores = np.load(run / "outputs" / f"inj_{injection.id}.npy")
            pair = native_clean, native.faulty(injection, inputs)
            agreements.append(measure_agreement(injection.id, (clean, scores), pair))
            example = agreements[-1].example
            if example is not None and len(divergences) < MAX_DIVERGENCES:
                rows = scores[example], pair[1][example]
                divergences.append(find_divergence(setup, injection, native, example, rows))
            if options.on_progress:
                options.on_progress(Progress(f"native {native.name}", number, len(resolved)))
        whole = measure_agreement("clean", (clean, clean), (native_clean, native_clean))
        verdicts.append(Verdict(native.name, whole, tuple(agreements), max_nonfinite, has_max_pool, tuple(divergences)))
    return verdicts


def _sample(injections: list[Injection], count: int | None, seed: int) -> list[Injection]:
    if count is None or count >= len(injections):
        return injections
    return [injections[i] for i in sorted(random.Random(seed).sample(range(len(injections)), count))]
