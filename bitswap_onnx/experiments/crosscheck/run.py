"""ONNX Runtime against a framework's own run, clean and faulty: do they agree, injection by injection?

It measures the *kernel effect*: the same graph and the same bits, computed by other kernels. Scores differ by rounding, and
so do masked counts; predictions must not, but for near ties. Where a score is NaN or Inf the runtimes have rules of their
own (ONNX Runtime's CPU MaxPool keeps a NaN only if it is the window's last element), so those are counted apart.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitswap_onnx.campaign.options import OnProgress, Progress, RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.converters.native import Native
from bitswap_onnx.errors import ControlFailedError
from bitswap_onnx.experiments.crosscheck.divergence import Divergence, find_divergence
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.faults.fault_list import read_fault_list, refuse_neurons
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.resolve import BitOrder, resolve
from bitswap_onnx.outcome import Counts, Golden, Scores, TopOne, judge

#: Clean scores may differ by this much of an input's largest score: float32 rounding through a deep network.
MAX_CLEAN_DIFFERENCE = 1e-3

#: Of how many injections whose predictions differ it is found out where the runs part.
MAX_DIVERGENCES = 5


@dataclass(frozen=True)
class Agreement:
    """How one run (``id``: an injection, or ``clean``) of ONNX Runtime agrees with a native one, over all inputs.

    ``difference``: the largest score difference where both sides are finite; ``relative``: the same, each input's by its
    largest score. ``differing``: predictions that differ there,
    of which ``near_ties`` are ties within rounding. ``nonfinite``: inferences with NaN or Inf on either side, of which
    ``nonfinite_differing`` have other predictions. ``example``: the first input whose predictions differ with NaN or Inf,
    or without a near tie.
    """

    id: str
    inputs: int
    difference: float
    relative: float
    differing: int
    near_ties: int
    nonfinite: int
    nonfinite_differing: int
    runtime: Counts
    native: Counts
    example: int | None = None


@dataclass(frozen=True)
class Verdict:
    """All agreements with one native run, and the largest share of differing nonfinite inferences that is tolerated.

    ``divergences`` say where the two runs part, for the first injections whose predictions differ.
    """

    native: str
    clean: Agreement
    injections: tuple[Agreement, ...]
    max_nonfinite: float
    has_max_pool: bool
    divergences: tuple[Divergence, ...] = ()

    @property
    def unexplained(self) -> int:
        """Predictions that differ with finite scores on both sides, near ties aside."""
        return sum(agreement.differing - agreement.near_ties for agreement in (self.clean, *self.injections))

    @property
    def nonfinite_share(self) -> float:
        """Share of all faulty inferences whose predictions differ and have a NaN or Inf."""
        return sum(a.nonfinite_differing for a in self.injections) / max(sum(a.inputs for a in self.injections), 1)

    @property
    def cause(self) -> str:
        """Where nonfinite predictions come to differ, or what is known of the model."""
        places = dict.fromkeys(divergence.operators for divergence in self.divergences if divergence.nodes)
        if places:
            return f"the runs part at {', '.join(places)}"
        known = "MaxPool: ONNX Runtime keeps a NaN only if it is a window's last element, frameworks propagate it"
        return known if self.has_max_pool else "no cause known for this model"

    def check(self) -> None:
        """Raise ControlFailedError if ONNX Runtime and the native run disagree.

        That is: clean scores that differ by more than rounding (near ties would mean nothing then), predictions that differ
        without explanation, or too many nonfinite ones that differ.
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
                f"{self.native}, more than --max-nonfinite {self.max_nonfinite:.2%} ({self.cause})"
            )


