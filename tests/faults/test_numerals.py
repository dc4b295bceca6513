"""Numbers in users' texts: digits of other scripts and underscores are wrong input."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from bitswap_onnx.campaign.options import parse_audit
from bitswap_onnx.cli import export, neurons
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.experiments.sweep.rates import parse_rates
from bitswap_onnx.faults.bits import FORMATS, encode
from bitswap_onnx.faults.numerals import parse_size, real, whole
from bitswap_onnx.outcome import parse_criterion
from bitswap_onnx.sampling.input_blocks import parse_per_injection
from bitswap_onnx.until.goal import parse_goal

PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "value": (lambda text: encode(text, FORMATS["float32"]), "3"),
    "integer value": (lambda text: encode(text, FORMATS["int8"]), "3"),
    "pattern": (lambda text: encode(f"0x{text}", FORMATS["float32"]), "3"),
    "audit": (parse_audit, "3"),
    "audit share": (lambda text: parse_audit(f"{text}%"), "3"),
    "inputs per injection": (parse_per_injection, "3"),
    "goal": (lambda text: parse_goal(f"critical±{text}%@99%"), "3"),
    "criterion": (lambda text: parse_criterion(f"tolerance={text}"), "3"),
    "rates": (parse_rates, "0.3"),
    "memory": (lambda text: parse_size(f"{text}M"), "3"),
    "mean": (lambda text: Preprocessing(mean=text), "3"),
    "resize": (lambda text: Preprocessing(resize=f"{text},3"), "3"),
    "input shape": (export._shape, "3"),
    "layer numbers": (neurons._numbers, "3"),
}


@pytest.mark.parametrize("what", PARSERS)
def test_only_ascii_digits_are_numbers(what: str) -> None:
    parse, number = PARSERS[what]
    parse(number)
    for digit in ("\u0663", "\uff13", "\u00b3", "3_3"):
        with pytest.raises(BitswapError, match=r"expected|neither"):
            parse(number.replace("3", digit))


@pytest.mark.parametrize(("text", "number"), [("12", 12), (" -3\t", -3), ("+0", 0)])
def test_whole(text: str, number: int) -> None:
    assert whole(text) == real(text) == number


def test_real() -> None:
    assert (real("1e-3"), real(".5"), real("-inf")) == (0.001, 0.5, -math.inf)
    assert math.isnan(real("nan"))
