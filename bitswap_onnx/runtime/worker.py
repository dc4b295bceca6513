"""One subprocess that runs work units on one thread: ``python -m bitswap_onnx.runtime.worker``.

It reads messages from standard input and answers each on standard output (`bitswap_onnx.runtime.messages`). The first
message has the worker's settings; each later one is a unit to run, or, where a list has grown, the faulty paths to expect.
A worker never opens the store, holds no lock, and ends when its pipe closes.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.errors import BitswapError, ModelError
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.sites import find_sites, is_site
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.outcome import Counts, Golden, Outcomes, Scores, judge_rows
from bitswap_onnx.runtime.fingerprint import fingerprint
from bitswap_onnx.runtime.incremental import IncrementalEngine
from bitswap_onnx.runtime.lanes import FaultyPath, affected_inputs
from bitswap_onnx.runtime.messages import (
    Message,
    PathUnit,
    Result,
    WorkerRequest,
    decode_request,
    encode_result,
    receive,
    send,
)
from bitswap_onnx.runtime.reference import ReferenceEngine
from bitswap_onnx.runtime.stopwatch import STOPWATCH
from bitswap_onnx.runtime.worker_settings import WorkerSettings, decode_paths, decode_settings

Rows = NDArray[np.intp]
AnyEngine = ReferenceEngine | IncrementalEngine


class Worker:
    """Runs units on both engines; the engines, the inputs and the golden scores stay from one unit to the next."""

    def __init__(self, settings: WorkerSettings) -> None:
        model = load_model(settings.model)
        if settings.sha256 and model.sha256 != settings.sha256:
            raise ModelError(f"{settings.model}: the model changed while its campaign runs; start a new campaign")
        scratch = Path(settings.scratch)
        labels = np.load(scratch / "labels.npy") if settings.has_labels else None
        inputs = np.load(scratch / "inputs.npy", mmap_mode="r")
        scores = np.load(scratch / "golden.npy", mmap_mode="r")
        self.golden = Golden(scores, labels, settings.criterion)
        numerics, output, paths = settings.numerics, settings.output, settings.paths
        keys = {key for path in paths for key in path if is_site(key)}
        slicer = Slicer(model, output, numerics.batch_size, inputs.shape[1:])
        sites = {site.key: site for site in (find_sites(slicer) if keys else ()) if site.key in keys}
        self.reference = ReferenceEngine(model, numerics, output, inputs, scores, sites)
        self.incremental = IncrementalEngine(
            model,
            numerics,
            output,
            inputs,
            scores,
            paths,
            sites,
            settings.memory,
            plan=None if sites else settings.chain,
        )
        self.records = frozenset(settings.records)
        self._golden_part: tuple[Chunk, Golden] | None = None

    def run(self, request: WorkerRequest) -> Result:
        """Run one unit: the null controls that are due, then the injections, unless a control failed."""
        begun = time.perf_counter()
        STOPWATCH.restart()
        for part in request.parts:
            if part.whole:
                self.incremental.give_up(part.path)
        engine = self.reference if request.engine == "reference" else self.incremental
        kinds: list[str] = [engine.lane_kind(part.path) for part in request.parts]
        controls = [self._control(engine, request, part, kind) for part, kind in zip(request.parts, kinds, strict=True)]
        whole = len(request.chunk)
        tallies = self._run_injections(engine, request) if set(controls) <= {None, whole} else []
        if tallies and engine.lost:  # golden rows that ran along did not stay golden
            controls, tallies = [max(0, whole - engine.lost)] * len(controls), []
        counts, blobs = [tally.counts for tally in tallies], [tally.blobs() for tally in tallies]
        fingerprints = [tally.fingerprint for tally in tallies]
        seconds, spans = time.perf_counter() - begun, STOPWATCH.seconds
        return Result(controls, counts, blobs, fingerprints, seconds, kinds, spans)

    def expect(self, paths: Mapping[FaultyPath, int]) -> None:
        """Take in the faulty paths to come, with their batches; their neuron sites are among those of the settings."""
        self.incremental.expect(paths)

    def _control(self, engine: AnyEngine, request: WorkerRequest, part: PathUnit, kind: str) -> int | None:
        is_due = part.control and part.controlled_lane != kind
        return engine.control(part.path, request.chunk.first, request.chunk.stop) if is_due else None

    @STOPWATCH.span("faults")
    def _run_injections(self, engine: AnyEngine, request: WorkerRequest) -> list["_Tally"]:
        injections = [edits for part in request.parts for edits in part.edits]
        tallies = [_Tally(self.records) for _ in injections]
        work, batch = [(part.path, part.edits) for part in request.parts], request.batch
        for start, faulty in engine.run_all(work, request.chunk.first, request.chunk.stop):
            golden = self._golden_of(Chunk(start, start + faulty.inputs))
            outcomes = judge_rows(golden, faulty.rows, faulty.scores, faulty.bounds)
            for number, part, judged in zip(faulty.numbers, faulty.parts, outcomes, strict=True):
                inputs = affected_inputs(injections[number], start, faulty.inputs)
                rows, scores = faulty.rows[part], faulty.scores[part]
                tallies[number].add(judged, inputs, golden, rows, scores)
                of_batch = inputs[slice(*np.searchsorted(inputs, (batch.first - start, batch.stop - start)))]
                if len(of_batch):
                    tallies[number].fingerprint = fingerprint(judged, golden.scores, rows, scores, of_batch)
        return tallies

    def _golden_of(self, chunk: Chunk) -> Golden:
        """Return the golden scores of some inputs; the last ones are kept, with all that was computed from them."""
        if self._golden_part is None or self._golden_part[0] != chunk:
            self._golden_part = chunk, self.golden.take(slice(chunk.first, chunk.stop))
        return self._golden_part[1]


class _Tally:
    """The counts and blobs of one injection, summed over the parts of a chunk."""

    def __init__(self, records: frozenset[str]) -> None:
        self.records = records
        self.counts: Counts = {"inputs": 0}
        self.per_input: list[bytes] = []
        self.scores: list[bytes] = []
        self.fingerprint: int | None = None

    def add(self, outcomes: Outcomes, inputs: Rows, golden: Golden, rows: Rows, scores: Scores) -> None:
        """Add the outcomes of ``inputs``; ``rows`` have the faulty ``scores``, all others the golden ones."""
        for name, count in {**outcomes.over(inputs).counts, "inputs": len(inputs)}.items():
            before = self.counts.get(name, 0)
            self.counts[name] = None if count is None or before is None else before + count
        if "per_input" in self.records:
            self.per_input.append(outcomes.over(inputs).encoded())
        if "scores" in self.records:
            full = golden.scores.astype(np.float32)
            full[rows] = scores
            self.scores.append(full[inputs].tobytes())

    def blobs(self) -> dict[str, bytes]:
        """Return the recorded bytes by name."""
        blobs = {"per_input": self.per_input, "scores": self.scores}
        return {name: b"".join(blobs[name]) for name in sorted(self.records)}


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until the pipe closes; errors that the user can mend are answered as ``{"error": message}``."""
    worker: Worker | None = None
    while (request := receive(requests)) is not None:
        try:
            if worker is None:
                worker = Worker(decode_settings(request[0]))
                send(replies, {})
            else:
                send(replies, *_answer(worker, request[0]))
        except BitswapError as error:
            send(replies, {"error": str(error)})


def _answer(worker: Worker, message: Message) -> tuple[Message, dict[str, bytes]]:
    if "expect" in message:
        worker.expect(decode_paths(message["expect"]))
        return {}, {}
    return encode_result(worker.run(decode_request(message)))


def main() -> None:
    """Serve the parent process; Ctrl-C is left to the parent, and stray prints go to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, replies)
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
