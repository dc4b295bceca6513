"""The division of a model into a chain, as messages and kept verdicts have it."""

from dataclasses import dataclass
from typing import Any

from bitswap_onnx.graph.stages import Border


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """The division of a model into a chain: the fields of `Chain` that decide it."""

    borders: tuple[Border, ...]
    blocked: tuple[int, ...]


def encode_plan(plan: ChainPlan | None) -> dict[str, Any] | None:
    """Return a plan as JSON has it."""
    return None if plan is None else {"borders": plan.borders, "blocked": plan.blocked}


def decode_plan(encoded: dict[str, Any] | None) -> ChainPlan | None:
    """Return the plan that `encode_plan` encoded."""
    if encoded is None:
        return None
    return ChainPlan(tuple(map(tuple, encoded["borders"])), tuple(encoded["blocked"]))


def may_be_plan(encoded: Any) -> bool:
    """Whether a value has the form that `encode_plan` gives."""
    if encoded is None:
        return True
    if not isinstance(encoded, dict):
        return False
    borders, blocked = encoded.get("borders"), encoded.get("blocked")
    if not isinstance(borders, list | tuple) or not isinstance(blocked, list | tuple) or len(borders) < 2:
        return False
    named = all(isinstance(each, list | tuple) and all(isinstance(name, str) for name in each) for each in borders)
    return named and all(type(number) is int for number in blocked)
