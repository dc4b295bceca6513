"""The choice behind ``layout`` auto."""

from dataclasses import replace

import numpy as np
import pytest

from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.signature import ModelInput
from bitswap_onnx.runtime.layout import choose_layout
from tests.networks import MODELS
from tests.runtime.engines import PLAIN


@pytest.mark.parametrize("name", ["half", "attention"])
def test_auto_layout_is_plain_without_convolutions(name: str) -> None:
    model = from_proto(MODELS[name])
    shape = {"half": (6,), "attention": (5, 8)}[name]
    assert choose_layout(model, PLAIN, "y", ModelInput("x", np.dtype(np.float32), shape, None)) == (PLAIN, None)


def test_auto_layout_is_the_same_whenever_it_is_asked_for() -> None:
    model = from_proto(MODELS["residual"])
    spec = ModelInput("x", np.dtype(np.float32), (3, 6, 6), None)
    first, again = (choose_layout(model, PLAIN, "y", spec) for _ in range(2))
    assert first == again
    assert replace(first[0], layout="plain") == PLAIN
