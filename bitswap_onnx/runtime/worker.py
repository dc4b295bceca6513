"""One subprocess that runs work units on one thread: ``python -m bitswap_onnx.runtime.worker``.

It reads messages from standard input and answers on standard output (`send`, `receive`): first the settings, then one
unit at a time, and where a list has grown, before its next unit, which paths there are. It never opens the store, holds
no lock, and ends when its pipe closes. A message is one line of JSON, followed by the bytes of its blobs.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bitswap_onnx.errors import BitswapError, ModelError
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.sites import find_sites, is_site
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.outcome import Criterion, Golden, Outcomes, judge_rows
from bitswap_onnx.runtime.incremental import IncrementalEngine
from bitswap_onnx.runtime.lanes import affected_inputs
from bitswap_onnx.runtime.messages import Message, decode_edits, receive, send
from bitswap_onnx.runtime.reference import ReferenceEngine
from bitswap_onnx.runtime.session import Numerics

Rows = np.ndarray[Any, np.dtype[np.intp]]


class Worker:
    """What a worker keeps between units: the engines, the inputs and the golden scores, all mapped from files."""

    def __init__(self, settings: Message) -> None:
        model = load_model(settings["model"])
        if model.sha256 != settings["sha256"]:
            raise ModelError(f"{settings['model']}: the model changed while its campaign runs; start a new campaign")
        scratch = Path(settings["scratch"])
        labels = np.load(scratch / "labels.npy") if settings["labels"] else None
        inputs = np.load(scratch / "inputs.npy", mmap_mode="r")
        scores = np.load(scratch / "golden.npy", mmap_mode="r")
        self.golden = Golden(scores, labels, Criterion(**settings["criterion"]))
        numerics, output = Numerics(**settings["numerics"]), settings["output"]
        paths = _batches_by_path(settings["paths"])
        wanted = {key for path in paths for key in path if is_site(key)}
        slicer = Slicer(model, output, numerics.batch_size, inputs.shape[1:])
        sites = {site.key: site for site in (find_sites(slicer) if wanted else ()) if site.key in wanted}
        self.reference = ReferenceEngine(model, numerics, output, inputs, scores, sites)
        self.incremental = IncrementalEngine(model, numerics, output, inputs, scores, paths, sites, settings["memory"])
        self.records = frozenset(settings["records"])
        self.part: tuple[tuple[int, int], Golden] | None = None

    def run(self, unit: Message) -> tuple[Message, dict[str, bytes]]:
        """Run one unit; return the reply and the recorded blobs, by injection's number and name."""
        begun = time.perf_counter()
        path, first, stop = tuple(unit["path"]), unit["first"], unit["stop"]
        engine = self.reference if unit["engine"] == "reference" else self.incremental
        if unit["whole"]:
            self.incremental.give_up(path)
        elif unit["lane"] is not None:
            self.incremental.adopt_lane(path, unit["lane"])
        kind = self.incremental.lane_kind(path) if engine is self.incremental else "whole"
        is_due = unit["control"] and unit["held"] != kind
        reply: Message = {"control": engine.control(path, first, stop) if is_due else None, "counts": [], "kind": kind}
        blobs: dict[str, bytes] = {}
        if reply["control"] in (None, stop - first):
            injections = [decode_edits(encoded) for encoded in unit["edits"]]
            tallies = [_Tally(self.records) for _ in injections]
            for start, faulty in engine.run(path, injections, first, stop):
                golden = self._golden_part(start, faulty.inputs)
                outcomes = judge_rows(golden, faulty.rows, faulty.scores, faulty.bounds)
                for number, part, own in zip(faulty.numbers, faulty.parts, outcomes, strict=True):
                    over = affected_inputs(injections[number], start, faulty.inputs)
                    tallies[number].add(own, over, golden, faulty.rows[part], faulty.scores[part])
            reply["counts"] = [tally.counts for tally in tallies]
            blobs = {f"{i} {name}": blob for i, tally in enumerate(tallies) for name, blob in tally.blobs().items()}
        if engine is self.incremental:
            reply["lane"] = self.incremental.lane_number(path)
        return {**reply, "seconds": time.perf_counter() - begun}, blobs

    def expect(self, paths: list[Any]) -> None:
        """Take in which faulty paths will come, in settings' form; none goes through another neuron site than before."""
        self.incremental.expect(_batches_by_path(paths))

    def _golden_part(self, first: int, inputs: int) -> Golden:
        """Return the golden scores of some inputs; the last ones are kept, with what was made of them."""
        if self.part is None or self.part[0] != (first, inputs):
            self.part = (first, inputs), self.golden.take(slice(first, first + inputs))
        return self.part[1]


class _Tally:
    """What one injection comes to, summed over the parts of a chunk; ``inputs`` counts those that it was run over."""

    def __init__(self, records: frozenset[str]) -> None:
        self.records = records
        self.counts: dict[str, int | None] = {"inputs": 0}
        self.per_input: list[bytes] = []
        self.scores: list[bytes] = []

    def add(self, outcomes: Outcomes, over: Rows, golden: Golden, rows: Rows, scores: np.ndarray[Any, Any]) -> None:
        """Add what became of the golden inputs ``over``, of which ``rows`` have ``scores`` of their own."""
        for name, count in {**outcomes.over(over).counts, "inputs": len(over)}.items():
            before = self.counts.get(name, 0)
            self.counts[name] = None if count is None or before is None else before + count
        if "per_input" in self.records:
            self.per_input.append(outcomes.over(over).encoded())
        if "scores" in self.records:
            full = golden.scores.astype(np.float32)
            full[rows] = scores
            self.scores.append(full[over].tobytes())

    def blobs(self) -> dict[str, bytes]:
        parts = {"per_input": self.per_input, "scores": self.scores}
        return {name: b"".join(parts[name]) for name in sorted(self.records)}


def _batches_by_path(paths: list[Any]) -> dict[tuple[str, ...], int]:
    return {tuple(path): batches for path, batches in paths}


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until the pipe closes; what a user can mend goes back as ``{"error": ...}``."""
    worker: Worker | None = None
    while (request := receive(requests)) is not None:
        try:
            if worker is None:
                worker = Worker(request[0])
                send(replies, {})
            elif "expect" in request[0]:
                worker.expect(request[0]["expect"])
                send(replies, {})
            else:
                send(replies, *worker.run(request[0]))
        except BitswapError as error:
            send(replies, {"error": str(error)})


def main() -> None:
    """Serve the parent process. Ctrl-C is the parent's to handle; stray prints go to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, replies)
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
