"""Messages between a campaign and its workers, and their form on a pipe.

A campaign cuts its work into units (`Unit`). A worker gets a `WorkerRequest` for each and answers with a `Result`. On the
pipe a message is one line of JSON, followed by the bytes of its blobs.
"""

import json
from dataclasses import astuple, dataclass, field
from itertools import starmap
from typing import Any, BinaryIO, Literal

from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.graph.edits import InjectionEdits, NeuronEdit, WeightEdit
from bitswap_onnx.outcome import Counts

Engine = Literal["incremental", "reference"]

#: A message as JSON has it.
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Work:
    """Injections of one faulty path, by their ``positions`` in the campaign, to run over one chunk of inputs.

    ``path`` is the number of the path. ``controlled_lane``: the lane whose null control has already passed; a new lane
    needs its own. ``control``: whether this is the first unit of the path on this chunk. Its null control then runs
    first, unless the worker uses ``controlled_lane``.
    """

    chunk: Chunk
    path: int
    positions: tuple[int, ...]
    control: bool
    controlled_lane: str | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """Some ``work`` with all that a worker needs for it: the keys of the faulty ``path``, and ``edits`` per injection.

    ``label`` names the unit in messages. ``lane_number``: the lane that another worker found for the path, None if none has.
    ``whole``: the path runs as whole models, because its lane was given up. ``batch``: the inputs of one batch whose
    fingerprint (`bitswap_onnx.runtime.fingerprint`) is wanted per injection.
    """

    work: Work
    label: str
    path: tuple[str, ...]
    edits: list[InjectionEdits]
    engine: Engine
    batch: Chunk
    lane_number: int | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a unit.

    ``control``: the number of inputs that the null control left masked, None if none ran. If it left fewer than all,
    nothing else was run. ``counts``, ``blobs`` (the recorded ``per_input`` and ``scores``, by name) and ``fingerprints`` (of
    the batch; None for an injection that runs over none of its inputs) are per injection.
    ``seconds`` is the time of the whole unit, ``spans`` where it went (`bitswap_onnx.runtime.stopwatch.SPANS`).
    ``lane_number`` is the lane that the incremental engine found for the path, ``lane_kind`` its kind.
    """

    control: int | None
    counts: list[Counts]
    blobs: list[dict[str, bytes]]
    fingerprints: list[int | None]
    seconds: float
    lane_number: int | None = None
    lane_kind: str = "whole"
    spans: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """The part of a `Unit` and its `Work` that is sent to a worker; the fields have the same meaning as there."""

    path: tuple[str, ...]
    chunk: Chunk
    batch: Chunk
    edits: list[InjectionEdits]
    control: bool
    controlled_lane: str | None
    engine: Engine
    lane_number: int | None
    whole: bool


def encode_edits(edits: InjectionEdits) -> list[Any]:
    """Return the edits of an injection as JSON has them: weights and neurons by key, each edit a list of its fields."""
    return [edits.weights, edits.neurons]


def decode_edits(encoded: list[Any]) -> InjectionEdits:
    """Return the edits that `encode_edits` encoded."""
    weights, neurons = encoded
    return InjectionEdits(
        {key: list(starmap(WeightEdit, edits)) for key, edits in weights.items()},
        {key: list(starmap(NeuronEdit, edits)) for key, edits in neurons.items()},
    )


def encode_request(request: WorkerRequest) -> Message:
    """Return a request as a message."""
    edits = [encode_edits(edits) for edits in request.edits]
    return {**_fields(request), "chunk": astuple(request.chunk), "batch": astuple(request.batch), "edits": edits}


def decode_request(message: Message) -> WorkerRequest:
    """Return the request that `encode_request` encoded."""
    edits = [decode_edits(encoded) for encoded in message["edits"]]
    decoded = {"path": tuple(message["path"]), "chunk": Chunk(*message["chunk"]), "batch": Chunk(*message["batch"])}
    return WorkerRequest(**{**message, **decoded, "edits": edits})


def encode_result(result: Result) -> tuple[Message, dict[str, bytes]]:
    """Return a result as a message and its blobs, which are named by the injection's number and their own name."""
    message = _fields(result)
    blobs = {f"{i} {name}": blob for i, named in enumerate(message.pop("blobs")) for name, blob in named.items()}
    return message, blobs


def decode_result(message: Message, blobs: dict[str, bytes]) -> Result:
    """Return the result that `encode_result` encoded."""
    by_injection: list[dict[str, bytes]] = [{} for _ in message["counts"]]
    for name, blob in blobs.items():
        number, _, kind = name.partition(" ")
        by_injection[int(number)][kind] = blob
    return Result(**message, blobs=by_injection)


def _fields(record: WorkerRequest | Result) -> Message:
    return {name: getattr(record, name) for name in record.__slots__}


def send(pipe: BinaryIO, message: Message, blobs: dict[str, bytes] | None = None) -> None:
    """Write one message and its blobs."""
    sizes = {name: len(blob) for name, blob in (blobs or {}).items()}
    pipe.write(json.dumps({**message, "blobs": sizes}).encode() + b"\n")
    for blob in (blobs or {}).values():
        pipe.write(blob)
    pipe.flush()


def receive(pipe: BinaryIO) -> tuple[Message, dict[str, bytes]] | None:
    """Read one message and its blobs; return None if the other side has ended."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    message: Message = json.loads(line)
    sizes = message.pop("blobs")
    blobs = {name: pipe.read(size) for name, size in sizes.items()}
    return (message, blobs) if all(len(blobs[name]) == size for name, size in sizes.items()) else None
