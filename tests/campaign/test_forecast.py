"""The time that a campaign is said to take: arithmetic by hand, and a pass of a small model."""

from pathlib import Path

import pytest

from bitswap_onnx.campaign.forecast import Forecast, duration, forecast
from bitswap_onnx.errors import BitswapError
from tests.builders import build, cnn, normal, save


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.004, "0.004 s"),
        (40, "40 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (11_160, "3.1 h"),
        (2 * 86400, "2 days"),
        (1234 * 86400, "1,234 days"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_forecast_counts_injections_inputs_and_workers() -> None:
    """1,000 injections of 1,000 inputs at 1 ms are 1,000 s, two at a time 500 s."""
    text = Forecast(seconds=0.001, workers=2).text(1000)
    assert text.startswith("time: about 8.3 min per 1,000 inputs on this machine with whole models, ")
    assert "(1 ms per inference in a clean pass, 2 at a time)" in text


def test_a_pass_over_noise_where_there_are_no_data(tmp_path: Path) -> None:
    measured = forecast(save(cnn(), tmp_path / "m.onnx"))
    assert 0 < measured.seconds < 1
    assert measured.workers >= 1


def test_a_model_that_needs_options_has_no_forecast(tmp_path: Path) -> None:
    proto = build(
        "net (float[N, 2] x, float[N, 2] z) => (float[N, 2] y) { a = MatMul (x, w)\n y = Add (a, z) }", w=normal(2, 2)
    )
    with pytest.raises(BitswapError, match="one input"):
        forecast(save(proto, tmp_path / "m.onnx"))
