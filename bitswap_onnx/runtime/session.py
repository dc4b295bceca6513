"""Sessions of ONNX Runtime: `Numerics` decide how they round, so that clean and faulty runs differ in the fault alone."""

import os
import platform
import re
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from bitswap_onnx.data.batches import batches
from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.nodes import attribute
from bitswap_onnx.runtime.failures import failure
from bitswap_onnx.runtime.memory import aligned
from bitswap_onnx.runtime.stopwatch import STOPWATCH

Provider = Literal["cpu", "cuda"]

#: Optimisers that fold stored parameters into a kernel, or a residual sum into a convolution. Frameworks compute these
#: separately, and so does fusion ``framework``. The runtime ignores unknown names, so a test checks the optimised graph.
_FOLDING = frozenset(
    ("ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "MatMul_BatchNormalization_Fusion", "ConvAddActivationFusion")
)
#: Removes sums with 0 and products with 1. A fault that makes such a number would change the kernels around it.
_BY_NUMBER = frozenset({"NoopElimination"})
#: Merges equal stored tensors, so that a node that writes into running statistics would change other tensors too.
_MERGING = frozenset({"ConstantSharing"})
_BLOCKED_LAYOUT = frozenset({"NchwcTransformer"})

#: Optimisers that fuse several nodes into one kernel, so that the values between the nodes do not exist, and the one that
#: moves transpositions behind other nodes, which then add in another order. They are off where faults hit neurons.
_JOINING = frozenset(
    (
        *("AttentionFusion", "BiasDropoutFusion", "BiasGeluFusion", "BiasSkipLayerNormFusion", "BiasSoftmaxFusion"),
        *(
            "ConvActivationFusion",
            "DivMulFusion",
            "EmbedLayerNormFusion",
            "FastGeluFusion",
            "GeluFusionL1",
            "GeluFusionL2",
        ),
        *("GemmActivationFusion", "GemmSumFusion", "GemmTransposeFusion", "LayerNormFusionL1", "LayerNormFusionL2"),
        *("MatMulActivationFusion", "MatMulAddFusion", "MatMulScaleFusion", "MatmulTransposeFusion", "Pad_Fusion"),
        *("QuickGeluFusion", "SimplifiedLayerNormFusion", "SkipLayerNormFusion"),
        *("TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider"),
    )
)

ort.set_default_logger_severity(4)  # errors arrive as exceptions

_PROVIDER_NAMES: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

#: One choice of kernel per shape, full float32, no other layout, no fusion of a bias.
_CUDA_OPTIONS = {
    "use_tf32": "0",
    "cudnn_conv_algo_search": "HEURISTIC",
    "prefer_nhwc": "0",
    "fuse_conv_bias": "0",
    "enable_skip_layer_norm_strict_mode": "1",
}


@dataclass(frozen=True)
class Numerics:
    """The settings that decide how the runtime rounds; part of a run's identity.

    ``fusion``: ``framework`` computes batch-norm apart from the convolution, as the frameworks do; ``deployed`` lets the
    runtime fold it when it loads the (faulty) model. ``layout``: ``plain`` or ``blocked`` (NCHWc kernels). ``threads``:
    per session. ``batch_size``: every run has this batch size; the last batch is padded.

    ``quantized``: how quantized operators compute: ``none`` (the model has no such operators), ``exact`` (each as it is
    specified, never fused into an integer kernel that may saturate) or ``runtime`` (as ONNX Runtime chooses).
    ``apart``: every node is computed on its own, as far as the runtime allows, so that faults can hit the value behind it.
    """

    provider: Provider = "cpu"
    fusion: Literal["framework", "deployed"] = "framework"
    layout: Literal["plain", "blocked"] = "plain"
    tf32: Literal["off"] = "off"
    threads: int = 1
    batch_size: int = 32
    quantized: Literal["none", "exact", "runtime"] = "none"
    apart: bool = False

    def as_dict(self) -> dict[str, str | int | bool]:
        """Return the settings as plain data."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Session:
    """A loaded model: one input, one output, one batch size."""

    handle: Any = field(repr=False)
    input: str
    output: str
    batch_size: int
    returns_memory: bool = False

    @property
    def providers(self) -> list[str]:
        """The providers that the runtime has loaded."""
        return list(self.handle.get_providers())

    def run(self, inputs: NDArray[Any], rank: int | None = None) -> NDArray[Any]:
        """Return the output for ``inputs`` (n, ...) as floats of shape (n, values per input), run in batches of one size.

        ``rank``: the number of dimensions that the output must have, None for any. Raises ModelError if the output has
        another number, if it has not one row per input, or if the runtime fails.
        """
        scores = [
            self._run_batch(batch, rank)[:count].reshape(count, -1) for batch, count in batches(inputs, self.batch_size)
        ]
        return np.concatenate(scores)

    def _run_batch(self, batch: NDArray[Any], rank: int | None) -> NDArray[Any]:
        try:
            options = _returning_memory() if self.returns_memory else None
            (output,) = self.handle.run([self.output], {self.input: aligned(batch)}, options)
        except Exception as error:
            raise failure("cannot run the model", error) from None
        shape = getattr(output, "shape", (type(output).__name__,))
        if shape[:1] != batch.shape[:1] or rank not in (None, len(shape)):
            raise ModelError(
                f"output {self.output}: expected {'(batch, classes)' if rank == 2 else 'one row per input'} for a batch "
                f"of {len(batch)}, found shape {shape}; name another `output`, or pass `criterion` tolerance=REL"
            )
        return as_floats(output)


def as_floats(output: NDArray[Any]) -> NDArray[Any]:
    """Return an output as float32 or float64; widening merges no values, except integers beyond 2**53."""
    if output.dtype in (np.float32, np.float64):
        return output
    return output.astype(np.float32 if output.dtype.itemsize <= 2 else np.float64)


def open_session(
    model: Model, numerics: Numerics, output: str, save_optimized: str | None = None, *, returns_memory: bool = False
) -> Session:
    """Load ``model`` with these ``numerics``; ``save_optimized`` names a file for the optimised graph.

    ``returns_memory``: after each batch all memory that no session uses goes back to the system (on the CPU).

    Raises ModelError if the runtime cannot load the model, or if the provider in ``numerics`` did not load (the runtime
    itself would silently run on the CPU).
    """
    handle = load(model, numerics, save_optimized)
    returns_memory = returns_memory and numerics.provider == "cpu"
    return Session(handle, handle.get_inputs()[0].name, output, numerics.batch_size, returns_memory)


@STOPWATCH.span("loading")
def load(model: Model, numerics: Numerics, save_optimized: str | None = None) -> Any:
    """Load a model with any inputs and outputs, as the runtime's own session; errors as `open_session`."""
    options = _options(numerics)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(model.folder))
    if numerics.provider == "cpu":
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    if save_optimized:
        options.optimized_model_filepath = save_optimized
    content = model.proto.SerializeToString()
    try:
        handle = ort.InferenceSession(
            content,
            options,
            providers=_providers(numerics.provider),
            disabled_optimizers=_disabled(numerics, model),
            enable_fallback=0,  # which would print, and try again with other providers
        )
    except Exception as error:
        refused = failure("does not take the model", error)
        if numerics.quantized == "exact":
            refused = ModelError(f"{refused}; with `fusion` deployed it fuses quantized operators, which it may take")
        raise refused from None
    if _PROVIDER_NAMES[numerics.provider] not in handle.get_providers():
        raise ModelError(_provider_missing(numerics.provider))
    return handle


