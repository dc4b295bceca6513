"""What a user says about running a model → what runs: resolved once, checked once, frozen."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.dataset import Dataset, load_dataset, synthetic_dataset
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.errors import BitswapError, DataError, InterruptedRunError, ModelError
from bitswap_onnx.graph.model import Model, load_model
from bitswap_onnx.graph.neurons import instrument
from bitswap_onnx.graph.operators import is_quantized
from bitswap_onnx.graph.rows import refuse_random
from bitswap_onnx.graph.signature import ModelInput, ends_in_softmax, model_input, score_output
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.outcome import Criterion, Golden, parse_criterion
from bitswap_onnx.runtime.golden import golden_run
from bitswap_onnx.runtime.layout import choose_layout
from bitswap_onnx.runtime.measure import why_one_at_a_time
from bitswap_onnx.runtime.session import Numerics, choose_provider, open_session, runtime_conflict

DEFAULT_BATCH_SIZE = 32
SYNTHETIC_INPUTS = 128
_GOLDEN_BATCHES = 8

#: A seed that is drawn, and said.
FROM_CLOCK = -1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run a model, as the command line's shared options say it; see ``bitswap-onnx inject --help``.

    ``data`` None: the ``.npz`` beside the model, else seeded standard-normal inputs. ``input_shape``, without the batch,
    settles open dimensions. ``criterion`` is ``top-1`` or ``tolerance=REL``. A ``seed`` of `FROM_CLOCK` becomes one.
    ``neurons``: the model runs at the opset of flip nodes, each node on its own (`for_neurons`).
    ``apart``: as in `Numerics`; None: where faults hit neurons.
    """

    data: Path | None = None
    labels: Path | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    limit: int | None = None
    first: int | None = None
    seed: int = 0
    input_shape: tuple[int, ...] | None = None
    output: str | None = None
    criterion: str | None = None
    provider: Literal["auto", "cpu", "cuda"] = "cpu"
    fusion: Literal["framework", "deployed"] = "framework"
    layout: Literal["auto", "plain", "blocked"] = "auto"
    batch_size: int | None = None
    neurons: bool = False
    apart: bool | None = None
    from_clock: bool = False

    def __post_init__(self) -> None:
        if self.seed == FROM_CLOCK:
            object.__setattr__(self, "seed", time.time_ns() % (1 << 32))
            object.__setattr__(self, "from_clock", True)


def for_neurons(settings: Settings) -> Settings:
    """Return the settings with the only numerics in which a flip node leaves all other bits alone.

    Raises BitswapError for a layout or a fusion that was asked for and does not: blocked kernels and folded batch-norm
    depend on what surrounds a node.
    """
    asked = {"--layout": (settings.layout, "blocked"), "--fusion": (settings.fusion, "deployed")}
    for option, (value, wrong) in asked.items():
        if value == wrong:
            raise BitswapError(
                f"{option} {wrong}: neuron faults need --layout plain and --fusion framework; leave it out"
            )
    return replace(settings, layout="plain", neurons=True)


@dataclass(frozen=True, eq=False)
class CleanRun:
    """The clean model over all inputs: its scores, the providers that really ran, and how long one input took."""

    golden: Golden
    providers: list[str]
    seconds_per_input: float


@dataclass(frozen=True, eq=False)
class Setup:
    """A model ready to run on a dataset. ``notes`` say what was decided where the user said nothing.

    ``seed``: of what is drawn beside the data. ``neurons``: whether it runs at the opset of flip nodes.
    """

    path: Path
    model: Model
    output: str
    numerics: Numerics
    dataset: Dataset
    tolerance: float | None
    seed: int
    notes: tuple[str, ...]
    neurons: bool = False
    _clean: list[CleanRun] = field(default_factory=list, repr=False)

    @cached_property
    def running(self) -> Model:
        """The model that runs without a fault: for neurons at the opset of flip nodes, as the faulty ones."""
        return instrument(self.model, ()) if self.neurons else self.model

    @cached_property
    def slicer(self) -> Slicer:
        """The model, ready to be cut, in the batch shape that everything runs in."""
        return Slicer(self.model, self.output, self.numerics.batch_size, self.dataset.batch(0, 1).shape[1:])

    @cached_property
    def running_slicer(self) -> Slicer:
        """`running`, ready to be cut as `slicer` is."""
        return Slicer(self.running, self.output, self.slicer.batch, self.slicer.shape)

    def pieces(self, stop: threading.Event | None = None) -> Iterator[NDArray[Any]]:
        """Yield all inputs, in order and in whole batches; raises InterruptedRunError once ``stop`` is set."""
        size = self.numerics.batch_size * _GOLDEN_BATCHES
        for first in range(0, len(self.dataset), size):
            if stop is not None and stop.is_set():
                raise InterruptedRunError("stopped during the clean run; nothing was lost")
            yield self.dataset.batch(first, min(first + size, len(self.dataset)))

    def clean_run(self, stop: threading.Event | None = None) -> CleanRun:
        """Run the clean model over all inputs, once: what it gave is kept.

        Raises ModelError and DataError as `bitswap_onnx.runtime.golden.golden_run`, DataError for a label that is no
        class, InterruptedRunError if ``stop`` is set before it is done.
        """
        if self._clean:
            return self._clean[0]
        start = time.perf_counter()
        session = open_session(self.running, self.numerics, self.output)
        scores = golden_run(self.model, session, self.pieces(stop), classes=self.tolerance is None)
        labels = self.dataset.labels if self.tolerance is None else None
        if labels is not None and labels.max() >= scores.shape[1]:
            wrong = int(np.argmax(labels >= scores.shape[1]))
            raise DataError(
                f"{self.dataset.name}: input {wrong} has label {labels[wrong]}, "
                f"the model's classes are 0-{scores.shape[1] - 1}"
            )
        span = float(np.ptp(scores.astype(np.float64))) if self.tolerance is not None else 1.0
        criterion = Criterion(self.tolerance, span, ends_in_softmax(self.model, self.output))
        golden = Golden(scores, labels, criterion)
        self._clean.append(CleanRun(golden, session.providers, (time.perf_counter() - start) / len(scores)))
        return self._clean[0]


