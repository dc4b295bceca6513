"""A model and its data, loaded and checked once: ready to run."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.batch_size import LARGEST_BATCH, choose_batch
from bitswap_onnx.campaign.data_warnings import data_warnings
from bitswap_onnx.campaign.inputs import load_inputs
from bitswap_onnx.campaign.live import given_model
from bitswap_onnx.campaign.settings import Settings, for_neurons
from bitswap_onnx.data.dataset import Dataset
from bitswap_onnx.data.synthetic import is_synthetic
from bitswap_onnx.errors import (
    DataError,
    Findings,
    InterruptedRunError,
    amount,
    check_type,
)
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.neurons import instrument
from bitswap_onnx.graph.operators import is_quantized
from bitswap_onnx.graph.signature import ModelInput, OpenInput, ends_in_softmax, open_input, score_output
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.spill import spilled
from bitswap_onnx.outcome import Criterion, Golden, parse_criterion
from bitswap_onnx.runtime.chain_plan import ChainPlan
from bitswap_onnx.runtime.golden import golden_run
from bitswap_onnx.runtime.layout import choose_layout
from bitswap_onnx.runtime.memory import return_free_memory
from bitswap_onnx.runtime.session import Numerics, choose_provider, open_session, runtime_conflict

#: Batches that the golden run takes at a time.
_GOLDEN_BATCHES = 8


@dataclass(frozen=True, eq=False)
class CleanRun:
    """The clean model over all inputs: its scores, the providers that the session loaded, and the seconds per input."""

    golden: Golden
    providers: list[str]
    seconds_per_input: float


@dataclass(eq=False)
class Setup:
    """A model ready to run on a dataset, made by `prepare`. Its fields do not change; results computed from them are kept.

    ``spec``: the model's input. ``output``: name of the scores' value. ``batch_size``: the one of all runs.
    ``batch_notes``: what to say of it, where the model or the data decided. ``shape_notes``: the same of open dimensions.
    ``left_out``: notes on layers that faults cannot hit.
    """

    model: Model
    spec: ModelInput
    output: str
    dataset: Dataset
    criterion: Criterion
    settings: Settings
    batch_size: int
    batch_notes: tuple[str, ...] = ()
    shape_notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    _clean_run: CleanRun | None = field(default=None, init=False, repr=False)

    def __repr__(self) -> str:
        return f"<Setup {self.model.name} on {self.dataset.name}: {self.dataset.source}>"

    @property
    def path(self) -> Path | None:
        """The model's file, None for a model in memory."""
        return self.model.source

    @property
    def seed(self) -> int:
        """The seed of everything that is drawn."""
        return self.settings.seed

    def with_neurons(self) -> "Setup":
        """Return the setup for faults in neurons; raises BitswapError as `for_neurons`."""
        return self if self.settings.neurons else replace(self, settings=for_neurons(self.settings))

    @property
    def numerics(self) -> Numerics:
        """How everything is computed. ``layout`` auto is decided when it is first asked for, by trying it."""
        return self._computes[0]

    @property
    def chain(self) -> ChainPlan | None:
        """The chain of stages that was found where ``layout`` auto was decided, None without one."""
        return self._computes[1]

    @cached_property
    def _computes(self) -> tuple[Numerics, ChainPlan | None]:
        settings = self.settings
        numerics = Numerics(
            provider=choose_provider(settings.provider),
            fusion=settings.fusion,
            layout="blocked" if settings.layout == "blocked" else "plain",
            batch_size=self.batch_size,
            quantized=_quantized(self.model, settings),
            apart=settings.neurons if settings.apart is None else settings.apart,
        )
        if settings.layout == "auto":
            return choose_layout(self.model, numerics, self.output, self.spec)
        return numerics, None

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user: choices that were made automatically, and warnings."""
        settings, numerics = self.settings, self.numerics
        notes = [f"data: {self.dataset.source}", *([f"seed: {self.seed}"] if self.seed else [])]
        notes += [*self.shape_notes, *self.batch_notes]
        is_default = settings.batch_size is None and self.spec.batch is None and not self.batch_notes
        if is_default and self.batch_size < min(LARGEST_BATCH, len(self.dataset)):
            notes.append(f"batches of {self.batch_size} inputs, for the size of the model's values")
        if settings.layout == "auto" and numerics.provider == "cpu":
            notes.append(f"kernels: {numerics.layout} layout")
        notes += _QUANTIZED_NOTES[numerics.quantized]
        if self.dataset.labels is None and self.criterion.needs_classes:
            notes.append("no labels: accuracy is left empty, robustness is measured against the golden predictions")
        if conflict := runtime_conflict():
            notes.append(f"warning: {conflict}")
        return (*notes, *self.left_out)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Signs in the clean run that the data do not belong to the model; nothing is said of noise."""
        if is_synthetic(self.settings.data):
            return ()
        return data_warnings(self.clean_slicer, self.numerics, self.dataset, self.clean_run().golden)

    @cached_property
    def clean_model(self) -> Model:
        """The clean model as it runs. If faults hit neurons, it has the opset of flip nodes, as faulty models have."""
        return instrument(self.model, ()) if self.settings.neurons else self.model

    @cached_property
    def slicer(self) -> Slicer:
        """The model, ready to be cut, in the batch shape that everything runs in."""
        return Slicer(self.model, self.output, self.numerics.batch_size, self.dataset.batch(0, 1).shape[1:])

    @cached_property
    def clean_slicer(self) -> Slicer:
        """`clean_model`, ready to be cut as `slicer` is."""
        return Slicer(self.clean_model, self.output, self.slicer.batch, self.slicer.shape)

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
        if self._clean_run is not None:
            return self._clean_run
        start = time.perf_counter()
        session = open_session(self.clean_model, self.numerics, self.output, returns_memory=True)
        scores = golden_run(self.model, session, self.pieces(stop), classes=self.criterion.needs_classes)
        labels, folders = (self.dataset.labels, self.dataset.classes) if self.criterion.needs_classes else (None, None)
        if folders not in (None, scores.shape[1]):
            raise DataError(
                f"{self.dataset.name}: {amount(folders, 'class folder')} for a model of {scores.shape[1]:,} classes; a "
                "folder's place among all is its class, so expected one for each class (an empty one stands for no image), "
                "or `labels`"
            )
        if labels is not None and labels.max() >= scores.shape[1]:
            wrong = int(np.argmax(labels >= scores.shape[1]))
            from_one = labels.min() == 1 and labels.max() == scores.shape[1]
            raise DataError(
                f"{self.dataset.name}: input {wrong} has label {labels[wrong]}, the model's classes are "
                f"0-{scores.shape[1] - 1}{'; the labels count from 1, store them from 0' if from_one else ''}"
            )
        return_free_memory()
        golden = Golden(scores, labels, self.criterion.fit(scores, ends_in_softmax(self.model, self.output)))
        self._clean_run = CleanRun(golden, session.providers, (time.perf_counter() - start) / len(scores))
        return self._clean_run


