"""How long a campaign will take on this machine, from a clean pass of its model."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.runtime.session import open_session

#: Inputs of the pass; seconds and repetitions that are enough.
_INPUTS, _SECONDS, _RUNS = 64, 1.0, 7

#: The number of inputs that a forecast stands for: a campaign's own number is not known when its list is drawn.
_PER = 1000

_UNITS = (("days", 86400.0), ("h", 3600.0), ("min", 60.0))


@dataclass(frozen=True, slots=True)
class Forecast:
    """The seconds that one inference of the whole model takes, and the processes that run at a time."""

    seconds: float
    workers: int

    def text(self, injections: int) -> str:
        """Return a sentence on a campaign of so many injections."""
        whole = injections * _PER * self.seconds / self.workers
        return (
            f"time: about {duration(whole)} per {_PER:,} inputs on this machine with whole models, beside some seconds of "
            f"preparation ({1000 * self.seconds:.3g} ms per inference in a clean pass, {self.workers} at a time); of long "
            "lists the incremental engine, the default, takes less"
        )


def forecast(path: str | Path) -> Forecast:
    """Measure a clean pass of a model over some inputs: those of the .npz beside it, or noise.

    Raises BitswapError for a model that does not run without further settings.
    """
    beside = Path(path).with_suffix(".npz")
    data = str(beside) if beside.is_file() else f"synthetic:{_INPUTS}"
    setup = prepare(path, Settings(data=data, first=_INPUTS, layout="plain"))
    session = open_session(setup.clean_model, setup.numerics, setup.output)
    batch = setup.dataset.batch(0, min(setup.batch_size, len(setup.dataset)))
    session.run(batch)
    spent: list[float] = []
    while len(spent) < _RUNS and sum(spent) < _SECONDS:
        start = time.perf_counter()
        session.run(batch)
        spent.append(time.perf_counter() - start)
    workers = max(RunOptions().worker_count(setup.numerics.provider), 1)
    return Forecast(statistics.median(spent) / len(batch), workers)


def duration(seconds: float) -> str:
    """Return seconds as a short text in the largest unit of which there are two or more: ``40 s``, ``3.1 h``."""
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"
