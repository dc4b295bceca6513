"""How long a million faults take, and how much memory: ``python -m tests.benchmarks.sampling_speed [FOLDER]``.

The model has 1.07e9 float32 weights in external data that is a file with holes: 4.3 GB long, no space on disk. Each scheme
runs in a process of its own, whose peak memory is its own; data-aware also reads every weight.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx

from bitswap_onnx.graph.model import load_model
from bitswap_onnx.sampling.generate import generate_faults
from bitswap_onnx.sampling.request import SamplingRequest

WIDTH, LAYERS = 8192, 16
FAULTS = 1_000_000

#: Margins at which a scheme draws about a million faults.
REQUESTS = {
    "network": SamplingRequest("network", margin=0.00129),
    "layer": SamplingRequest("layer", margin=0.00515),
    "bit-layer": SamplingRequest("bit-layer", margin=0.0292),
    "per-target": SamplingRequest("per-target", number=FAULTS // LAYERS),
    "pairs": SamplingRequest("per-target", number=FAULTS // LAYERS // 2, multiplicity=2),
    "data-aware": SamplingRequest("data-aware", margin=0.0055),
}


def sparse_model(folder: Path) -> Path:
    """Return a chain of matrix products whose weights are the holes of one file."""
    value, size = onnx.helper.make_tensor_value_info, 4 * WIDTH * WIDTH
    nodes, tensors = [], []
    with (folder / "holes.data").open("wb") as file:
        file.truncate(LAYERS * size)
    for layer in range(LAYERS):
        tensor = onnx.TensorProto(name=f"fc{layer}.weight", data_type=onnx.TensorProto.FLOAT, dims=(WIDTH, WIDTH))
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, entry in (("location", "holes.data"), ("offset", layer * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(entry))
        tensors.append(tensor)
        nodes.append(onnx.helper.make_node("MatMul", [f"h{layer}", tensor.name], [f"h{layer + 1}"], f"fc{layer}"))
    ends = [value(name, onnx.TensorProto.FLOAT, ["N", WIDTH]) for name in ("h0", f"h{LAYERS}")]
    graph = onnx.helper.make_graph(nodes, "holes", ends[:1], ends[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (folder / "holes.onnx").write_bytes(model.SerializeToString())
    return folder / "holes.onnx"


def measure(path: Path, name: str) -> None:
    """Draw one list and print what it took; loading includes the hash of all weights."""
    start = time.perf_counter()
    model = load_model(path)
    loaded, busy = time.perf_counter(), time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    design = generate_faults(model, REQUESTS[name], path.with_name(f"{name}.csv"))
    seconds, busy = time.perf_counter() - loaded, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    faults = design.size * design.request.multiplicity
    print(
        f"{name}: {faults:,} faults in {len(design.strata)} strata of {design.population:.3g}: {seconds:.1f} s "
        f"({busy:.1f} s of CPU, {1e6 * busy / faults:.1f} us each) after {loaded - start:.1f} s of loading; "
        f"peak {peak / 1e3:.0f} MB, {(peak - before) / 1e3:.0f} MB more than before"
    )


def main() -> None:
    if len(sys.argv) == 3:
        measure(Path(sys.argv[1]), sys.argv[2])
        return
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        path = sparse_model(Path(name))
        for request in REQUESTS:
            subprocess.run([sys.executable, "-m", "tests.benchmarks.sampling_speed", str(path), request], check=True)


if __name__ == "__main__":
    main()
