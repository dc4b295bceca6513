"""The workers of one campaign: their files and their settings."""

from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from bitswap_onnx.campaign.memory import MemoryShares
from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.schedule import Queue
from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.errors import RunError
from bitswap_onnx.graph.model import save_model
from bitswap_onnx.graph.spill import SpilledModel
from bitswap_onnx.outcome import Golden
from bitswap_onnx.runtime.lanes import FaultyPath
from bitswap_onnx.runtime.pool import Pool
from bitswap_onnx.runtime.worker_settings import WorkerSettings

#: The folder of a run directory with the files that its workers read. It exists while the campaign runs.
SCRATCH = "campaign.scratch"

#: Factor for the batches that a path is expected to have while its list still grows. Final lists are some twenty times the
#: pilot, which alone is too short for a search of lanes; a smaller factor keeps the search to paths that are likely to repay
#: it (ResNet20, critical to 0.23 points: this saves a sixth of all time).
_EXPECTED_GROWTH = 4


@dataclass(eq=False)
class CampaignWorkers:
    """A pool of workers that stays while a list grows. Use it as a context manager; its end ends the workers.

    ``shares``: how many there are, and what each may keep.
    """

    store: Store
    setup: Setup
    golden: Golden
    options: RunOptions
    shares: MemoryShares
    _pool: Pool | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)

    def started(self, queue: Queue) -> Pool:
        """Return the workers; if there are none yet, start them with the number of batches that each path has."""
        if self._pool is None:
            settings = self._settings(self._expected_batches(queue))
            self._pool = Pool(settings, self.count, self.options.waiting).__enter__()
        return self._pool

    def informed(self, queue: Queue) -> Pool:
        """Return the workers, who know the number of batches that each faulty path has in the present ``queue``."""
        pool, paths = self.started(queue), self._expected_batches(queue)
        if pool.settings.paths != paths:
            pool.expect(paths)
        return pool

    @property
    def count(self) -> int:
        """Number of worker processes; 0: everything runs in this one."""
        return self.shares.workers

    def _settings(self, paths: dict[FaultyPath, int]) -> WorkerSettings:
        """Write the files that all workers read into the run's scratch folder, and return the workers' settings."""
        setup, golden, scratch = self.setup, self.golden, self.store.run / SCRATCH
        try:
            scratch.mkdir(exist_ok=True)
            setup.dataset.save(scratch / "inputs.npy")
            np.save(scratch / "golden.npy", golden.scores)
            if golden.labels is not None:
                np.save(scratch / "labels.npy", golden.labels)
        except OSError as error:
            raise RunError(f"{scratch}: cannot write the prepared inputs: {error.strerror}; free some space") from None
        model = setup.model
        private = model.file if isinstance(model, SpilledModel) else None
        if private is None and setup.path is None:
            private = scratch.resolve() / "model.onnx"
            save_model(model, private)
        return WorkerSettings(
            model=str(private or (setup.path and setup.path.resolve())),
            sha256="" if private else model.sha256,
            scratch=str(scratch.resolve()),
            has_labels=golden.labels is not None,
            numerics=setup.numerics,
            output=setup.output,
            criterion=golden.criterion,
            records=self.store.identity.records,
            memory=self.shares.kept,
            paths=paths,
            chain=setup.chain,
        )

    def _expected_batches(self, queue: Queue) -> dict[FaultyPath, int]:
        """Return the number of batches that each faulty path is likely to run in all."""
        inputs, batch_size, length = len(self.golden.scores), self.setup.batch_size, self.store.unit_length
        batches = Counter[int]()
        for first, paths in queue.items():
            inputs_each = inputs if first is None else min(length, inputs - first)
            batches_each = -(-inputs_each // batch_size)
            batches.update({path: len(positions) * batches_each for path, positions in paths.items()})
        growth = _EXPECTED_GROWTH if self.store.is_growing else 1
        return {tensors: growth * batches[number] for number, tensors in self.store.paths().items()}
