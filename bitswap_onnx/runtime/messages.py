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
class PathWork:
    """Injections of one faulty path, by their ``positions`` in the campaign; ``path`` is the number of the path.

    ``control``: whether this is the first work of the path on its chunk of inputs. Its null control is then due, unless the
    path still runs on ``controlled_lane``, the lane whose null control has already passed.
    """

    path: int
    positions: tuple[int, ...]
    control: bool
    controlled_lane: str | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """Injections of one or several faulty paths to run over one chunk of inputs."""

    chunk: Chunk
    parts: tuple[PathWork, ...]


@dataclass(frozen=True, slots=True)
class PathUnit:
    """What a worker needs for the injections of one path: the keys of the faulty ``path``, and ``edits`` per injection.

    ``control`` and ``controlled_lane`` as in `PathWork`. ``whole``: the path runs as whole models, because its lane was
    given up.
    """

    path: tuple[str, ...]
    edits: list[InjectionEdits]
    control: bool = False
    controlled_lane: str | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """Some ``work`` with all that a worker needs for it, ``parts`` in the same order.

    ``label`` names it in messages. ``batch``: the inputs of one batch whose fingerprint
    (`bitswap_onnx.runtime.fingerprint`) is wanted per injection.
    """

    work: Work
    label: str
    parts: list[PathUnit]
    engine: Engine
    batch: Chunk


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a unit.

    ``controls``: for each part, the number of inputs that the null control left masked, None if none was due. If it left
    fewer than all, the unit has no outcomes. ``counts``, ``blobs`` (the recorded ``per_input`` and ``scores``, by name) and
    ``fingerprints`` (of the batch; None for an injection that runs over none of its inputs) are per injection, part after
    part. ``seconds`` is the time of the whole unit, ``spans`` where it went (`bitswap_onnx.runtime.stopwatch.SPANS`).
    ``lane_kinds``: the kind of lane of each part.
    """

    controls: list[int | None]
    counts: list[Counts]
    blobs: list[dict[str, bytes]]
    fingerprints: list[int | None]
    seconds: float
    lane_kinds: list[str]
    spans: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """The part of a `Unit` that is sent to a worker."""

    chunk: Chunk
    parts: list[PathUnit]
    engine: Engine
    batch: Chunk


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
    parts = [{**_fields(part), "edits": [encode_edits(edits) for edits in part.edits]} for part in request.parts]
    return {"chunk": astuple(request.chunk), "parts": parts, "engine": request.engine, "batch": astuple(request.batch)}


def decode_request(message: Message) -> WorkerRequest:
    """Return the request that `encode_request` encoded."""
    parts = [
        PathUnit(**{**part, "path": tuple(part["path"]), "edits": [decode_edits(encoded) for encoded in part["edits"]]})
        for part in message["parts"]
    ]
    return WorkerRequest(Chunk(*message["chunk"]), parts, message["engine"], Chunk(*message["batch"]))


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


def _fields(record: PathUnit | Result) -> Message:
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
