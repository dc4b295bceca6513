"""Padding, pooling and strided slices: where ONNX and Keras differ, and which layers give ONNX's result exactly.

Keras pads by ``valid`` or by TensorFlow's ``same``; for strides above 1, ``same`` depends on the input and puts the odd
pixel last. ONNX gives every padding in pixels. So a layer has ``same`` only at stride 1 and where it adds the same pixels;
elsewhere a layer of zeros comes before ``valid``. A maximum takes these zeros only where no input can be negative, because
ONNX pads with -∞ there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from bitswap_onnx.converters.keras_builder import Builder, sizes

#: An end of a slice from this number on means the end of the axis.
_WHOLE = 2**31 - 1


@dataclass(frozen=True)
class Window:
    """A window over height and width: each field holds two sizes, ``pads`` two pairs (before, after)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    extended: bool = False  # whether rounding the output size up added to ``pads``

    @property
    def padded(self) -> bool:
        """Whether there is any padding."""
        return any(map(any, self.pads))

    @property
    def centred(self) -> bool:
        """Whether the padding equals that of ``same`` at stride 1."""
        spans = [dilation * (kernel - 1) for kernel, dilation in zip(self.kernel, self.dilations, strict=True)]
        return all(pads == (span // 2, span - span // 2) for pads, span in zip(self.pads, spans, strict=True))

    @property
    def dense(self) -> bool:
        """Whether the window stops at every pixel."""
        return set(self.strides) == {1}


def read_window(builder: Builder, node: ir.Node, tensor: Any, kernel: Sequence[int]) -> Window:
    """Return the window of a node; raises ModelError for tensors that are no images."""
    if len(tensor.shape) != 4 or len(kernel) != 2:
        raise builder.error(node, f"expected images (batch, channels, height, width), found rank {len(tensor.shape)}")
    attributes = node.attributes
    strides = tuple(attributes.get_ints("strides", [1, 1]))
    dilations = tuple(attributes.get_ints("dilations", [1, 1]))
    window = Window(tuple(kernel), strides, dilations, ((0, 0), (0, 0)))
    auto = attributes.get_string("auto_pad", "NOTSET")
    if auto == "NOTSET":
        pads = tuple(attributes.get_ints("pads", [0, 0, 0, 0]))
        return _with(window, [(pads[0], pads[2]), (pads[1], pads[3])])
    if auto == "VALID":
        return window
    totals = []
    for size, axis in zip(_static(builder, node, tensor), (0, 1), strict=True):
        steps = -(-size // strides[axis]) - 1
        totals.append(max(0, steps * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1 - size))
    late = auto == "SAME_LOWER"
    return _with(
        window, [(total - total // 2, total // 2) if late else (total // 2, total - total // 2) for total in totals]
    )


def _with(window: Window, pads: Sequence[tuple[int, int]], extended: bool = False) -> Window:
    return Window(window.kernel, window.strides, window.dilations, tuple(pads), extended)


def _static(builder: Builder, node: ir.Node, tensor: Any) -> tuple[int, int]:
    _, height, width = sizes(tensor)
    if height is None or width is None:
        raise builder.error(node, "needs an input of known height and width")
    return height, width


def convolved(builder: Builder, node: ir.Node, tensor: Any, window: Window) -> tuple[Any, str]:
    """Return (tensor, ``padding`` of the Keras layer), with zeros added to the tensor where Keras has no such padding."""
    if not window.padded:
        return tensor, "valid"
    if window.dense and window.centred:
        return tensor, "same"
    return zeros_around(builder, node, tensor, window.pads), "valid"


def zeros_around(builder: Builder, node: ir.Node, tensor: Any, pads: Sequence[tuple[int, int]]) -> Any:
    """Pad height and width with zeros."""
    if min(map(min, pads)) < 0:
        raise builder.error(node, f"negative padding {pads} has no counterpart")
    return builder.add("ZeroPadding2D", tensor, padding=tuple(pads))


def max_pool(builder: Builder, node: ir.Node) -> Any:
    """MaxPool: (batch, channels, height, width) → the maxima of its windows."""
    tensor = builder.tensor(node, 0)
    window = _pooling_window(builder, node, tensor)
    value = node.inputs[0]
    assert value is not None
    if not window.padded:
        return _pool(builder, "MaxPooling2D", tensor, window, "valid")
    if window.centred and window.dense:
        return _pool(builder, "MaxPooling2D", tensor, window, "same")
    if value.name in builder.nonnegative:
        return _pool(builder, "MaxPooling2D", zeros_around(builder, node, tensor, window.pads), window, "valid")
    if _symmetric(window):
        return _pooled_then_thinned(builder, "MaxPooling2D", tensor, window)
    raise builder.error(node, f"no exact counterpart for padding {window.pads} of values that may be negative")


def average_pool(builder: Builder, node: ir.Node) -> Any:
    """AveragePool: (batch, channels, height, width) → the means of its windows."""
    tensor = builder.tensor(node, 0)
    window = _pooling_window(builder, node, tensor)
    if window.extended:
        raise builder.error(node, "ceil_mode with a window that leaves the image has no exact counterpart")
    if not window.padded:
        return _pool(builder, "AveragePooling2D", tensor, window, "valid")
    if node.attributes.get_int("count_include_pad", 0):
        return _pool(builder, "AveragePooling2D", zeros_around(builder, node, tensor, window.pads), window, "valid")
    if _symmetric(window):
        return _pooled_then_thinned(builder, "AveragePooling2D", tensor, window)
    raise builder.error(node, f"no exact counterpart for padding {window.pads} that is not counted")


def _symmetric(window: Window) -> bool:
    return window.centred and all(before == after for before, after in window.pads)


def _pool(builder: Builder, kind: str, tensor: Any, window: Window, padding: str) -> Any:
    return builder.add(kind, tensor, pool_size=window.kernel, strides=window.strides, padding=padding)


def _pooled_then_thinned(builder: Builder, kind: str, tensor: Any, window: Window) -> Any:
    """Pool around every pixel, then keep one window per stride."""
    tensor = builder.add(kind, tensor, pool_size=window.kernel, strides=(1, 1), padding="same")
    return thinned(builder, tensor, window.strides)


def thinned(builder: Builder, tensor: Any, strides: Sequence[int]) -> Any:
    """Keep every ``strides``-th pixel, from the first.

    The mean of one pixel is that pixel, even NaN or -∞; TensorFlow's maximum of one pixel turns these into -3.4e38.
    """
    if set(strides) == {1}:
        return tensor
    return builder.add("AveragePooling2D", tensor, pool_size=(1, 1), strides=tuple(strides), padding="valid")


def _pooling_window(builder: Builder, node: ir.Node, tensor: Any) -> Window:
    """Return the window of a pooling node; with ``ceil_mode`` the padding extends to the end of the last window."""
    window = read_window(builder, node, tensor, node.attributes.get_ints("kernel_shape", []))
    if set(window.dilations) != {1}:
        raise builder.error(node, f"dilated windows {window.dilations} have no counterpart")
    if any(output.uses() for output in node.outputs[1:]):
        raise builder.error(node, "the positions of maxima have no counterpart")
    if not node.attributes.get_int("ceil_mode", 0):
        return window
    pads = []
    for axis, size in enumerate(_static(builder, node, tensor)):
        before, after = window.pads[axis]
        stride, room = window.strides[axis], size + before + after - window.kernel[axis]
        windows = -(-room // stride) + 1
        if (windows - 1) * stride >= size + before:  # a window that starts behind the image is none
            windows -= 1
        pads.append((before, after + max(0, (windows - 1) * stride - room)))
    return _with(window, pads, extended=tuple(pads) != window.pads)


def sliced(builder: Builder, node: ir.Node) -> Any:
    """Slice with positive steps of height, width and channels: crop, then keep every step-th pixel."""
    tensor = builder.tensor(node, 0)
    if len(tensor.shape) != 4:
        raise builder.error(node, f"only images can be sliced, found rank {len(tensor.shape)}")
    starts, ends = builder.integers(node, "starts", 1) or [], builder.integers(node, "ends", 2) or []
    axes = builder.integers(node, "axes", 3) or list(range(len(starts)))
    steps = builder.integers(node, "steps", 4) or [1] * len(starts)
    crops, strides = [(0, 0)] * 3, [1, 1, 1]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis % 4 - 1
        if (start, step) == (0, 1) and end >= _WHOLE:
            continue
        size = sizes(tensor)[axis] if axis >= 0 else None
        pixels = range(size)[start:end:step] if size is not None and step > 0 else range(0)
        if not pixels or size is None:
            raise builder.error(node, f"slicing axis {axis + 1} from {start} to {end} by {step} has no counterpart")
        left_over = size - 1 - pixels[-1]
        crops[axis], strides[axis] = (pixels[0], left_over if left_over >= step else 0), step
    if strides[0] != 1:
        raise builder.error(node, "every n-th channel has no counterpart")
    if any(map(any, crops[1:])):
        tensor = builder.add("Cropping2D", tensor, cropping=tuple(crops[1:]))
    if any(crops[0]):  # seen as channels first, Keras's channels lie where it keeps the width
        tensor = builder.add("Cropping2D", tensor, cropping=((0, 0), crops[0]), data_format="channels_first")
    return thinned(builder, tensor, strides[1:])


def pad(builder: Builder, node: ir.Node) -> Any:
    """Pad with zeros, in height, width and channels."""
    tensor = builder.tensor(node, 0)
    pads = builder.integers(node, "pads", 1) or []
    fill = builder.constant(node, 2)
    axes = builder.integers(node, "axes", 3) or list(range(len(tensor.shape)))
    zero = (0.0 if fill is None else fill.scalar) == 0 and node.attributes.get_float("value", 0.0) == 0
    if node.attributes.get_string("mode", "constant") != "constant" or not zero or len(tensor.shape) != 4:
        raise builder.error(node, "only zeros around images have a counterpart")
    around = {
        axis % 4: pair for axis, pair in zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True)
    }
    if any(around.pop(0, (0, 0))):
        raise builder.error(node, "padding the batch has no counterpart")
    channels, *space = (around.get(axis, (0, 0)) for axis in (1, 2, 3))
    if any(map(any, space)):
        tensor = zeros_around(builder, node, tensor, space)
    if any(channels):
        if min(channels) < 0:
            raise builder.error(node, f"negative padding {channels} has no counterpart")
        tensor = builder.add("ZeroPadding2D", tensor, padding=((0, 0), channels), data_format="channels_first")
    return tensor
