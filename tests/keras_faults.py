"""The same weight faults in an exported file and in Keras's own variables: do both decide alike?"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.converters.keras_parameters import parameters_of
from bitswap_onnx.converters.keras_setup import quiet
from bitswap_onnx.converters.native import Native, keras_native
from bitswap_onnx.experiments.crosscheck.agreement import measure_agreement
from bitswap_onnx.experiments.crosscheck.run import Verdict, crosscheck
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import write_fault_list
from bitswap_onnx.graph.model import Model, load_model
from bitswap_onnx.graph.receipts import ResolvedInjection
from bitswap_onnx.graph.resolve import Resolver, apply
from bitswap_onnx.graph.targets import find_targets

Arrays = Sequence[NDArray[Any]]


def drawn_faults(model: Model, count: int, seed: int) -> list[Injection]:
    """Draw flips of float32 parameters: a parameter, one of its elements, one of its bits, each with equal chances."""
    rng, targets = np.random.default_rng(seed), find_targets(model)
    injections = []
    for number in range(count):
        target = targets[rng.integers(len(targets))]
        index = tuple(int(rng.integers(size)) for size in target.shape)
        fault = Fault(target.layer, index, int(rng.integers(32)), parameter=target.parameter)
        injections.append(Injection(str(number), (fault,)))
    return injections


def keras_predict(network: Any, batch: int = 32) -> tuple[Callable[[Arrays], Any], Callable[[ResolvedInjection], None]]:
    """Return ``predict`` of a Keras model, and a function that flips an injection's bits in it; again, it undoes that.

    The flip is numpy's alone, in the parameter that has the name of the tensor.
    """
    parameters = parameters_of(network)

    def predict(inputs: Arrays) -> Any:
        with quiet():
            return network.predict(inputs[0] if len(inputs) == 1 else list(inputs), batch_size=batch, verbose=0)

    def flip(injection: ResolvedInjection) -> None:
        (receipt,) = injection.receipts
        parameter = parameters[receipt.target.tensor]
        values = np.asarray(parameter.value).copy()
        values.reshape(-1).view(np.uint32)[receipt.element] ^= np.uint32(receipt.mask)
        parameter.assign(values)

    return predict, flip


def verdicts(
    path: Path, network: Any, inputs: Arrays, injections: Sequence[Injection], *, with_predict: bool = True
) -> list[Verdict]:
    """Judge the injections in the file ``path`` against ``network``, the Keras model that it was exported from.

    The first verdict is against the model, called directly (as ``crosscheck --native keras`` does), the second, with
    ``with_predict``, against its ``predict``. A file with one input runs as a campaign. Campaigns take no more inputs: any
    other file runs once per fault, with the fault in it, and against ``predict`` alone.
    """
    predict, flip = keras_predict(network)
    if len(inputs) > 1:
        return [_judged_as_files(path, inputs, injections, predict, flip)]

    def faulty(injection: ResolvedInjection, images: NDArray[Any]) -> NDArray[Any]:
        flip(injection)
        scores = np.asarray(predict([images]))
        flip(injection)
        return scores

    natives: list[Callable[[Model], Native]] = [lambda model: keras_native(model, network)]
    if with_predict:
        natives.append(lambda _: Native("keras predict", lambda images: predict([images]), faulty))
    with tempfile.TemporaryDirectory() as folder, quiet():
        np.savez(Path(folder) / "d.npz", x=inputs[0])
        write_fault_list(Path(folder) / "faults.csv", injections)
        return crosscheck(
            path,
            Path(folder) / "faults.csv",
            natives=natives,
            run=Path(folder) / "run",
            settings=Settings(data=Path(folder) / "d.npz"),
            workers=0,
        )


def _judged_as_files(
    path: Path,
    inputs: Arrays,
    injections: Sequence[Injection],
    predict: Callable[[Arrays], Any],
    flip: Callable[[ResolvedInjection], None],
) -> Verdict:
    model = load_model(path)
    resolver = Resolver(model)

    def ours(faulty: Model) -> NDArray[Any]:
        session = ort.InferenceSession(faulty.proto.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        return np.asarray(session.run(None, dict(zip(names, inputs, strict=True)))[0])

    clean = ours(model), np.asarray(predict(inputs))
    agreements = []
    for injection in injections:
        resolved = resolver.resolve(injection)
        flip(resolved)
        theirs = np.asarray(predict(inputs))
        flip(resolved)
        agreements.append(measure_agreement(injection.id, (clean[0], ours(apply(model, resolved))), (clean[1], theirs)))
    whole = measure_agreement("clean", (clean[0], clean[0]), (clean[1], clean[1]))
    return Verdict("keras predict", whole, tuple(agreements), 0.01, has_max_pool=False)
