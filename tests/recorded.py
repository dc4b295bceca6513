"""What a run directory or a results file recorded, for tests that look at nothing else of it."""

from pathlib import Path

from bitswap_onnx.estimates.read import Recorded, read_recorded
from bitswap_onnx.estimates.source import open_source


def recorded_of(path: Path) -> Recorded:
    with open_source(path) as source:
        return read_recorded(source)
