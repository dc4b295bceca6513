"""Loads PyTorch networks, from Python code, an exported program or a pickled module, and checkpoints into them.

Only Python code that the user names runs. Other files are read without running code from them, unless the user trusts them.
"""

import importlib
import importlib.util
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bitswap_onnx.converters.exported_program import load_program
from bitswap_onnx.converters.torch_checkpoint import require_torch
from bitswap_onnx.converters.torch_inputs import InputForm
from bitswap_onnx.converters.torch_library import LIBRARIES, load_library_network
from bitswap_onnx.converters.torch_weights import load_weights
from bitswap_onnx.errors import ModelError, nearest, one_line

if TYPE_CHECKING:
    from torch import nn

#: Endings of files that may hold a whole pickled module.
PICKLES = (".pt", ".pth", ".th", ".pkl", ".bin")


@dataclass(frozen=True)
class TorchNetwork:
    """A network with its weights and what its source tells of its input.

    ``notes`` are sentences for the user on where the weights come from.
    """

    module: "nn.Module"
    form: InputForm
    notes: tuple[str, ...]


def load_network(
    source: str,
    weights: str | Path | None = None,
    key: str | None = None,
    *,
    pretrained: bool = False,
    trust_pickle: bool = False,
    seed: int = 0,
) -> TorchNetwork:
    """Return the network that ``source`` names, with a checkpoint's weights where ``weights`` names one.

    ``source`` is ``MODULE:CALLABLE`` (MODULE a Python file or an importable module; CALLABLE an `nn.Module` or something
    that returns one when called without arguments), ``torchvision:NAME``, ``timm:NAME``, a program saved with
    `torch.export.save` (``.pt2``), or a whole pickled module (``.pt``, ``.pth``), which takes ``trust_pickle`` because
    loading it can run any code. ``seed`` is that of PyTorch's generator while code makes the network; ``weights`` and
    ``key`` are those of `load_weights`; ``pretrained`` takes the trained weights of torchvision or timm instead.

    Raises ModelError where there is no network or the weights do not fit it, MissingExtraError without PyTorch or the
    library.
    """
    library, _, name = source.partition(":")
    if pretrained and weights is not None:
        raise ModelError("`pretrained`: expected without `weights`, which names other weights; choose one of them")
    if pretrained and library not in LIBRARIES:
        raise ModelError(f"`pretrained`: expected a network torchvision:NAME or timm:NAME, found {source}")
    require_torch()
    suffix = Path(source).suffix.lower()
    if library in LIBRARIES:
        with _seeded(seed):
            parts = load_library_network(library, name, pretrained=pretrained)
        network = TorchNetwork(*parts, (_of_library(library, pretrained, seed),))
    elif suffix == ".pt2":
        network = TorchNetwork(*load_program(Path(source), trust_pickle=trust_pickle), ())
    elif suffix in PICKLES:
        network = TorchNetwork(_load_pickle(Path(source), trust_pickle), InputForm(), ())
    else:
        network = TorchNetwork(_from_code(source, seed), InputForm(), (_as_made(source, seed),))
    return network if weights is None else _with_weights(network, weights, key)


def _with_weights(network: TorchNetwork, weights: str | Path, key: str | None) -> TorchNetwork:
    before = _float(network.module)
    notes = load_weights(network.module, weights, key)
    if getattr(network.module, "transform_input", None) is False:
        notes += (
            "torchvision's own weights of this network need scaled inputs; only `pretrained` makes it scale them",
        )
    converted = _float(network.module) != before  # then float inputs have the new type
    form = replace(network.form, dtype=None) if converted and network.form.dtype == before else network.form
    return replace(network, form=form, notes=notes)


def _of_library(library: str, pretrained: bool, seed: int) -> str:
    if pretrained:
        return f"the weights are the trained ones that {library} has by default for this network"
    return (
        f"the weights are random, as {library} initialises them (seed {seed}); `weights` takes a checkpoint, "
        f"`pretrained` those of {library}"
    )


def _float(module: "nn.Module") -> str:
    """Return the element type of the module's first parameter of floats."""
    dtype = next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), None)
    return str(dtype).removeprefix("torch.")


def _as_made(source: str, seed: int) -> str:
    return (
        f"the weights are those that {source} makes: random (seed {seed}) unless its code loads or sets others; "
        "`weights` takes a checkpoint"
    )


def _load_pickle(path: Path, trust: bool) -> "nn.Module":
    import torch
    from torch import nn

    try:
        with _importing("."):
            content = torch.load(path, map_location="cpu", weights_only=not trust)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the file: {error.strerror}") from None
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: {one_line(error) if trust else _refusal()}") from None
    except Exception as error:  # unpickling runs the file's code, which raises what it likes
        raise ModelError(f"{path}: cannot load the module: {one_line(error)}") from None
    if not isinstance(content, nn.Module):
        raise ModelError(
            f"{path}: expected a whole module, found {type(content).__name__}; name the network as MODULE:CALLABLE and "
            "pass this file as `weights`"
        )
    return content


def _refusal() -> str:
    return (
        "a whole pickled module can run code when it is loaded; where it was made, save it again with "
        "torch.save(model.state_dict(), 'weights.pt') and pass that as `weights`, or, if you trust the file, set "
        "`trust_pickle`"
    )


def _from_code(source: str, seed: int) -> "nn.Module":
    from torch import nn

    place, _, name = source.rpartition(":")
    if not place or not name:
        raise ModelError(
            f"{source}: expected MODULE:CALLABLE (net.py:build, package.module:Net), torchvision:NAME, timm:NAME, "
            "a .pt2 program or a pickled .pt module"
        )
    with _importing(place), _seeded(seed):
        code = _import(place)
        try:
            network = attrgetter(name)(code)
        except AttributeError:
            known = [each for each, value in vars(code).items() if callable(value) or isinstance(value, nn.Module)]
            raise ModelError(f"{place}: no {name!r} in it; nearest: {nearest(name, known)}") from None
        if not isinstance(network, nn.Module) and callable(network):
            network = _run(network, f"{source}: calling it without arguments")
    if not isinstance(network, nn.Module):
        raise ModelError(f"{source}: expected an nn.Module or a callable for one, found {type(network).__name__}")
    return network


def _import(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return _run(lambda: importlib.import_module(place), f"{place}: importing it")  # type: ignore[no-any-return]
    path = Path(place)
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, code)  # dataclasses and pickles look there
    loader = spec.loader
    _run(lambda: loader.exec_module(code), f"{path}: importing it")
    return code


def _run(action: Callable[[], Any], what: str) -> Any:
    """Run the user's code; an exception becomes a ModelError of one line with its place in that code."""
    try:
        return action()
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        inside = frame.filename != __file__ and not frame.filename.startswith("<")
        where = f" at {Path(frame.filename).name}:{frame.lineno}" if inside else ""
        raise ModelError(f"{what} failed{where}: {type(error).__name__}: {one_line(error)}") from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's generator for a while."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _importing(place: str) -> Iterator[None]:
    """Allow imports from the folder of the file, or from the current folder, as Python does for scripts."""
    folder = Path(place).resolve().parent if place.endswith(".py") else Path.cwd()
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before
