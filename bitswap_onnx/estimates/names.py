"""The names in estimates: of scopes, of quantities, and of what a question chooses from."""

from typing import Literal

Scope = Literal["network", "layer", "bit", "bit-class", "layer-bit"]
Nonfinite = Literal["as-is", "critical", "detected"]

SCOPES: tuple[Scope, ...] = ("network", "layer", "bit", "bit-class", "layer-bit")
#: The scope of P(f >= theta) over several theta, for the network.
CURVE = "curve"
#: The quantity that is a share of faults, not of inferences: those whose critical share reaches a theta.
HARMFUL = "harmful_faults"

#: The quantity that counts as critical, by the treatment of NaN and Inf scores: as any other score, always critical, or
#: detected (a DUE) and so never critical.
LEADING: dict[str, str] = {"as-is": "critical", "critical": "critical_or_nonfinite", "detected": "critical_finite"}

#: The bits of a Mbit, by name: memory vendors and radiation reports differ.
MBITS = {"1e6": 1_000_000, "2^20": 1 << 20}
