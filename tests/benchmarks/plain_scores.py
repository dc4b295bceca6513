"""Clean scores from ONNX Runtime alone: no other numerics than a provider, and TF32 on or off.

``python -m tests.benchmarks.plain_scores MODEL INPUTS.npy SCORES.npy --provider cuda --tf32 1`` runs batches of one size,
the last one padded, and prints as JSON the providers that loaded and how many nodes ran on each. A process of its own
can choose TF32: NVIDIA's libraries read ``NVIDIA_TF32_OVERRIDE`` when they load.
"""

import argparse
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Array = NDArray[Any]

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}

#: As the project's CUDA sessions have it: full float32 is not what differs then.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "0", "fuse_conv_bias": "0"}


def open_model(model: Path, provider: str, tf32: str, profiles: str) -> Any:
    """Return a session that writes a profile into the folder ``profiles``; ``tf32``: 0 or 1."""
    os.environ.pop("NVIDIA_TF32_OVERRIDE", None)
    if tf32 == "0":
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(profiles, "profile"))
    cpu, gpu = PROVIDERS["cpu"], (PROVIDERS["cuda"], {"use_tf32": tf32, **CUDA_OPTIONS})
    return ort.InferenceSession(str(model), options, providers=[gpu, cpu] if provider == "cuda" else [cpu])


def run(session: Any, inputs: Array, batch: int) -> Array:
    """Return the first output for all inputs."""
    name, parts = session.get_inputs()[0].name, []
    for first in range(0, len(inputs), batch):
        rows = inputs[first : first + batch]
        full = np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows), axis=0)])
        parts.append(session.run(None, {name: full})[0][: len(rows)])
    return np.concatenate(parts)


def nodes_by_provider(profile: str, batches: int) -> dict[str, int]:
    """Return how many nodes of a batch ran on each provider."""
    events = json.loads(Path(profile).read_text())
    ran = Counter(event["args"]["provider"] for event in events if event.get("args", {}).get("provider"))
    return {provider: count // batches for provider, count in ran.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--provider", choices=["cuda", "cpu"], default="cpu")
    parser.add_argument("--tf32", choices=["0", "1"], default="0")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    inputs = np.load(options.inputs)
    with tempfile.TemporaryDirectory() as folder:
        session = open_model(options.model, options.provider, options.tf32, folder)
        np.save(options.scores, run(session, inputs, options.batch))
        nodes = nodes_by_provider(session.end_profiling(), -(-len(inputs) // options.batch))
    print(json.dumps({"loaded": session.get_providers(), "nodes": nodes}))


if __name__ == "__main__":
    main()
