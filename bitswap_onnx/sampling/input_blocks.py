"""The inputs that an injection runs over: all of them, or one block, drawn at random for each injection.

The second design is nested: faults are drawn, and inputs within each fault. The outcomes of one fault are similar for
all inputs, so one more fault tells more about a rate than one more input of the same fault. Further inputs pay only
while they cost little compared with the fault itself (Cochran, Sampling Techniques, 3rd edition 1977, section 10.6,
optimum subsample size). A model runs in whole batches, and a batch costs the same however many of its inputs are used:
``auto`` is one batch.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal, NoReturn

from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.errors import BitswapError

#: The number of inputs that each injection runs over: a number, one batch (``auto``), or all (None).
PerInjection = int | Literal["auto"] | None


@dataclass(frozen=True, slots=True)
class InputSample:
    """The part of a dataset's ``inputs`` that an injection runs over: a block of ``length``, or all (None).

    A block is made of whole batches. The dataset is cut into blocks in its order; the last block may be shorter.
    ``notes`` state the design to the user.
    """

    inputs: int
    length: int | None
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def design(self) -> str:
        """``nested`` where a block is drawn for every injection, else ``all``."""
        return "all" if self.length is None else "nested"

    @property
    def identity(self) -> dict[str, int] | None:
        """The settings that a run's blocks depend on, besides its data; None without blocks."""
        return None if self.length is None else {"per_injection": self.length, "seed": self.seed}

    def block_of(self, injection: str) -> Chunk | None:
        """Return the inputs that the injection with this id runs over, None for all.

        One input is drawn uniformly from all, and its block is taken. So a shorter block is drawn in proportion to its
        length, and the mean of critical / inputs over injections is unbiased for the mean over all inputs. The draw
        depends only on seed, id and number of inputs; the bias of taking a remainder is below inputs / 2^64.
        """
        if self.length is None:
            return None
        digest = hashlib.sha256(f"{self.seed}/inputs/{injection}".encode()).digest()
        drawn = int.from_bytes(digest[:8]) % self.inputs
        first = drawn - drawn % self.length
        return Chunk(first, min(first + self.length, self.inputs))


def parse_per_injection(text: str | None) -> PerInjection:
    """Read ``auto`` or a number of inputs; raises BitswapError for anything else."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    return int(text) if re.fullmatch(r"0*[1-9][0-9]{0,8}", text) else _refuse(text)


def sample_inputs(per_injection: PerInjection, inputs: int, batch_size: int, seed: int) -> InputSample:
    """Return the design with ``per_injection`` inputs, rounded up to whole batches; if that is not fewer than all, all.

    Raises BitswapError for a number below 1.
    """
    if per_injection is None:
        return InputSample(inputs, None, seed)
    wanted = batch_size if per_injection == "auto" else per_injection
    if not isinstance(wanted, int) or wanted < 1:
        _refuse(per_injection)
    length = -(-wanted // batch_size) * batch_size
    rounded = "" if length == wanted else f" ({wanted} in whole batches of {batch_size})"
    if length >= inputs:
        note = f"inputs: each injection runs over all {inputs}; `inputs_per_injection` {length}{rounded} is not fewer"
        return InputSample(inputs, None, seed, (note,))
    number = "1 input" if length == 1 else f"{length} inputs"
    note = f"inputs: each injection runs over {number} of its own{rounded}, drawn with seed {seed} (nested)"
    return InputSample(inputs, length, seed, (note,))


def _refuse(found: object) -> NoReturn:
    raise BitswapError(f"`inputs_per_injection`: expected auto or a number of inputs from 1 on, found {found!r}")
