"""Messages of workers: each arrives as it was sent, through JSON and a pipe."""

import io
import json

import pytest

from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.graph.edits import ALL_INPUTS, InjectionEdits, NeuronEdit, WeightEdit
from bitswap_onnx.outcome import Tolerance
from bitswap_onnx.runtime.chain_plan import ChainPlan
from bitswap_onnx.runtime.messages import (
    Message,
    PathUnit,
    Result,
    WorkerRequest,
    decode_request,
    decode_result,
    encode_request,
    encode_result,
    receive,
    send,
)
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.worker_settings import WorkerSettings, decode_settings, encode_settings

EDITS = [
    InjectionEdits({"a.weight": [WeightEdit(3, 1 << 63), WeightEdit(3, 1)], "b.weight": []}),
    InjectionEdits(neurons={"@output:c": [NeuronEdit(ALL_INPUTS, 0, 0, (1 << 64) - 1), NeuronEdit(7, 5, 1, 2)]}),
    InjectionEdits({"a.weight": [WeightEdit(0, 2)]}, {"@input:d": [NeuronEdit(1, 2, 3, 4)]}),
]


def through_pipe(message: Message, blobs: dict[str, bytes] | None = None) -> tuple[Message, dict[str, bytes]]:
    pipe = io.BytesIO()
    send(pipe, message, blobs)
    pipe.seek(0)
    arrived = receive(pipe)
    assert arrived is not None
    assert pipe.read() == b""
    return arrived


def test_a_request_arrives_with_its_types() -> None:
    path = ("@input:d", "@output:c", "a.weight")
    parts = [PathUnit(path, EDITS, True, "packed"), PathUnit(("a.weight",), EDITS[:1], whole=True)]
    request = WorkerRequest(Chunk(8, 24), parts, "incremental", Chunk(16, 20))
    arrived = decode_request(through_pipe(encode_request(request))[0])
    assert arrived == request
    every = [edits for part in arrived.parts for edits in part.edits]
    assert all(type(edit) is WeightEdit for edits in every for own in edits.weights.values() for edit in own)
    assert all(type(edit) is NeuronEdit for edits in every for own in edits.neurons.values() for edit in own)


@pytest.mark.parametrize(
    "result",
    [
        Result(
            [16, None],
            [{"inputs": 16, "sdc_5": None}, {"inputs": 1}],
            [{}, {}],
            [1, None],
            0.5,
            ["stages", "packed"],
            {"faults": 0.25},
        ),
        Result(
            [None],
            [{"inputs": 1}] * 11,
            [{"per_input": bytes([i]), "scores": b"\n{}"} for i in range(11)],
            [*range(11)],
            1e-9,
            ["whole"],
        ),
        Result([7], [], [], [], 0.25, ["whole"]),
    ],
)
def test_a_result_arrives_with_its_blobs(result: Result) -> None:
    assert decode_result(*through_pipe(*encode_result(result))) == result


def test_settings_arrive() -> None:
    settings = WorkerSettings(
        model="m.onnx",
        sha256="0" * 64,
        scratch="s",
        has_labels=True,
        numerics=Numerics(layout="blocked", batch_size=3),
        output="scores",
        criterion=Tolerance(0.1, 2.5),
        records=("per_input", "scores"),
        memory=1 << 40,
        paths={("a.weight",): 3, ("@output:c", "a.weight"): 7},
        chain=ChainPlan((("x",), ("a", "b"), ("y",)), (1,)),
    )
    assert decode_settings(through_pipe(encode_settings(settings))[0]) == settings


def test_a_message_that_is_cut_off_is_none() -> None:
    pipe = io.BytesIO()
    send(pipe, {"seconds": 1}, {"0 scores": b"abcd"})
    whole = pipe.getvalue()
    assert json.loads(whole.split(b"\n")[0]) == {"seconds": 1, "blobs": {"0 scores": 4}}
    assert all(receive(io.BytesIO(whole[:length])) is None for length in range(len(whole)))
