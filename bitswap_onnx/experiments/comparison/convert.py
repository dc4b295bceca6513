"""Convert the faults of one model for another one with the same weights: whatever a caller gives."""

from pathlib import Path

from bitswap_onnx.campaign.keywords import with_keywords
from bitswap_onnx.campaign.live import given_model
from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.errors import check_path
from bitswap_onnx.faults.fault_list import write_fault_list
from bitswap_onnx.faults.in_memory import given_faults
from bitswap_onnx.graph.list_conversion import ConvertedFaults, converted_faults


def convert(
    faults: object, source: object, partner: object, data: object = None, *, out: str | Path | None = None
) -> ConvertedFaults:
    """Return ``faults``, a list for the model ``source``, as a list for ``partner``; targets are paired by content.

    Models and ``faults`` are as in `bitswap_onnx.campaign.run.run_campaign`; ``data`` is needed only for a PyTorch module,
    as its example input. ``out``: the CSV file to write. Raises BitswapError as
    `bitswap_onnx.graph.list_conversion.converted_faults` does, RunError where the file cannot be written.
    """
    settings, _ = with_keywords(data, Settings(), RunOptions(), {})
    models = (given_model(model, settings) for model in (source, partner))
    converted = converted_faults(given_faults(faults), *models)
    if out is not None:
        write_fault_list(check_path("out", out), converted)
    return converted
