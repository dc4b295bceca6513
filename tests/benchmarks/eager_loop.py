"""What injectors for PyTorch do: one process, one fault after the other, the whole test set each time."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bitswap_onnx.faults.fault import Injection


class EagerLoop:
    """Flips the bit in the parameter, runs all inputs without gradients, and flips the bit back."""

    def __init__(self, network: torch.nn.Module, inputs: NDArray[np.float32], batch: int) -> None:
        self.network = network
        self.inputs = torch.from_numpy(inputs)
        self.batch = batch
        self.clean = self.predictions()

    @torch.no_grad()
    def predictions(self) -> NDArray[np.int64]:
        firsts = range(0, len(self.inputs), self.batch)
        parts = [self.network(self.inputs[first : first + self.batch]).numpy() for first in firsts]
        return np.asarray(np.argmax(np.concatenate(parts), axis=1))  # NaN first

    def critical(self, injection: Injection) -> int:
        (fault,) = injection.faults
        bits = self.network.get_parameter(f"{fault.layer}.weight").detach().numpy().view(np.uint32)
        mask = np.uint32(1 << (fault.bit or 0))
        bits[fault.index] ^= mask
        count = int(np.sum(self.predictions() != self.clean))
        bits[fault.index] ^= mask
        return count

    def run(self, injections: Sequence[Injection]) -> tuple[dict[str, int], list[float]]:
        """Return the critical count of each injection, and the seconds that each took."""
        counts, seconds = {}, []
        for injection in injections:
            start = time.perf_counter()
            counts[injection.id] = self.critical(injection)
            seconds.append(time.perf_counter() - start)
        assert np.array_equal(self.predictions(), self.clean), "the loop left a fault behind"
        return counts, seconds
