"""Models of tests are too small to be divided into stages; tests that ask for it run with them divided as well."""

import pytest

from bitswap_onnx.graph import stages


def divide_finely(patch: pytest.MonkeyPatch) -> None:
    """Make stages cost nothing, so that every model is divided into as many as there are."""
    patch.setattr(stages, "_PER_RUN", 0)
    patch.setattr(stages, "_PER_BYTE", 0)


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> None:
    divide_finely(monkeypatch)


@pytest.fixture(params=["whole", "divided"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "divided":
        divide_finely(monkeypatch)
