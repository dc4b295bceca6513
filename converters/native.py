"""Clean and faulty runs in the frameworks themselves, for cross-checks: only the bit edit is code of this package."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.graph.model import Model, load_model
from bitswap_onnx.graph.pairing import TargetPair, pair_targets
from bitswap_onnx.graph.receipts import Receipt, ResolvedInjection
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.graph.weights import rewrite

if TYPE_CHECKING:
    import keras
    import torch

NativeArray = NDArray[Any]
#: Input of one call of a layer, None if it was no tensor, and its output.
LayerCall = tuple[NativeArray | None, NativeArray]
_BATCH = 64


@dataclass(frozen=True)
class Native:
    """Runs of a model in its framework: inputs (n, ...) → scores (n, classes), clean and with an injection applied.

    ``layers``, where the framework can tell: an injection (None: clean) and a few inputs → the scores and, by the path of a
    layer as converters record it, the inputs and outputs of its calls, in the framework's layout.
    """

    name: str
    clean: Callable[[NativeArray], NativeArray]
    faulty: Callable[[ResolvedInjection, NativeArray], NativeArray]
    layers: Callable[[ResolvedInjection | None, NativeArray], tuple[NativeArray, dict[str, list[LayerCall]]]] | None = (
        None
    )


def torch_native(module: "torch.nn.Module") -> Native:
    """Run a PyTorch module at inference; faults flip bits of its parameters and buffers, found by their names in the file.

    Between runs the module has the mode that it had.
    """
    import torch

    from bitswap_onnx.converters.torch_taps import tapped
    from bitswap_onnx.converters.torch_trace import evaluating

    parameters = {name: tensor.detach().numpy() for name, tensor in module.state_dict(keep_vars=True).items()}

    @torch.no_grad()
    def run(inputs: NativeArray) -> NativeArray:
        batches = (
            torch.from_numpy(np.ascontiguousarray(inputs[i : i + _BATCH])) for i in range(0, len(inputs), _BATCH)
        )
        with evaluating(module):
            return np.concatenate([module(batch).numpy() for batch in batches])

    def faulty(injection: ResolvedInjection, inputs: NativeArray) -> NativeArray:
        with _flipped(injection, parameters):
            return run(inputs)

    @torch.no_grad()
    def layers(
        injection: ResolvedInjection | None, inputs: NativeArray
    ) -> tuple[NativeArray, dict[str, list[LayerCall]]]:
        flipped = _flipped(injection, parameters) if injection else nullcontext()
        with flipped, evaluating(module), tapped(module) as taps:
            scores, _ = module(torch.from_numpy(np.ascontiguousarray(inputs)))
        return scores.numpy(), taps.results()

    return Native("torch", run, faulty, layers)


def keras_native(model: Model, network: "keras.Model") -> Native:
    """Run a Keras model; faults set its variables and other parameters, found by their paths in the file.

    The network is called directly, so it computes as it is written. TensorFlow rewrites the graph of Keras's ``predict``:
    there a fused Relu makes 0 of a NaN, and products and sums in another order overflow elsewhere.

    Where ``model`` is no export of ``network`` but, say, of the PyTorch network, parameters are paired by content, and
    images are transposed to the layout that the network takes.
    """
    from bitswap_onnx.converters.keras_parameters import parameters_of
    from bitswap_onnx.converters.keras_taps import tapped_layers

    variables = parameters_of(network)
    is_export = all(target.tensor in variables for target in find_targets(model))
    pairs = {} if is_export else _keras_pairs(model, network)

    def turned(inputs: NativeArray) -> NativeArray:
        differs = inputs.ndim == 4 and inputs.shape[1:] != tuple(network.input_shape[1:])
        return np.moveaxis(inputs, 1, -1) if differs else inputs

    def run(inputs: NativeArray) -> NativeArray:
        batches = (turned(inputs[i : i + _BATCH]) for i in range(0, len(inputs), _BATCH))
        return np.concatenate([np.asarray(network(batch, training=False)) for batch in batches])

    def faulty(injection: ResolvedInjection, inputs: NativeArray) -> NativeArray:
        with changed_to(injection):
            return run(inputs)

    def layers(
        injection: ResolvedInjection | None, inputs: NativeArray
    ) -> tuple[NativeArray, dict[str, list[LayerCall]]]:
        with changed_to(injection) if injection else nullcontext(), tapped_layers(network) as taps:
            taps.enter("", (inputs,))
            scores = np.asarray(network(turned(inputs), training=False))
        return scores, taps.results()

    @contextmanager
    def changed_to(injection: ResolvedInjection) -> Iterator[None]:
        injection = injection if is_export else _moved(injection, pairs)
        clean = {name: np.asarray(variables[name].value).copy() for name in injection.path if name in variables}
        changed = {name: values.copy() for name, values in clean.items()}
        try:
            with _flipped(injection, changed, restore=False):
                for name, values in changed.items():
                    variables[name].assign(values)
            yield
        finally:
            for name, values in clean.items():
                variables[name].assign(values)

    return Native("keras", run, faulty, layers)


def tensorflow_native(model: Model) -> Native:
    """Run an ONNX model, clean or rewritten, in TensorFlow through onnx2tf: slow, but independent of everything else."""
    from bitswap_onnx.converters.onnx_to_tf import onnx_to_tf, run_saved_model

    def run(converted: Model, inputs: NativeArray) -> NativeArray:
        with TemporaryDirectory() as folder:
            onnx_to_tf(converted, Path(folder))
            return run_saved_model(Path(folder), inputs)

    return Native(
        "tf",
        lambda inputs: run(model, inputs),
        lambda injection, inputs: run(rewrite(model, injection.edits.weights), inputs),
    )


def _keras_pairs(model: Model, network: "keras.Model") -> dict[str, TargetPair]:
    from bitswap_onnx.converters.keras_to_onnx import export_keras

    with TemporaryDirectory() as folder:
        export_keras(network, Path(folder) / "keras.onnx")
        return pair_targets(model, load_model(Path(folder) / "keras.onnx")).pairs


def _moved(injection: ResolvedInjection, pairs: Mapping[str, TargetPair]) -> ResolvedInjection:
    """Return the same injection in the paired tensors."""
    missing = [receipt.target.tensor for receipt in injection.receipts if receipt.target.tensor not in pairs]
    if missing:
        raise FaultListError(f"injection {injection.id}: the native model has no parameter equal to {missing[0]}")
    return ResolvedInjection(
        injection.id, tuple(_in_partner(receipt, pairs[receipt.target.tensor]) for receipt in injection.receipts)
    )


def _in_partner(receipt: Receipt, pair: TargetPair) -> Receipt:
    index = tuple(int(i) for i in np.unravel_index(receipt.element, pair.source.shape))
    element = int(np.ravel_multi_index(pair.index(index), pair.partner.shape)) if pair.partner.shape else 0
    return replace(receipt, target=pair.partner, element=element)


@contextmanager
def _flipped(
    injection: ResolvedInjection, parameters: Mapping[str, NativeArray], restore: bool = True
) -> Iterator[None]:
    """XOR an injection's masks into ``parameters``, in place, and undo this at the end.

    Raises FaultListError for parameters that the native model does not have, or that hold other bits than the file.
    """
    for receipt in injection.receipts:
        _check(receipt, parameters)
    _xor(injection, parameters)
    try:
        yield
    finally:
        if restore:
            _xor(injection, parameters)


def _check(receipt: Receipt, parameters: Mapping[str, NativeArray]) -> None:
    name, place = receipt.target.tensor, np.unravel_index(receipt.element, receipt.target.shape)
    values = parameters.get(name)
    if values is None or values.shape != receipt.target.shape:
        raise FaultListError(f"{name}: the native model has no such parameter; use the model that was exported")
    if int(to_bits(values)[place]) != receipt.clean_bits:
        raise FaultListError(f"{name}: the native model has other weights; load the weights that were exported")


def _xor(injection: ResolvedInjection, parameters: Mapping[str, NativeArray]) -> None:
    for receipt in injection.receipts:
        bits = to_bits(parameters[receipt.target.tensor])
        bits[np.unravel_index(receipt.element, receipt.target.shape)] ^= bits.dtype.type(receipt.mask)
