"""One subprocess that runs work units on one thread: ``python -m bitswap_onnx.runtime.worker``.

It reads messages from standard input and answers on standard output (`send`, `receive`): first the settings, then one
unit at a time. It never opens the store, holds no lock, and ends when its pipe closes. A message is one line of JSON,
followed by the bytes of its blobs.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bitswap_onnx.errors import BitswapError, ModelError
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.outcome import Criterion, Golden, judge
from bitswap_onnx.runtime.reference import ReferenceEngine
from bitswap_onnx.runtime.session import Numerics

Message = dict[str, Any]


def send(pipe: BinaryIO, message: Message, blobs: dict[str, bytes] | None = None) -> None:
    """Write one message and its blobs."""
    sizes = {name: len(blob) for name, blob in (blobs or {}).items()}
    pipe.write(json.dumps({**message, "blobs": sizes}).encode() + b"\n")
    for blob in (blobs or {}).values():
        pipe.write(blob)
    pipe.flush()


def receive(pipe: BinaryIO) -> tuple[Message, dict[str, bytes]] | None:
    """Read one message and its blobs, or None where the other side is gone."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    message: Message = json.loads(line)
    sizes = message.pop("blobs")
    blobs = {name: pipe.read(size) for name, size in sizes.items()}
    return (message, blobs) if all(len(blobs[name]) == size for name, size in sizes.items()) else None


class _Worker:
    """What a worker keeps between units: the engine, the inputs and the golden scores, all mapped from files."""

    def __init__(self, settings: Message) -> None:
        model = load_model(settings["model"])
        if model.sha256 != settings["sha256"]:
            raise ModelError(f"{settings['model']}: the model changed while its campaign runs; start a new campaign")
        scratch = Path(settings["scratch"])
        labels = np.load(scratch / "labels.npy") if settings["labels"] else None
        self.engine = ReferenceEngine(model, Numerics(**settings["numerics"]), settings["output"])
        self.inputs = np.load(scratch / "inputs.npy", mmap_mode="r")
        self.golden = Golden(np.load(scratch / "golden.npy", mmap_mode="r"), labels, Criterion(**settings["criterion"]))
        self.records = frozenset(settings["records"])

    def run(self, unit: Message) -> tuple[Message, dict[str, bytes]]:
        first, stop = unit["first"], unit["stop"]
        scores = self.engine.scores(unit["edits"], self.inputs[first:stop])
        outcomes = judge(self.golden.slice(first, stop), scores)
        blobs = {}
        if "per_input" in self.records:
            blobs["per_input"] = outcomes.encoded()
        if "scores" in self.records:
            blobs["scores"] = scores.astype(np.float32).tobytes()
        return {"counts": outcomes.counts}, blobs


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until the pipe closes; what a user can mend goes back as ``{"error": ...}``."""
    worker: _Worker | None = None
    while (request := receive(requests)) is not None:
        try:
            if worker is None:
                worker = _Worker(request[0])
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
