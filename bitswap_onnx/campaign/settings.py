"""Settings of a model: its data and its numerics, whatever the faults."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bitswap_onnx.campaign.live import given_data
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.errors import BitswapError, check_choice, check_path, check_type, check_whole, shown
from bitswap_onnx.faults.numerals import numbers_in, whole
from bitswap_onnx.outcome import parse_criterion

#: The value of ``seed`` that asks for a seed from the clock.
FROM_CLOCK = -1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a model and its data that do not depend on the faults. The command line has the same options.

    ``data``: a dataset's path (`bitswap_onnx.data.dataset.load_dataset`), or the text ``synthetic`` or ``synthetic:N`` for
    seeded standard-normal inputs (`bitswap_onnx.data.synthetic`); inputs x (N, ...) as an array or tensor, a pair (x, y), a
    dict with both, a torch Dataset or DataLoader, a tf.data.Dataset, a `Dataset`: read once, here; None: the ``.npz``
    beside the model. ``preprocessing`` is also taken as the name of a preset. ``limit``: the number of inputs to draw at
    random with ``seed``; ``first``: the number of first inputs to take. ``input_shape``, without the batch and also as text
    (``3,32,32``), settles open dimensions; None: the data do.
    ``output``: the value that holds the scores. ``criterion``: ``top-1`` or ``tolerance=REL``. With ``seed`` `FROM_CLOCK`
    the clock gives the seed, and ``from_clock`` becomes True. ``provider``, ``fusion``, ``layout``: see
    `bitswap_onnx.runtime.session.Numerics`. ``batch_size``: the one of all runs; None: the model's own, else 32, or a
    smaller one for fewer inputs or large values; one far beyond the inputs is cut to them. ``neurons``: the model runs at
    the opset of flip nodes (`for_neurons`). ``apart``: as in `Numerics`; None: True if faults hit neurons.

    Raises BitswapError for a value that its parameter does not allow.
    """

    data: Any = None
    labels: str | Path | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    limit: int | None = None
    first: int | None = None
    seed: int = 0
    input_shape: Any = None
    output: str | None = None
    criterion: str | None = None
    provider: Literal["auto", "cpu", "cuda"] = "cpu"
    fusion: Literal["framework", "deployed"] = "framework"
    layout: Literal["auto", "plain", "blocked"] = "auto"
    batch_size: int | None = None
    neurons: bool = False
    apart: bool | None = None
    from_clock: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.preprocessing, str):
            self._set("preprocessing", Preprocessing(preset=self.preprocessing))
        check_type("preprocessing", self.preprocessing, Preprocessing, "a preset may be given by its name")
        if self.data is not None:
            self._set("data", given_data(self.data, self.first))
        if self.labels is not None:
            self._set("labels", check_path("labels", self.labels))
        for name in ("limit", "first", "batch_size"):
            if getattr(self, name) is not None:
                self._set(name, check_whole(name, getattr(self, name), 1))
        if isinstance(self.input_shape, str):
            self._set("input_shape", numbers_in("input_shape", self.input_shape, whole))
        if self.input_shape is not None:
            if not isinstance(self.input_shape, Iterable):
                found = shown(self.input_shape)
                raise BitswapError(f"`input_shape`: expected whole numbers like (3, 32, 32), found {found}")
            self._set("input_shape", tuple(check_whole("input_shape", size, 1) for size in self.input_shape))
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        parse_criterion(self.criterion)
        self._set("seed", check_whole("seed", self.seed, FROM_CLOCK))
        if self.seed == FROM_CLOCK:
            self._set("seed", time.time_ns() % (1 << 32))
            self._set("from_clock", True)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


_CHOICES = {
    "provider": ("auto", "cpu", "cuda"),
    "fusion": ("framework", "deployed"),
    "layout": ("auto", "plain", "blocked"),
}


def for_neurons(settings: Settings) -> Settings:
    """Return the settings with the only numerics in which a flip node without a fault leaves all bits alone.

    Raises BitswapError for blocked kernels and folded batch-norm: there a node's result depends on its neighbours.
    """
    asked = {"layout": (settings.layout, "blocked"), "fusion": (settings.fusion, "deployed")}
    for parameter, (value, wrong) in asked.items():
        if value == wrong:
            raise BitswapError(
                f"`{parameter}` {wrong}: neuron faults need `layout` plain and `fusion` framework; leave it out"
            )
    return replace(settings, layout="plain", neurons=True)
