"""Which inputs an injection runs over: all of them, or one block of its own, drawn at random.

The second design is nested: faults are drawn, and inputs within each fault. Inputs of one fault come out much alike, so that
another fault tells more about a rate than another input of the same fault: inputs of a fault are worth running as far as
they cost little beside the fault itself (Cochran, Sampling Techniques, 3rd edition 1977, section 10.6, optimum subsample
size). A model runs in whole batches, which cost the same however many of their inputs are wanted; so ``auto`` is one batch.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal, NoReturn

from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.errors import BitswapError

#: How many inputs each injection runs over: so many, one batch (``auto``), or all (None).
PerInjection = int | Literal["auto"] | None


@dataclass(frozen=True, slots=True)
class InputSample:
    """How many of a dataset's ``inputs`` an injection runs over: a block of ``length``, whole batches, or all (None).

    The dataset is cut into blocks in its order, and the last one may be shorter. ``notes`` say what was decided.
    """

    inputs: int
    length: int | None
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def design(self) -> str:
        """``nested`` where every injection has a block of its own, else ``all``."""
        return "all" if self.length is None else "nested"

    @property
    def identity(self) -> dict[str, int] | None:
        """What a run's blocks depend on, besides its data; None where there are none."""
        return None if self.length is None else {"per_injection": self.length, "seed": self.seed}

    def block_of(self, injection: str) -> Chunk | None:
        """Return the inputs that the injection with this id runs over, None for all.

        It is the block of an input that is drawn uniformly from all, so that a shorter block is drawn in proportion to its
        length: the mean of critical / inputs over injections is unbiased for that over all inputs. What is drawn depends on
        seed, id and the number of inputs alone; that the remainder favours some is below inputs / 2^64.
        """
        if self.length is None:
            return None
        digest = hashlib.sha256(f"{self.seed}/inputs/{injection}".encode()).digest()
        drawn = int.from_bytes(digest[:8]) % self.inputs
        first = drawn - drawn % self.length
        return Chunk(first, min(first + self.length, self.inputs))


def parse_per_injection(text: str | None) -> PerInjection:
    """Return what ``auto`` or a number of inputs asks for; raises BitswapError for anything else."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    return int(text) if re.fullmatch(r"0*[1-9][0-9]{0,8}", text) else _refuse(text)


def sample_inputs(per_injection: PerInjection, inputs: int, batch_size: int, seed: int) -> InputSample:
    """Return the design that is asked for; as many inputs as there are, rounded up to whole batches, are all of them.

    Raises BitswapError for fewer than one.
    """
    if per_injection is None:
        return InputSample(inputs, None, seed)
    asked = batch_size if per_injection == "auto" else per_injection
    if not isinstance(asked, int) or asked < 1:
        _refuse(per_injection)
    length = -(-asked // batch_size) * batch_size
    rounded = "" if length == asked else f" ({asked} in whole batches of {batch_size})"
    if length >= inputs:
        note = f"inputs: each injection runs over all {inputs}; --inputs-per-injection {length}{rounded} is not fewer"
        return InputSample(inputs, None, seed, (note,))
    number = "1 input" if length == 1 else f"{length} inputs"
    note = f"inputs: each injection runs over {number} of its own{rounded}, drawn with seed {seed} (nested)"
    return InputSample(inputs, length, seed, (note,))


def _refuse(found: object) -> NoReturn:
    raise BitswapError(f"--inputs-per-injection: expected auto or a number of inputs from 1 on, found {found!r}")
