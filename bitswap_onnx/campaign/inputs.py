"""The inputs of a campaign: the data that its settings name, or the data beside its model."""

from pathlib import Path

from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.data.dataset import Dataset, load_dataset
from bitswap_onnx.data.stored import StoredArray
from bitswap_onnx.data.synthetic import DEFAULT_INPUTS, is_synthetic, synthetic_count, synthetic_dataset
from bitswap_onnx.errors import DataError
from bitswap_onnx.graph.signature import OpenInput


def chosen_data(model: Path, settings: Settings) -> str | Path:
    """Return the data to run ``model`` on: those of the settings, else the .npz beside it; raises DataError for none."""
    if settings.data is not None:
        return settings.data
    beside = model.with_suffix(".npz")
    if not beside.is_file():
        raise DataError(
            f"{model}: expected data to run it on, found no {beside.name} beside it; give `data` FILE, or `data` "
            "synthetic[:N] for N inputs of noise"
        )
    return beside


def load_inputs(model: Path, declared: OpenInput, settings: Settings) -> Dataset:
    """Load the data for ``model``; they give sizes to what its ``declared`` input and the settings leave open.

    Raises DataError as `chosen_data` and `load_dataset`, ModelError for open dimensions that the data leave open, too.
    """
    shape = settings.input_shape
    if shape is not None or None not in declared.dims:
        shape = declared.settled(shape).shape
    data = chosen_data(model, settings)
    if is_synthetic(data):
        spec = declared.settled(shape)
        return synthetic_dataset(spec.shape, spec.dtype, _synthetic_inputs(str(data), settings), settings.seed)
    return load_dataset(
        data,
        input_shape=declared.dims if shape is None else shape,
        dtype=declared.dtype,
        preprocessing=settings.preprocessing,
        labels=None if settings.labels is None else Path(settings.labels),
        limit=settings.limit,
        first=settings.first,
        seed=settings.seed,
        readers={".pt": _read_tensors, ".pth": _read_tensors},
    )


def _read_tensors(path: Path) -> StoredArray:
    from bitswap_onnx.converters.torch_data import read_tensor_file

    return read_tensor_file(path)


def _synthetic_inputs(data: str, settings: Settings) -> int:
    """Return the number of synthetic inputs; refuse parameters that need data, and ``limit`` together with ``first``."""
    given = [f"`{name}`" for name, value in vars(settings.preprocessing).items() if value is not None]
    given += ["`labels`"] if settings.labels else []
    if given:
        raise DataError(f"{', '.join(given)}: `data` {data} is noise and needs none of that; leave it out")
    if settings.limit and settings.first:
        raise DataError(f"`limit` {settings.limit} and `first` {settings.first}: give one of them")
    count, most = synthetic_count(data), settings.first or settings.limit
    return most or DEFAULT_INPUTS if count is None else min(count, most or count)
