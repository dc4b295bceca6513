"""What a run stores about itself, as typed records. Each has one encoder, ``stored``, and one decoder, ``from_stored``.

The stored form is JSON of a run's store; golden.json shows the same keys. `bitswap_onnx.campaign.stored_settings` checks the
form before a record is made of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

from bitswap_onnx.outcome import Criterion, criterion_from
from bitswap_onnx.runtime.session import Numerics


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What decides a run's results. A run is continued only under the same identity.

    ``model``, ``faults``, ``data``: SHA-256 of the model file, of the fault list (or `AdaptiveList.identity`) and of the
    inputs with their labels. ``output``: name of the scores' value. ``tolerance``: the criterion's tolerance, None for
    top-1. ``inputs``: number of inputs per injection and seed, None if every injection runs over all inputs.
    ``bit_order``: how the list counts bits, ``lsb`` or ``msb``. ``records``: what is stored of every inference, beside
    the counts: ``scores``, ``per_input``.
    """

    model: str
    faults: str
    data: str
    output: str
    tolerance: float | None
    numerics: Numerics
    inputs: Mapping[str, int] | None = None
    bit_order: str
    records: tuple[str, ...]

    def stored(self) -> dict[str, Any]:
        """Return plain data."""
        names = [field.name for field in fields(self)]
        values = {name: getattr(self, name) for name in names}
        return values | {"numerics": self.numerics.as_dict(), "records": list(self.records)}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """Return the identity of `stored` data."""
        changed = {"numerics": Numerics(**stored["numerics"]), "records": tuple(stored["records"])}
        return cls(**{**stored, **changed})

    @property
    def criterion(self) -> Criterion:
        """The criterion for critical inferences. Its span is not set: only a golden run gives it."""
        return criterion_from({"tolerance": self.tolerance})

    def differences(self, other: "Identity") -> list[str]:
        """Return the names of the fields in which two identities differ."""
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]


@dataclass(frozen=True, kw_only=True)
class GoldenRecord:
    """The golden run and what it ran on. It is computed again and compared when a run is resumed.

    ``data``: the source of the inputs, in words. ``inputs``: number of inputs. ``values_per_input``: number of scores per
    input. ``labels``: SHA-256 of the labels, None without labels. ``top_1_correct``,
    ``top_5_correct``: inputs that the clean model classifies correctly, None without labels. ``scores``: SHA-256 of the
    golden scores' bits. ``providers``: those that the session loaded. ``versions``: of ONNX Runtime, onnx and numpy.
    """

    network: str
    model_file: str
    fault_list: str
    dataset: str
    data: str
    inputs: int
    input_design: str
    values_per_input: int
    probabilities: bool
    labels: str | None
    top_1_correct: int | None
    top_5_correct: int | None
    scores: str
    providers: Sequence[str]
    machine: str
    versions: Mapping[str, str]

    def stored(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """Return the record of `stored` data."""
        return cls(**stored)


@dataclass(frozen=True)
class AuditRecord:
    """Injections that an audit ran again: ids of all ``checked``, and where their outcomes were ``different``."""

    checked: tuple[str, ...]
    different: tuple[str, ...]

    def stored(self) -> dict[str, Any]:
        """Return plain data."""
        return {"checked": list(self.checked), "different": list(self.different)}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """Return the record of `stored` data."""
        return cls(tuple(stored["checked"]), tuple(stored["different"]))


class InterimEstimate(NamedTuple):
    """The estimate after a round of a campaign that draws its faults.

    ``injections`` and ``inferences`` so far; ``mean``, ``low`` and ``high`` are fractions; ``goal`` as its text says.
    ``iterative``: injections that iterative SFI plans for the goal's margin at this mean, at least its pilot.
    """

    round: int
    injections: int
    inferences: int
    mean: float
    low: float
    high: float
    goal: str
    iterative: int

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2
