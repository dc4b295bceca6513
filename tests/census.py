"""A census of the shipped digits model: every fault of a population, run once, and the lists that are drawn from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.estimates.read import FaultLabels
from bitswap_onnx.faults.fault import Fault
from bitswap_onnx.graph.model import Model, load_model
from bitswap_onnx.sampling.draws import Sample, draw, permute
from bitswap_onnx.sampling.generate import generate_faults, plan_sample
from bitswap_onnx.sampling.request import SamplingRequest
from bitswap_onnx.sampling.rounds import Indices
from bitswap_onnx.sampling.strata import parts_of
from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.stratified import Bounded, Frame, Strata, estimate_mean, frame_of
from tests.campaigns import rows_of_store
from tests.recorded import recorded_of

MODEL = Path(__file__).resolve().parents[1] / "models" / "digits_cnn.onnx"
#: The roles of all that the model stores.
ALL = "weight,bias,bn_scale,bn_bias,bn_mean,bn_var"
#: What is estimated of each fault.
QUANTITIES = ("critical", "masked", "any critical")

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Census:
    """What every fault did, by position (faults,): shares of ``inputs``; any critical is 0 or 1.

    ``places``: layer, parameter, index as text and bit → position.
    """

    model: Model
    inputs: int
    shares: dict[str, Values]
    tensors: FaultLabels
    layers: FaultLabels
    bits: NDArray[np.int64]
    places: dict[tuple[str, str, str, int], int]

    def positions(self, faults: Sequence[Fault]) -> Indices:
        """Return where single flips, as a list states them, stand."""
        found = [self.places[f.layer, f.parameter or "weight", str(f.index), f.bit or 0] for f in faults]
        return np.array(found, np.intp)


def take_census(run: Path, request: SamplingRequest, settings: Settings = Settings()) -> Census:
    """Run all faults of an exhaustive ``request`` into ``run``, or what it lacks; list and design lie beside it."""
    model, path = load_model(MODEL), run.with_name(f"{run.name}.csv")
    generate_faults(model, request, path)
    run_campaign(prepare(MODEL, settings), path, options=RunOptions(run=run, resume=True, records=["per_input"]))
    recorded = recorded_of(run)
    critical, masked, nonfinite = (recorded.counts[name] / recorded.inputs for name in (*QUANTITIES[:2], "nonfinite"))
    shares = {"critical": critical, "masked": masked, "any critical": critical > 0, "nonfinite": nonfinite}
    rows = rows_of_store(run, "SELECT layer, parameter, tensor_index, bit, tensor FROM receipt ORDER BY position")
    return Census(
        model,
        int(recorded.inputs[0]),
        {name: np.asarray(values, np.float64) for name, values in shares.items()},
        np.array([row[4] for row in rows]),
        recorded.layers,
        np.array([row[3] for row in rows]),
        {row[:4]: position for position, row in enumerate(rows)},
    )


class Given(NamedTuple):
    """An estimate's mean and variance over lists that drew as many faults of each stratum, and the variance of SE^2."""

    mean: float
    variance: float
    spread: float


@dataclass(frozen=True, eq=False)
class Truth:
    """The ``mean`` of a group, and by stratum the faults that it has there, their mean, variance and fourth moment."""

    mean: float
    held: Values
    means: Values
    variances: Values
    fourths: Values

    def given(self, drawn: Values) -> Given:
        """Return what lists with ``drawn`` faults of the group in each stratum (strata,) give, each a simple random sample.

        Without fourth moments of strata that are drawn whole; that of s^2 is an endless population's.
        """
        seen, n = drawn > 0, np.maximum(drawn, 1)
        unseen = np.where(seen, 1 - drawn / np.maximum(self.held, 1), 0)
        shares = np.where(seen, self.held, 0) / self.held[seen].sum()
        factors = shares**2 * unseen / n
        of_spread = (self.fourths - self.variances**2 * (n - 3) / np.maximum(n - 1, 1)) / n
        spread = float(factors**2 @ np.maximum(of_spread, 0))
        return Given(float(shares @ self.means), float(factors @ self.variances), spread)


