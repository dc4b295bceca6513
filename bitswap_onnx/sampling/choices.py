"""The names of what a request for a fault list chooses from."""

from typing import Final, Literal

SamplingScheme = Literal["network", "layer", "bit-layer", "data-aware", "exhaustive", "per-target"]
#: The scheme of lists that go through tensors and bits in turn, which no request draws (`bitswap_onnx.models.digits`).
IN_TURN: Final = "in-turn"
Population = Literal["flips", "stuck_at"]
Rounding = Literal["nearest", "ceil"]
