"""Models that only move elements, with bit patterns of every format, and plain sessions to run them."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from bitswap_onnx.faults.bits import BitFormat
from bitswap_onnx.graph.model import Model, from_proto
from bitswap_onnx.graph.sites import NeuronSite, find_sites
from bitswap_onnx.graph.slices import Slicer
from tests.builders import build

ROWS = 3

#: Bit patterns of floats: zeros, subnormals, one, largest, Inf, quiet and signalling NaN, the last with payloads.
FLOATS = {
    "float16": (0, 0x8000, 1, 0x83FF, 0x3C00, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFDAB, 0x7FFF, 0x4D55),
    "bfloat16": (0, 0x8000, 1, 0x807F, 0x3F80, 0x7F7F, 0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFAB, 0x7FFF, 0x4D55),
    "float32": (
        *(0, 0x80000000, 1, 0x807FFFFF, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000),
        *(0x7FC00000, 0x7F800001, 0xFFA12345, 0x7FFFFFFF, 0x4D55AA55),
    ),
    "float64": (
        *(0, 1 << 63, 1, 0x800FFFFFFFFFFFFF, 0x3FF0000000000000, 0x7FEFFFFFFFFFFFFF, 0x7FF << 52, 0xFFF << 52),
        *(0x7FF8000000000000, 0x7FF0000000000001, 0xFFF4123456789ABC, 0x7FFFFFFFFFFFFFFF, 0x4D55AA5533CC0F69),
    ),
}
ONNX_NAMES = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}

#: Keys of the sites of `moving` at which faults are tried.
PLACES = ("@output:x", "@input:a", "@output:a", "@output:y")


def patterns(fmt: BitFormat) -> NDArray[Any]:
    """One row of bit patterns: special numbers of a float; limits and a mixed pattern of an integer."""
    top = 1 << (fmt.width - 1)
    integers = (0, 1, 2, top - 1, top, top + 1, 2 * top - 2, 2 * top - 1, 0x5A5AA5A5C3C33C3C % (2 * top))
    return np.array(FLOATS.get(fmt.name, integers), fmt.view)


def moving(fmt: BitFormat, columns: int) -> Model:
    """A model that only moves elements: its output has the bits of its input, whatever they are."""
    name = ONNX_NAMES.get(fmt.name, fmt.name)
    io_name = fmt.view.name if fmt.name == "bfloat16" else name  # arrays that go in and out cannot be bfloat16
    ends = ("t", "b") if io_name != name else ("x", "y")
    casts = f"t = BitCast <to = 16> (x)\n y = BitCast <to = 4> ({ends[1]})" if io_name != name else ""
    start, _, end = casts.partition("\n")
    text = f"""net ({io_name}[N, {columns}] x) => ({io_name}[N, {columns}] y) {{
        {start}
        a = Unsqueeze ({ends[0]}, one)
        {ends[1]} = Squeeze (a, one)
        {end}
    }}"""
    return from_proto(build(text, 26, 13, one=np.array([1])))


def site_of(model: Model, key: str, shape: tuple[int, ...], batch: int = ROWS) -> NeuronSite:
    sites = find_sites(Slicer(model, model.proto.graph.output[0].name, batch, shape))
    return next(site for site in sites if site.key == key)


def session(model: Model) -> Any:
    """The model in plain ONNX Runtime, checked as a file."""
    onnx.checker.check_model(model.proto, full_check=True)
    return ort.InferenceSession(model.proto.SerializeToString(), providers=["CPUExecutionProvider"])


def run(handle: Any, x: NDArray[Any], **fed: NDArray[Any]) -> NDArray[Any]:
    (scores,) = handle.run(None, {"x": x, **fed})
    return np.asarray(scores)
