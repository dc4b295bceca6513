"""The names of what a request for a fault list chooses from."""

from typing import Literal

SamplingScheme = Literal["network", "layer", "bit-layer", "data-aware", "exhaustive", "per-target"]
Population = Literal["flips", "stuck_at"]
Rounding = Literal["nearest", "ceil"]