def prepare(path: Path, settings: Settings) -> Setup:
    """Load and check a model and its data; raises the BitswapError that says what does not fit."""
    model = load_model(path)
    tolerance = parse_criterion(settings.criterion)
    spec = model_input(model, settings.input_shape)
    output = score_output(model, settings.output, classes=tolerance is None)
    dataset = _dataset(path, spec, settings)
    batch_size, mixing_notes = _batch_size(model, settings, output, spec, dataset)
    numerics = _numerics(model, settings, output, spec, batch_size)
    notes = [f"data: {dataset.source}", *([f"seed: {settings.seed}"] if settings.seed else []), *mixing_notes]
    if settings.layout == "auto" and numerics.provider == "cpu":
        notes.append(f"kernels: {numerics.layout} layout")
    notes += _QUANTIZED_NOTES[numerics.quantized]
    if dataset.labels is None and tolerance is None:
        notes.append("no labels: accuracy is left empty, robustness is measured against the golden predictions")
    if conflict := runtime_conflict():
        notes.append(f"warning: {conflict}")
    return Setup(path, model, output, numerics, dataset, tolerance, settings.seed, tuple(notes), settings.neurons)


def _batch_size(
    model: Model, settings: Settings, output: str, spec: ModelInput, dataset: Dataset
) -> tuple[int, list[str]]:
    """Return the one batch size of all runs, 1 where inputs of a batch see each other, and what to say of it.

    Raises ModelError for a model whose inputs see each other in batches of a fixed size, or that draws at random.
    """
    batch_size = settings.batch_size or spec.batch or DEFAULT_BATCH_SIZE
    if batch_size < 1:
        raise BitswapError(f"--batch-size: expected a positive number, found {batch_size}")
    if spec.batch not in (None, batch_size):
        raise BitswapError(
            f"--batch-size {batch_size}: the model's batch dimension is fixed at {spec.batch}; leave it out"
        )
    refuse_random(Slicer(model, output, batch_size, spec.shape))
    if batch_size == 1:
        return 1, []
    why = why_one_at_a_time(
        model, output, dataset.batch(0, min(len(dataset), 3)), spec.batch, choose_provider(settings.provider)
    )
    if why is None:
        return batch_size, []
    if spec.batch is not None:
        raise ModelError(
            f"{model.name}: inputs have to run one at a time ({why}), and its batch is fixed at {spec.batch}; export it "
            "again with an open batch or one of 1"
        )
    return 1, [f"inputs run one at a time: {why}"]


def _numerics(model: Model, settings: Settings, output: str, spec: ModelInput, batch_size: int) -> Numerics:
    numerics = Numerics(
        provider=choose_provider(settings.provider),
        fusion=settings.fusion,
        layout="blocked" if settings.layout == "blocked" else "plain",
        batch_size=batch_size,
        quantized=_quantized(model, settings),
        apart=settings.neurons if settings.apart is None else settings.apart,
    )
    return choose_layout(model, numerics, output, spec) if settings.layout == "auto" else numerics


def _quantized(model: Model, settings: Settings) -> Literal["none", "exact", "runtime"]:
    """Return how a model's operators of quantized numbers compute."""
    if not any(is_quantized(node.op_type) for node in model.proto.graph.node):
        return "none"
    return "exact" if settings.fusion == "framework" else "runtime"


_QUANTIZED_NOTES = {
    "none": [],
    "exact": ["quantized operators: each as it is specified, none fused"],
    "runtime": [
        "quantized operators: fused as ONNX Runtime chooses; some of its integer kernels saturate on processors without "
        "VNNI, so that clean scores depend on the processor"
    ],
}


def _dataset(path: Path, spec: ModelInput, settings: Settings) -> Dataset:
    beside = path.with_suffix(".npz")
    data = settings.data or (beside if beside.is_file() else None)
    if data is None:
        _refuse_data_options(settings)
        count = settings.first or settings.limit or SYNTHETIC_INPUTS
        return synthetic_dataset(spec.shape, spec.dtype, count, settings.seed)
    return load_dataset(
        data,
        input_shape=spec.shape,
        dtype=spec.dtype,
        preprocessing=settings.preprocessing,
        labels=settings.labels,
        limit=settings.limit,
        first=settings.first,
        seed=settings.seed,
    )


def _refuse_data_options(settings: Settings) -> None:
    """Say that an option for data has none to work on, rather than ignore it."""
    given = [f"--{name.replace('_', '-')}" for name, value in vars(settings.preprocessing).items() if value is not None]
    given += ["--labels"] if settings.labels else []
    if given:
        raise DataError(f"{', '.join(given)}: there is no data to apply it to; name some with --data")
    if settings.limit and settings.first:
        raise DataError(f"--limit {settings.limit} and --first {settings.first}: give one of them")
