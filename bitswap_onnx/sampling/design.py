"""The design of a statistical fault list, in a file beside it: it tells estimates how to weight the list."""

import json
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from bitswap_onnx.errors import BitswapError, FaultListError, one_line
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.graph.coverage import Coverage
from bitswap_onnx.sampling.request import STRATUM_NAMES, SamplingRequest
from bitswap_onnx.sampling.strata import Region, Stratum, stratify

#: The first entries of a design file.
_FORMAT = "bitswap-onnx fault list design"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class StratumDesign:
    """One stratum of a list: ``size`` injections, with ids from ``first`` on, drawn from a ``population`` of them.

    ``counted``: the N that the size was computed with; ``p``: the proportion, None where the size does not depend on
    one. ``layer`` and ``parameter`` are None for a stratum with several.
    """

    name: str
    layer: str | None
    parameter: str | None
    bits: tuple[int, ...]
    population: int
    counted: int
    p: float | None
    first: int
    size: int


@dataclass(frozen=True, slots=True)
class ListDesign:
    """How a list was drawn: request, model, regions drawn from, strata in the order of the list, hash of the list.

    ``coverage``: how many of the model's stored bits the regions are; None in designs from before it was recorded.
    ``order``: the number of each injection's stratum; None where the list has one stratum after the other.
    """

    request: SamplingRequest
    t: float
    model: str
    model_sha256: str
    regions: tuple[Region, ...]
    strata: tuple[StratumDesign, ...]
    population: int
    size: int
    list_sha256: str
    coverage: Coverage | None = None
    order: tuple[int, ...] | None = None

    @property
    def text(self) -> str:
        """The text that `parse_design` reads: JSON with one line per entry, and per region and stratum."""
        entries = []
        for key, value in {"format": _FORMAT, "version": _VERSION, **asdict(self)}.items():
            rows = ",\n".join(f"  {json.dumps(row)}" for row in value) if key in ("regions", "strata") else ""
            entries.append(f" {json.dumps(key)}: " + (f"[\n{rows}\n ]" if rows else json.dumps(value)))
        return "{\n" + ",\n".join(entries) + "\n}\n"

    @property
    def sampled(self) -> tuple[Stratum, ...]:
        """The strata as they were drawn from, in the order of ``strata``."""
        return stratify(self.regions, STRATUM_NAMES[self.request.scheme])


def design_path(path: Path) -> Path:
    """Return the path of the design of a fault list: ``F.csv`` → ``F.design.json``."""
    return path.with_suffix(".design.json")


def read_design(path: str | Path) -> ListDesign:
    """Read a design that `generate_faults` wrote.

    Raises FaultListError for a file that cannot be read, and as `parse_design`.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        raise FaultListError(f"{path}: cannot read the design of the fault list: {error.strerror}") from None
    return parse_design(text, str(path))


def parse_design(text: str, where: str) -> ListDesign:
    """Return the design in ``text``; messages name ``where`` it stands.

    Raises FaultListError for a text that is no design, is of another version, or contradicts itself.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.pop("format", None) != _FORMAT:
        raise FaultListError(f"{where}: not the design of a fault list; expected a file that faults generate wrote")
    version = record.pop("version", None)
    if version != _VERSION:
        raise FaultListError(
            f"{where}: expected a design of version {_VERSION}, found {version!r}; generate the list again"
        )
    try:
        design = _parse(record)
        consistent = _is_consistent(design)
    except (BitswapError, KeyError, TypeError, ValueError) as error:
        raise FaultListError(f"{where}: damaged ({one_line(error)}); generate the list again") from None
    if not consistent:
        raise FaultListError(f"{where}: damaged: its strata do not add up to the list; generate the list again")
    return design


def _is_consistent(design: ListDesign) -> bool:
    """Whether the strata add up to the list and are those of the regions, and formats have the regions' bits."""
    strata, pattern = design.strata, design.request.pattern
    ends = list(accumulate((entry.size for entry in strata), initial=0))
    first, sizes = ends[:-1], [entry.size for entry in strata]
    if design.order is not None:
        order = list(design.order)
        sizes = [order.count(number) for number in range(len(strata))]
        first = [order.index(number) if number in order else -1 for number in range(len(strata))]
    populations = [(stratum.name, pattern.population(stratum.slots)) for stratum in design.sampled]
    return (
        [(entry.first, entry.size) for entry in strata] == list(zip(first, sizes, strict=True))
        and design.size == ends[-1] == (ends[-1] if design.order is None else len(design.order))
        and design.population == sum(entry.population for entry in strata)
        and all(0 < entry.size <= entry.population for entry in strata)
        and populations == [(entry.name, entry.population) for entry in strata]
        and all(max(region.bits) < FORMATS[region.format].width for region in design.regions)
    )


def _parse(record: dict[str, Any]) -> ListDesign:
    request = record["request"] | {"kinds": tuple(map(Kind, record["request"]["kinds"]))}
    regions = (
        Region(**(entry | {key: tuple(entry[key]) for key in ("address", "shape", "bits")}))
        for entry in record["regions"]
    )
    strata = (StratumDesign(**(entry | {"bits": tuple(entry["bits"])})) for entry in record["strata"])
    fields = {"request": SamplingRequest(**request), "regions": tuple(regions), "strata": tuple(strata)}
    if record.get("coverage") is not None:
        fields["coverage"] = Coverage.from_stored(record["coverage"])
    if record.get("order") is not None:
        fields["order"] = tuple(record["order"])
    return ListDesign(**(record | fields))