def prepare(model: object, settings: Settings = Settings()) -> Setup:
    """Load and check a model and its data; raises the BitswapError that says what does not fit.

    ``model``: the path of an ONNX file, a `Model`, an ``onnx.ModelProto``, or a PyTorch module or Keras model, which is
    exported first (`bitswap_onnx.campaign.live.given_model`).
    """
    check_type("settings", settings, Settings, "such as Settings(batch_size=32)")
    loaded = spilled(given_model(model, settings))
    criterion = parse_criterion(settings.criterion)
    declared, findings = open_input(loaded), Findings()
    with findings.check():
        output = score_output(loaded, settings.output, classes=criterion.needs_classes)
    with findings.check():
        dataset = load_inputs(loaded, declared, settings)
    findings.raise_all()
    spec = declared.settled(dataset.shape)
    spec, batch_size, batch_notes = choose_batch(loaded, settings, output, spec, dataset)
    notes = _shape_notes(declared, spec, settings)
    return Setup(loaded, spec, output, dataset, criterion, settings, batch_size, batch_notes, notes)


def _shape_notes(declared: OpenInput, spec: ModelInput, settings: Settings) -> tuple[str, ...]:
    if settings.input_shape is not None or None not in declared.dims:
        return ()
    return (f"input shape {','.join(map(str, spec.shape))}: from the data, the model leaves it open",)


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
