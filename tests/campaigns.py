"""Running campaigns in tests: keyword arguments divided between options of the run and the rest."""

from dataclasses import fields
from typing import Any

from bitswap_onnx.campaign.options import RunOptions

_NAMES = {field.name for field in fields(RunOptions)}


def run_options(arguments: dict[str, Any], **defaults: Any) -> RunOptions:
    """Take the options of a run out of ``arguments``; ``defaults`` hold where there are none."""
    given = {name: arguments.pop(name) for name in list(arguments) if name in _NAMES}
    return RunOptions(**{**defaults, **given})
