"""What a campaign and its workers say to each other: work, its result, and their form on a pipe.

A message is one line of JSON, followed by the bytes of its blobs.
"""

import json
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.graph.edits import InjectionEdits, NeuronEdit, WeightEdit
from bitswap_onnx.outcome import Counts


@dataclass(frozen=True, slots=True)
class Work:
    """A part of a lot: ``positions`` of injections, after the ``control`` if this is the first; ``held`` as there."""

    chunk: Chunk
    path: int
    positions: tuple[int, ...]
    control: bool
    held: str | None = None


Engine = Literal["incremental", "reference"]


@dataclass(frozen=True, slots=True)
class Unit:
    """Some ``work`` on the faulty ``path``: ``edits`` to run, one entry per injection.

    ``label`` names it in messages. ``lane`` is what another worker found out about the path, if one did. ``whole``: its lane
    was given up, so it runs as whole models.
    """

    work: Work
    label: str
    path: tuple[str, ...]
    edits: list[InjectionEdits]
    engine: Engine
    lane: int | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What a worker made of a unit.

    ``control``: inputs that the null control left masked, None if none ran; if it did not hold, nothing else was run. Per
    injection: counts, and the recorded blobs (``per_input``, ``scores``) by name. ``kind``: what the path ran on; ``lane``
    is what the incremental engine found out about it.
    """

    control: int | None
    counts: list[Counts]
    blobs: list[dict[str, bytes]]
    seconds: float
    lane: int | None = None
    kind: str = "whole"


Message = dict[str, Any]


def encode_edits(edits: InjectionEdits) -> list[Any]:
    """Return an injection's edits as JSON has them: weights and neurons, each edit a list of its fields."""
    return [edits.weights, edits.neurons]


def decode_edits(encoded: list[Any]) -> InjectionEdits:
    """Return the edits that `encode_edits` made a message of."""
    weights, neurons = encoded
    return InjectionEdits(
        {key: list(map(WeightEdit._make, edits)) for key, edits in weights.items()},
        {key: list(map(NeuronEdit._make, edits)) for key, edits in neurons.items()},
    )


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