def measure_agreement(identifier: str, runtime: tuple[Scores, Scores], native: tuple[Scores, Scores]) -> Agreement:
    """Compare two (golden, faulty) pairs of scores, each (inputs, classes); for the clean run both are golden.

    A near tie is a differing prediction whose margin, on both sides, is no larger than twice the clean score difference,
    scaled by how much larger the faulty scores of that input are than the clean ones.
    """
    (clean, ours), (native_clean, theirs) = runtime, native
    finite = np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1)
    differs = ours.argmax(axis=1) != theirs.argmax(axis=1)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        distance = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        tie = _margin(ours, theirs) <= 2 * _tolerance(clean, native_clean, ours)
        relative = distance / np.abs(ours).max(axis=1, keepdims=True)
    telling = np.flatnonzero(differs & ~(finite & tie))
    return Agreement(
        id=identifier,
        inputs=len(ours),
        difference=float(distance[finite].max(initial=0.0)),
        relative=float(relative[finite].max(initial=0.0)),
        differing=int(np.sum(differs & finite)),
        near_ties=int(np.sum(differs & finite & tie)),
        nonfinite=int(np.sum(~finite)),
        nonfinite_differing=int(np.sum(differs & ~finite)),
        runtime=judge(Golden(clean, None, TopOne()), ours).counts,
        native=judge(Golden(native_clean, None, TopOne()), theirs).counts,
        example=int(telling[0]) if len(telling) else None,
    )


def _margin(ours: Scores, theirs: Scores) -> Scores:
    """Return per input how far each side's winner is ahead of the other's, the larger of the two sides: (inputs,)."""
    rows = np.arange(len(ours))
    a, b = ours.argmax(axis=1), theirs.argmax(axis=1)
    wide = ours.astype(np.float64), theirs.astype(np.float64)
    return np.asarray(np.maximum(wide[0][rows, a] - wide[0][rows, b], wide[1][rows, b] - wide[1][rows, a]))


def _tolerance(clean: Scores, native_clean: Scores, ours: Scores) -> Scores:
    """Return the clean score difference, scaled to each input's faulty scores: (inputs,)."""
    difference = np.abs(clean.astype(np.float64) - native_clean.astype(np.float64)).max()
    scale = np.abs(ours.astype(np.float64)).max(axis=1) / max(float(np.abs(clean).max()), 1e-30)
    return np.asarray(difference * np.maximum(scale, 1.0))


def crosscheck(
    model: Path,
    faults: Path,
    natives: Sequence[Callable[[Model], Native]],
    *,
    run: Path,
    settings: Settings = Settings(),
    injections: int | None = None,
    max_nonfinite: float = 0.01,
    bit_order: BitOrder = "lsb",
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> list[Verdict]:
    """Run injections of ``faults`` as a campaign in ``run``, then natively, and return one verdict for each native run.

    ``natives`` make a `Native` from the loaded model. ``injections`` draws that many with the settings' seed, in the
    list's order; None takes all. Raises what a campaign raises, FaultListError where a native model does not fit the
    file; `Verdict.check` raises where they disagree.
    """
    setup = prepare(model, settings)
    refuse_neurons(read_fault_list(faults), "a crosscheck")
    chosen = _sample(list(read_fault_list(faults)), injections, settings.seed)
    runs = [native(setup.model) for native in natives]
    options = RunOptions(run=run, workers=workers, bit_order=bit_order, save_outputs=True, on_progress=on_progress)
    run_campaign(setup, chosen, options)
    inputs = setup.dataset.batch(0, len(setup.dataset))
    clean = np.load(run / "outputs" / "clean.npy")
    resolved = list(resolve(setup.model, chosen, bit_order))
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
            if on_progress:
                on_progress(Progress(f"native {native.name}", number, len(resolved)))
        whole = measure_agreement("clean", (clean, clean), (native_clean, native_clean))
        verdicts.append(Verdict(native.name, whole, tuple(agreements), max_nonfinite, has_max_pool, tuple(divergences)))
    return verdicts


def _sample(injections: list[Injection], count: int | None, seed: int) -> list[Injection]:
    if count is None or count >= len(injections):
        return injections
    return [injections[i] for i in sorted(random.Random(seed).sample(range(len(injections)), count))]
