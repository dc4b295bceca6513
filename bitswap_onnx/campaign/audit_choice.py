"""The injections that an audit runs again, in the order in which it takes them.

One injection of each kind in turn: with a fault in the top exponent bit or nonfinite scores (where engines are most likely
to differ), critical, changed, masked. Within a kind it takes the faulty path that was audited least so far.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from bitswap_onnx.campaign.store import Store
from bitswap_onnx.campaign.store_results import AuditCandidate
from bitswap_onnx.data.chunks import Chunk, chunks


class AuditChoice(NamedTuple):
    """An injection to run again over ``inputs``: a chunk, or the batch whose ``fingerprint`` the store has."""

    position: int
    path: int
    inputs: Chunk
    fingerprint: int | None


@dataclass(eq=False)
class AuditChoices:
    """Chooses injections of a finished campaign, no one twice."""

    store: Store
    _draw: Random = field(default_factory=lambda: Random(0), init=False)
    _used: Counter[int] = field(default_factory=Counter, init=False)
    _used_batches: Counter[int] = field(default_factory=Counter, init=False)
    _taken: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        store = self.store
        self._chunks = chunks(store.golden.inputs, store.unit_length)
        self._batch_size = store.identity.numerics.batch_size
        self._fingerprints = list(store.fingerprints())
        of_batches = ((number, candidate) for number, (candidate, *_) in enumerate(self._fingerprints))
        self._over_batches = self._in_turn(of_batches, self._pop_least_used_batch)
        of_chunks = ((candidate.position, candidate) for candidate in store.audit_candidates())
        self._over_chunks = self._in_turn(of_chunks, list[int].pop)

    def over_chunk(self) -> AuditChoice | None:
        """Return the next injection to run again over a chunk of inputs, None if there is no other."""
        for position, path in self._over_chunks:
            if self._take(position, path):
                return AuditChoice(position, path, self._chunk(position), None)
        return None

    def over_batch(self) -> AuditChoice | None:
        """Return the next injection to run again over a batch that has a fingerprint, None if there is no other."""
        for number, path in self._over_batches:
            candidate, first, fingerprint = self._fingerprints[number]
            if self._take(candidate.position, path):
                self._used_batches[first] += 1
                batch = Chunk(first, min(first + self._batch_size, self.store.golden.inputs))
                return AuditChoice(candidate.position, path, batch, fingerprint)
        return None

    def _take(self, position: int, path: int) -> bool:
        """Note that an injection is taken; return whether it was not before."""
        if position in self._taken:
            return False
        self._taken.add(position)
        self._used[path] += 1
        return True

    def _in_turn(
        self, candidates: Iterable[tuple[int, AuditCandidate]], pop: Callable[[list[int]], int]
    ) -> Iterator[tuple[int, int]]:
        """Yield the number and the path of each candidate, the kinds in turn; ``pop`` takes one of a kind and a path."""
        kinds: list[dict[int, list[int]]] = [{}, {}, {}, {}]  # telling, critical, changed, masked: path → numbers
        for number, (_, path, *marks) in candidates:
            kind = marks.index(True) if True in marks else len(marks)
            kinds[kind].setdefault(path, []).append(number)
        for by_path in kinds:
            for numbers in by_path.values():
                self._draw.shuffle(numbers)
        while any(kinds):
            for by_path in filter(None, kinds):
                path = min(by_path, key=lambda number: self._used[number])
                number = pop(by_path[path])
                if not by_path[path]:
                    del by_path[path]
                yield number, path

    def _pop_least_used_batch(self, numbers: list[int]) -> int:
        """Take the candidate whose batch was used least so far; of such batches the last one, as full ones lie before it."""
        firsts = {number: self._fingerprints[number][1] for number in numbers}
        number = min(numbers, key=lambda number: (self._used_batches[firsts[number]], -firsts[number]))
        numbers.remove(number)
        return number

    def _chunk(self, position: int) -> Chunk:
        """Return the chunk over which an injection had most effect; of equal ones, any.

        Every other injection takes the chunks in turn instead, the last one first: a lost effect shows as no effect.
        """
        effects, number = self.store.effects(position), len(self._taken) - 1
        if number % 2:
            first, _ = effects[-1 - number // 2 % len(effects)]
        else:
            first, _ = max(effects, key=lambda effect: (*effect[1], self._draw.random()))
        return next(chunk for chunk in self._chunks if chunk.first == first)
