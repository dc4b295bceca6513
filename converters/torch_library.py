"""Networks of torchvision and timm: ``torchvision:NAME`` and ``timm:NAME``."""

import inspect
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bitswap_onnx.converters.torch_checkpoint import restricted_unpickling
from bitswap_onnx.converters.torch_inputs import InputForm
from bitswap_onnx.errors import MissingExtraError, ModelError, nearest, one_line

if TYPE_CHECKING:
    from torch import nn

#: Libraries that networks can come from.
LIBRARIES = ("torchvision", "timm")


def load_library_network(library: str, name: str, *, pretrained: bool = False) -> tuple["nn.Module", InputForm]:
    """Return the network ``name`` of one of `LIBRARIES` and the form of its input, as far as the library tells it.

    Its weights are those that the library initialises or, with ``pretrained``, its default trained ones, which the library
    fetches where they are not on this machine yet; reading them runs no code from them.

    Raises ModelError, with the nearest names, for an unknown network and where the library cannot make it or cannot get
    its weights, MissingExtraError without the library.
    """
    make = {"torchvision": _torchvision, "timm": _timm}[library]
    return make(name, pretrained)


def _torchvision(name: str, pretrained: bool) -> tuple["nn.Module", InputForm]:
    with _needed("torchvision"):
        from torchvision import models
    _check_name("torchvision", name, models.list_models())
    with _making(f"torchvision:{name}", pretrained):
        builder = models.get_model_builder(name)
        has_backbone = "weights_backbone" in inspect.signature(builder).parameters  # trained by default, downloaded
        module = builder(
            weights="DEFAULT" if pretrained else None, **({"weights_backbone": None} if has_backbone else {})
        )
    if name not in models.list_models(module=models):  # for videos, detection, ..., whose inputs are no single images
        return module, InputForm()
    crop = tuple(models.get_model_weights(name).DEFAULT.transforms().crop_size)
    return module, _image((3, *(crop * 2)[:2]))


def _timm(name: str, pretrained: bool) -> tuple["nn.Module", InputForm]:
    with _needed("timm"):
        import timm
    if not timm.is_model(name):
        _check_name("timm", name, timm.list_models())
    with _making(f"timm:{name}", pretrained):
        module = timm.create_model(name, pretrained=pretrained)
    return module, _image(tuple(module.default_cfg["input_size"]))


def _image(usual: tuple[int, ...]) -> InputForm:
    return InputForm((usual[0], *(None for _ in usual[1:])), usual)


def _check_name(library: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        raise ModelError(f"no network {name!r} in {library}; nearest: {nearest(name, known)}")


@contextmanager
def _needed(library: str) -> Iterator[None]:
    """Turn a failing import of ``library`` into one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name == library:
            raise MissingExtraError(f"{library} is not installed; it comes with: pip install {library}") from None
        raise ModelError(f"{library}: importing it failed: {one_line(error)}") from error
    except Exception as error:  # torchvision raises RuntimeError if it was built for another PyTorch
        raise ModelError(f"{library}: importing it failed: {one_line(error)}") from error


@contextmanager
def _making(source: str, pretrained: bool) -> Iterator[None]:
    """Silence the library's advice on its own initialisation; turn a failure into one line."""
    try:
        with restricted_unpickling(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # of the library, of its downloader or of the network
        if pretrained:
            raise ModelError(
                f"{source}: its trained weights cannot be fetched: {one_line(error)}; fetch them where that works and "
                "pass the file as `weights`"
            ) from error
        raise ModelError(f"{source}: the library cannot make it: {one_line(error)}") from error
