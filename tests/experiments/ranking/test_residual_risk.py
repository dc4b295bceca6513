"""Residual risk: by hand, and falling to 0 when all layers are monitored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitswap_onnx.experiments.ranking.residual_risk import residual_risk
from bitswap_onnx.stats.intervals import Values

shares = st.lists(st.integers(0, 1000), min_size=1, max_size=30).map(lambda counts: np.array(counts) / 1000)


def test_residual_risk_by_hand() -> None:
    """Bits 10, 20, 30, 40 times criticals .4, .1, .2, 0 are risks 4, 2, 6, 0 of 12; monitored: 2, then 0."""
    critical, bits, macs = (
        np.array(values, np.float64) for values in ([0.4, 0.1, 0.2, 0], [10, 20, 30, 40], [1, 2, 3, 2])
    )
    found = residual_risk(np.array([2, 0], np.intp), critical, macs, bits)
    assert found.unmonitored == pytest.approx([1, 6 / 12, 2 / 12])
    assert found.macs == pytest.approx([0, 3 / 8, 4 / 8])
    assert found.bits == pytest.approx([0, 0.3, 0.4])
    even = residual_risk(np.array([2, 0], np.intp), critical, macs, bits, np.ones(4))
    assert even.unmonitored == pytest.approx([1, 5 / 7, 1 / 7])


@given(shares)
def test_all_monitored_leaves_nothing(critical: Values) -> None:
    m = len(critical)
    found = residual_risk(np.arange(m)[::-1], critical, np.zeros(m), np.ones(m))
    assert np.isnan(found.macs).all()
    if critical.any():
        assert (found.unmonitored[0], found.unmonitored[-1]) == (pytest.approx(1), 0)
        assert (np.diff(found.unmonitored) <= 0).all()
    else:
        assert np.isnan(found.unmonitored).all()
