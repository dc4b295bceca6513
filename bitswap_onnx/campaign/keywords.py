"""Keywords of all functions that run a model: each field of `Settings` and `RunOptions`, and the parts of preprocessing.

So a caller writes ``run_campaign(model, faults, data=(x, y), run="run", preset="cifar10")`` and needs neither object.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from bitswap_onnx.campaign.options import Audit, EngineName, OnProgress, Record, RunOptions
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.errors import BitswapError, check_type, nearest
from bitswap_onnx.faults.fault import BitOrder
from bitswap_onnx.sampling.input_blocks import PerInjection


class PreprocessingKeywords(TypedDict, total=False):
    """The fields of `Preprocessing`."""

    preset: str | None
    mean: float | Sequence[float] | str | None
    std: float | Sequence[float] | str | None
    resize: Sequence[int] | str | None
    data_layout: str | None


class SettingsKeywords(PreprocessingKeywords, total=False):
    """The fields of `Settings` but ``data``, which has a place of its own, and those that follow from others."""

    labels: str | Path | None
    preprocessing: Preprocessing | str
    limit: int | None
    first: int | None
    seed: int
    input_shape: Sequence[int] | str | None
    output: str | None
    criterion: str | None
    provider: Literal["auto", "cpu", "cuda"]
    fusion: Literal["framework", "deployed"]
    layout: Literal["auto", "plain", "blocked"]
    batch_size: int | None


class SharedKeywords(SettingsKeywords, total=False):
    """The fields of `Settings`, and those of `RunOptions` but ``bit_order``, for functions that have it themselves."""

    run: str | Path | None
    resume: bool
    workers: int | None
    engine: EngineName
    memory: int | str | None
    audit: Audit | int | str
    save_outputs: bool
    per_input: bool
    records: Collection[Record]
    inputs_per_injection: PerInjection
    on_progress: OnProgress | None
    on_notes: Callable[[Iterable[str]], None] | None
    stop: threading.Event | None


class Keywords(SharedKeywords, total=False):
    """The fields of `Settings` and of `RunOptions`."""

    bit_order: BitOrder


def with_keywords(
    data: object, settings: Settings, options: RunOptions, keywords: SharedKeywords
) -> tuple[Settings, RunOptions]:
    """Return settings and options with ``data`` and the keywords in place of their fields.

    Raises BitswapError for an unknown keyword, for data that are given twice, and as `Settings` and `RunOptions` do.
    """
    check_type("settings", settings, Settings, "such as Settings(batch_size=32)")
    check_type("options", options, RunOptions, "such as RunOptions(workers=2)")
    given: dict[str, Any] = dict(keywords)
    unknown = next((name for name in given if name not in Keywords.__annotations__), None)
    if unknown is not None:
        close = nearest(unknown, Keywords.__annotations__)
        raise BitswapError(
            f"{unknown}: expected a field of Settings or RunOptions, found no such name; the nearest are {close}"
        )
    parts = {name: given.pop(name) for name in PreprocessingKeywords.__annotations__ if name in given}
    changes = {name: given.pop(name) for name in SettingsKeywords.__annotations__ if name in given}
    if parts:
        preprocessing = changes.get("preprocessing", settings.preprocessing)
        if isinstance(preprocessing, str):
            preprocessing = Preprocessing(preset=preprocessing)
        changes["preprocessing"] = replace(preprocessing, **parts)
    if data is not None:
        if isinstance(data, RunOptions):
            raise BitswapError("`data`: expected inputs, found RunOptions; give options=RunOptions(...)")
        if settings.data is not None:
            raise BitswapError("`data`: expected once, found in `settings` too; leave one of them out")
        changes["data"] = data
    return (replace(settings, **changes) if changes else settings), (replace(options, **given) if given else options)
