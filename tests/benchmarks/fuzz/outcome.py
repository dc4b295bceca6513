"""What becomes of networks under test: findings, and how often what was met."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from tests.benchmarks.fuzz.builder import Array


@dataclass(frozen=True)
class Finding:
    """Something that should not be: what, in which injection, on which lane."""

    seed: int
    number: int
    kind: str
    injection: str
    lane: str
    detail: str

    def __str__(self) -> str:
        where = f" injection {self.injection}" if self.injection else ""
        lane = f" ({self.lane})" if self.lane else ""
        return f"seed {self.seed} network {self.number}{where}{lane}: {self.kind}: {self.detail}"


@dataclass(eq=False)
class Outcome:
    """What became of some networks: ``findings``, and how often what was met, as (topic, name)."""

    findings: list[Finding] = field(default_factory=list)
    met: Counter[tuple[str, str]] = field(default_factory=Counter)

    def count(self, topic: str, name: object, times: int = 1) -> None:
        self.met[topic, str(name)] += times

    def total(self, topic: str) -> int:
        return sum(times for (kind, _), times in self.met.items() if kind == topic)

    def add(self, other: "Outcome") -> None:
        self.findings += other.findings
        self.met += other.met


def same_bits(one: Array, other: Array) -> bool:
    """Whether scores are equal bit by bit, a NaN to every other."""
    return bool(unequal(one, other).sum() == 0) if one.shape == other.shape else False


def unequal(one: Array, other: Array) -> Array:
    """Return which inputs (n,) have other bits."""
    differs = one.view(np.uint32) != other.view(np.uint32)
    return np.asarray((differs & ~(np.isnan(one) & np.isnan(other))).any(axis=1))