@dataclass(frozen=True, eq=False)
class Lists:
    """Lists that differ in their seed. ``tables``: of each stratum, the positions of its faults in the sampler's order."""

    census: Census
    sample: Sample
    tables: tuple[Indices, ...]

    @property
    def size(self) -> int:
        return sum(self.sample.sizes)

    @cached_property
    def population(self) -> Indices:
        """The positions of all faults that are drawn from."""
        return np.concatenate(self.tables)

    def positions(self, seed: int) -> Indices:
        """Return the list of ``seed``, in its order, without making faults of it."""
        parts = []
        for stratum, size, table in zip(self.sample.strata, self.sample.sizes, self.tables, strict=True):
            ranks = np.arange(size, dtype=np.uint64)
            numbers = ranks if size == len(table) else permute(ranks, len(table), f"{seed}/{stratum.name}")
            parts.append(table[numbers.astype(np.intp)])
        return np.concatenate(parts)

    def sampled(self, seed: int) -> Indices:
        """Return the same from the faults that the sampler gives."""
        return self.census.positions([fault for one in replace(self.sample, seed=seed) for fault in one.faults])

    @cached_property
    def frame(self) -> Frame:
        """What an estimate knows of the draw."""
        strata, sizes = self.sample.strata, self.sample.sizes
        names, parts = tuple(one.name for one in strata), parts_of(strata, self.sample.pattern)
        return frame_of("census", self.size, Strata(names, sizes, tuple(map(len, self.tables)), parts=parts))

    @cached_property
    def groups(self) -> dict[str, Mask]:
        """Name the groups that are estimated, as masks of the census: all, the first layer, the highest exponent bit."""
        layer, bits = str(self.census.layers[self.population[0]]), set(self.census.bits[self.population].tolist())
        bit = 30 if 30 in bits else max(bits)
        everything = np.ones(len(self.census.layers), np.bool_)
        return {"network": everything, layer: self.census.layers == layer, f"bit {bit}": self.census.bits == bit}

    def held(self, mask: Mask) -> Values:
        """Return how many faults of a group, a mask of the census, each stratum has."""
        return np.array([np.count_nonzero(mask[table]) for table in self.tables], np.float64)

    def truth(self, mask: Mask, quantity: str) -> Truth:
        """Return what is true of a group, a mask of the census."""
        values, own = self.census.shares[quantity], [table[mask[table]] for table in self.tables]
        columns = [
            (
                len(some),
                *(
                    (some.mean(), some.var(ddof=len(some) > 1), ((some - some.mean()) ** 4).mean())
                    if len(some)
                    else (0, 0, 0)
                ),
            )
            for some in (values[positions] for positions in own)
        ]
        return Truth(float(values[np.concatenate(own)].mean()), *np.array(columns, np.float64).T)

    def inexact(self) -> Iterator[str]:
        """Say where a list of all faults does not estimate exactly what they did, with an interval of no width."""
        positions, frame = self.sampled(0), self.frame
        for group, mask in self.groups.items():
            for quantity in QUANTITIES:
                truth, values = self.truth(mask, quantity).mean, Bounded(self.census.shares[quantity][positions])
                found = estimate_mean(frame, np.flatnonzero(mask[positions]), values, 0.99, self.held(mask))
                if max(abs(limit - truth) for limit in (found.low, found.mean, found.high)) > 1e-12 or found.se:
                    yield f"{group}, {quantity}: {found}, expected {truth}"


def plan_lists(census: Census, request: SamplingRequest) -> Lists:
    """Return the lists of ``request``, whose own seed does not matter."""
    _, _, sample = plan_sample(census.model, request)
    drawn = ([fault for (fault,) in draw(one, sample.pattern, 0, one.slots)] for one in sample.strata)
    return Lists(census, sample, tuple(map(census.positions, drawn)))