@cache
def _share_arena() -> None:
    """Give all sessions of this process one arena: they run one after the other, so one may use what another has left."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": 1}))  # no more than requested


def _returning_memory() -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def choose_provider(wanted: str) -> Provider:
    """Return ``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``; raises ModelError for ``cuda`` where it cannot load."""
    if wanted == "cpu":
        return "cpu"
    if _cuda_answers():
        return "cuda"
    if wanted == "cuda":
        raise ModelError(_provider_missing("cuda"))
    return "cpu"


def runtime_conflict() -> str | None:
    """Return a message if both packages of the runtime are installed, which overwrite each other's files; else None."""
    installed = {name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)}
    if len(installed) < 2:
        return None
    return (
        "both onnxruntime and onnxruntime-gpu are installed and overwrite each other's files; run "
        "`pip uninstall onnxruntime onnxruntime-gpu` and install one of them again"
    )


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return {"onnxruntime": ort.__version__, "onnx": onnx.__version__, "numpy": np.__version__}


def _options(numerics: Numerics) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = numerics.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if numerics.quantized == "exact":
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _disabled(numerics: Numerics, model: Model) -> list[str]:
    disabled = _FOLDING if numerics.fusion == "framework" else frozenset()
    disabled = disabled | _BY_NUMBER | (_JOINING if numerics.apart else frozenset())
    if any(_overwrites_statistics(node) for node in model.proto.graph.node):
        disabled = disabled | _MERGING
    return sorted(disabled | (_BLOCKED_LAYOUT if numerics.layout == "plain" else frozenset()))


def _overwrites_statistics(node: onnx.NodeProto) -> bool:
    """Whether a node is a batch norm in training mode: it writes into the running mean and variance that it reads."""
    return node.op_type == "BatchNormalization" and bool(attribute(node, "training_mode", 0))


def _providers(provider: Provider) -> list[Any]:
    if provider == "cpu":
        return [_PROVIDER_NAMES["cpu"]]
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    return [(_PROVIDER_NAMES["cuda"], _CUDA_OPTIONS), _PROVIDER_NAMES["cpu"]]


@cache
def _cuda_answers() -> bool:
    """Whether a session gets the CUDA provider; a provider that is listed as available may still fail to load."""
    if _PROVIDER_NAMES["cuda"] not in ort.get_available_providers():
        return False
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "probe", [value("x", 1, [1])], [value("y", 1, [1])])
    probe = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    try:
        handle = ort.InferenceSession(probe.SerializeToString(), _options(Numerics()), providers=_providers("cuda"))
    except Exception:  # the runtime's exceptions share no base class
        return False
    return _PROVIDER_NAMES["cuda"] in handle.get_providers()


def _provider_missing(provider: Provider) -> str:
    conflict = runtime_conflict()
    reason = conflict or "check `nvidia-smi` and install the CUDA libraries with `pip install 'bitswap-onnx[cuda]'`"
    return f"`provider` {provider}: ONNX Runtime could not load {_PROVIDER_NAMES[provider]}; {reason}, or use `provider` cpu"


def machine_name(provider: Provider) -> str:
    """Return the name of the CPU; for another provider, ``PROVIDER on CPU``."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    name = match[1].strip() if match else platform.processor() or platform.machine()
    return name if provider == "cpu" else f"{provider} on {name}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
