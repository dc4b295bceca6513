"""How many workers the memory has room for, and how much each may keep."""

from dataclasses import dataclass

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.graph.tensors import stored_bytes, stored_tensors

#: Bytes of a process before it loads a model, and how many times the bytes of a model's weights it holds at most.
_PROCESS, _PARENT_COPIES, _WORKER_COPIES = 160 << 20, 2, 3

#: Bytes that a worker should be able to keep, at least.
_LEAST_KEPT = 64 << 20


@dataclass(frozen=True, slots=True)
class MemoryShares:
    """The number of ``workers`` (0: all runs in this process), the bytes that each may keep, and ``notes`` for the user."""

    workers: int
    kept: int
    notes: tuple[str, ...] = ()


def share_memory(setup: Setup, options: RunOptions) -> MemoryShares:
    """Divide the memory among the workers: fewer than one per core where the weights leave no room for these.

    A given number of workers stays. What a worker keeps is its share less a model's weights, but always an eighth of it.
    """
    wanted, memory = options.worker_count(setup.numerics.provider), options.memory_bytes
    weights = sum(map(stored_bytes, stored_tensors(setup.model.proto).values()))
    parent, needed = _PROCESS + _PARENT_COPIES * weights, _PROCESS + _WORKER_COPIES * weights
    workers = wanted
    if options.workers is None:
        workers = max(1, min(wanted, (memory - parent) // (needed + _LEAST_KEPT)))
    each = memory // max(workers, 1)
    notes = []
    if workers < wanted:
        notes.append(
            f"workers: {workers} instead of {wanted}, for `memory` {_gigabytes(memory)}: {_gigabytes(needed)} each"
        )
    if options.memory and memory - parent < max(workers, 1) * needed:
        least = _gigabytes(parent + max(workers, 1) * needed)
        notes.append(
            f"warning: `memory` {_gigabytes(memory)} is less than the {least} that this model is likely to take"
        )
    return MemoryShares(workers, max((memory - parent) // max(workers, 1) - needed, each // 8), tuple(notes))


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
