"""Slow proofs of size: a model over 2 GB, a list of a million rows.

``python tests/benchmarks/large_models_and_lists.py [FOLDER]`` builds a model with 2.4 GB of external weights and rewrites
and runs it, then reads a list of 1,000,000 rows; it prints times, peak memory, and fails if a bit is wrong.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.model import load_model, save_model
from bitswap_onnx.graph.resolve import Resolver
from bitswap_onnx.graph.weights import rewrite
from bitswap_onnx.runtime.session import Numerics, open_session

WIDTH, LAYERS = 8192, 9


def peak() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB peak"


def large_model(folder: Path) -> Path:
    """A chain of 9 identity matrices of 8192 × 8192, 2.4 GB in one external file; the last one has 8 columns."""
    value = onnx.helper.make_tensor_value_info
    nodes, tensors, offset = [], [], 0
    with (folder / "large.data").open("wb") as file:
        for layer in range(LAYERS + 1):
            matrix = np.eye(WIDTH, WIDTH if layer < LAYERS else 8, dtype=np.float32)
            matrix.tofile(file)
            tensor = onnx.TensorProto(name=f"fc{layer}.weight", data_type=1, dims=matrix.shape)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, entry in (("location", "large.data"), ("offset", offset), ("length", matrix.nbytes)):
                tensor.external_data.add(key=key, value=str(entry))
            offset += matrix.nbytes
            tensors.append(tensor)
            nodes.append(onnx.helper.make_node("MatMul", [f"h{layer}", tensor.name], [f"h{layer + 1}"], f"fc{layer}"))
    graph = onnx.helper.make_graph(
        nodes, "large", [value("h0", 1, ["N", WIDTH])], [value(f"h{LAYERS + 1}", 1, ["N", 8])], tensors
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (folder / "large.onnx").write_bytes(model.SerializeToString())
    print(f"built {offset / 1e9:.2f} GB of external weights")
    return folder / "large.onnx"


def prove_large_model(folder: Path) -> None:
    path = large_model(folder)
    start = time.perf_counter()
    model = load_model(path)
    injection = Injection("a", (Fault("fc4", (3, 3), None, Kind.SET, "5"),))
    faulty = rewrite(model, Resolver(model).resolve(injection).edits.weights)
    save_model(faulty, folder / "faulty.onnx")
    x = np.ones((2, WIDTH), np.float32)
    scores = open_session(load_model(folder / "faulty.onnx"), Numerics(batch_size=2), f"h{LAYERS + 1}").run(x)
    assert scores.tolist() == [[1, 1, 1, 5, 1, 1, 1, 1]] * 2, scores
    print(f"loaded, rewritten, saved, loaded again, run: {time.perf_counter() - start:.0f} s, {peak()}")
    np.savez(folder / "x.npz", x=x)
    start = time.perf_counter()
    settings = Settings(data=folder / "x.npz", batch_size=2)
    finished = run_campaign(prepare(path, settings), [injection], options=RunOptions(run=folder / "run", workers=1))
    assert finished.summary.totals["critical"] == 2
    print(f"campaign of one injection: {time.perf_counter() - start:.0f} s, {peak()}")


def prove_long_list(folder: Path) -> None:
    path = folder / "million.csv"
    with path.open("w") as file:
        file.write("Injection,Layer,TensorIndex,Bit\n")
        file.writelines(f'{i},layer1.0.conv1,"({i % 16}, {i % 15}, 2, 1)",{i % 32}\n' for i in range(1_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    count = sum(1 for _ in read_fault_list(path))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    assert count == 1_000_000
    print(f"1,000,000 rows read in {time.perf_counter() - start:.1f} s, peak memory grew by {grown:.0f} MB")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        prove_long_list(Path(name))
        prove_large_model(Path(name))


if __name__ == "__main__":
    main()
