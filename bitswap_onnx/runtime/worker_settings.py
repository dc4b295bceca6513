"""The settings that a worker is started with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bitswap_onnx.outcome import Criterion, criterion_from
from bitswap_onnx.runtime.chain_plan import ChainPlan, decode_plan
from bitswap_onnx.runtime.lanes import FaultyPath
from bitswap_onnx.runtime.messages import Message
from bitswap_onnx.runtime.session import Numerics


@dataclass(frozen=True)
class WorkerSettings:
    """The settings that all workers of a campaign are started with.

    ``model`` is the path of the model's file, which must have the hash ``sha256``, if that is not empty. ``scratch`` holds
    ``inputs.npy``, ``golden.npy`` (scores) and, if ``has_labels``, ``labels.npy``. ``records`` names the blobs to record per
    injection: ``per_input``, ``scores``. ``memory``: bytes for each worker. ``paths``: the faulty paths to come, each with
    the number of batches that are likely to run there. ``chain``: the stages of the model, None if they are not known yet.
    """

    model: str
    sha256: str
    scratch: str
    has_labels: bool
    numerics: Numerics
    output: str
    criterion: Criterion
    records: tuple[str, ...]
    memory: int
    paths: Mapping[FaultyPath, int]
    chain: ChainPlan | None = None


def encode_paths(paths: Mapping[FaultyPath, int]) -> list[Any]:
    """Return paths and their numbers of batches as pairs, as JSON has them."""
    return list(paths.items())


def decode_paths(pairs: list[Any]) -> dict[FaultyPath, int]:
    """Return the paths that `encode_paths` encoded."""
    return {tuple(path): batches for path, batches in pairs}


def encode_settings(settings: WorkerSettings) -> Message:
    """Return settings as a message."""
    return {**asdict(settings), "paths": encode_paths(settings.paths)}


def decode_settings(message: Message) -> WorkerSettings:
    """Return the settings that `encode_settings` encoded."""
    decoded = {
        "numerics": Numerics(**message["numerics"]),
        "criterion": criterion_from(message["criterion"]),
        "records": tuple(message["records"]),
        "paths": decode_paths(message["paths"]),
        "chain": decode_plan(message["chain"]),
    }
    return WorkerSettings(**(message | decoded))
