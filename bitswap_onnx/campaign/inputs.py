"""The inputs of a campaign: the data that its settings name, or the data beside its model."""

from bitswap_onnx.campaign.live import DATA_READERS, GivenData
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.data.dataset import Dataset, load_dataset
from bitswap_onnx.data.synthetic import DEFAULT_INPUTS, is_synthetic, synthetic_count, synthetic_dataset
from bitswap_onnx.errors import DataError
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.signature import OpenInput


def chosen_data(model: Model, settings: Settings) -> GivenData:
    """Return the data to run ``model`` on: those of the settings, else the .npz beside it; raises DataError for none."""
    given: GivenData | None = settings.data
    if given is not None:
        return given
    if model.source is None:
        raise DataError(
            f"{model.name}: expected data to run it on, found none; give data=(x, y) or a path, or `data` synthetic[:N] "
            "for N inputs of noise"
        )
    beside = model.source.with_suffix(".npz")
    if not beside.is_file():
        raise DataError(
            f"{model.source}: expected data to run it on, found no {beside.name} beside it; give `data` FILE, or `data` "
            "synthetic[:N] for N inputs of noise"
        )
    return beside


def load_inputs(model: Model, declared: OpenInput, settings: Settings) -> Dataset:
    """Load the data for ``model``; they give sizes to what its ``declared`` input and the settings leave open.

    Raises DataError as `chosen_data` and `load_dataset`, and for a `Dataset` that was loaded for another input; ModelError
    for open dimensions that the data leave open, too.
    """
    shape = settings.input_shape
    if shape is not None or None not in declared.dims:
        shape = declared.settled(shape).shape
    data = chosen_data(model, settings)
    if isinstance(data, Dataset):
        return _ready(data, declared, settings)
    if isinstance(data, str) and is_synthetic(data):
        spec = declared.settled(shape)
        return synthetic_dataset(spec.shape, spec.dtype, _synthetic_inputs(data, settings), settings.seed)
    return load_dataset(
        data,
        input_shape=declared.dims if shape is None else shape,
        dtype=declared.dtype,
        preprocessing=settings.preprocessing,
        labels=settings.labels,
        limit=settings.limit,
        first=settings.first,
        seed=settings.seed,
        readers=DATA_READERS,
    )


def _ready(data: Dataset, declared: OpenInput, settings: Settings) -> Dataset:
    """Return inputs that were loaded before, if they fit the model and nothing is asked that `load_dataset` does."""
    if given := _given(settings, "labels", "limit", "first"):
        raise DataError(f"{given}: `data` is a Dataset, which is prepared already; give this to load_dataset")
    declared.settled(data.shape)
    if data.dtype != declared.dtype:
        raise DataError(f"`data`: expected a Dataset of {declared.dtype}, which the model takes, found {data.dtype}")
    return data


def _given(settings: Settings, *names: str) -> str:
    """Return the parameters that were given of the preprocessing and of ``names``, as the beginning of a message."""
    given = {**vars(settings.preprocessing), **{name: getattr(settings, name) for name in names}}
    return ", ".join(f"`{name}`" for name, value in given.items() if value is not None)


def _synthetic_inputs(data: str, settings: Settings) -> int:
    """Return the number of synthetic inputs; refuse parameters that need data, and ``limit`` together with ``first``."""
    if given := _given(settings, "labels"):
        raise DataError(f"{given}: `data` {data} is noise and needs none of that; leave it out")
    if settings.limit and settings.first:
        raise DataError(f"`limit` {settings.limit} and `first` {settings.first}: give one of them")
    count, most = synthetic_count(data), settings.first or settings.limit
    return most or DEFAULT_INPUTS if count is None else min(count, most or count)
