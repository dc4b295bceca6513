"""``torchvision:NAME`` and ``timm:NAME``, with stand-ins for the libraries that have the functions that are called."""

import sys
import types
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from bitswap_onnx.converters.torch_inputs import InputForm
from bitswap_onnx.converters.torch_source import load_network
from bitswap_onnx.errors import MissingExtraError, ModelError
from tests.command_line import runner


class Small(nn.Module):
    """A network that takes images; ``trained`` gives it weights that are no random ones."""

    default_cfg = {"input_size": (3, 12, 12)}  # noqa: RUF012

    def __init__(self, trained: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        if trained:
            nn.init.constant_(self.conv.weight, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x).mean((2, 3))
        return result


def failing(trained: bool) -> Small:
    raise URLError("no\nnetwork") if trained else ValueError("no such block")


def unpickling(path: Path) -> Small:
    torch.load(path, weights_only=False)
    return Small(True)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("gone"),)


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    builders: dict[str, Callable[[bool], Small]] = {
        "small": Small,
        "pixels": Small,
        "broken": failing,
        "evil": lambda trained: unpickling(tmp_path / "evil.pt"),
    }

    def classification(name: str, *, weights: str | None = None) -> Small:
        return builders[name](weights == "DEFAULT")

    def segmentation(*, weights: str | None = None, weights_backbone: str | None = "TRAINED") -> Small:
        return Small(weights == "DEFAULT" or weights_backbone == "TRAINED")

    weights = SimpleNamespace(DEFAULT=SimpleNamespace(transforms=lambda: SimpleNamespace(crop_size=[16])))
    torchvision, timm = types.ModuleType("torchvision"), types.ModuleType("timm")
    models = SimpleNamespace(
        list_models=lambda module=None: [name for name in builders if module is None or name != "pixels"],
        get_model_builder=lambda name: segmentation if name == "pixels" else partial(classification, name),
        get_model_weights=lambda name: weights,
    )
    vars(torchvision).update(models=models)
    vars(timm).update(
        list_models=lambda: [*builders],
        is_model=lambda name: name.partition(".")[0] in builders,
        create_model=lambda name, pretrained: builders[name.partition(".")[0]](pretrained),
    )
    for module in (torchvision, timm):
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("torchvision:small", InputForm((3, None, None), (3, 16, 16))),
        ("torchvision:pixels", InputForm()),
        ("timm:small", InputForm((3, None, None), (3, 12, 12))),
        ("timm:small.in1k", InputForm((3, None, None), (3, 12, 12))),
    ],
)
def test_weights_and_input(source: str, form: InputForm, tmp_path: Path) -> None:
    library = source.partition(":")[0]
    first, again, other = (load_network(source, seed=seed) for seed in (1, 1, 2))
    assert first.form == form
    assert first.notes == (
        f"the weights are random, as {library} initialises them (seed 1); `weights` takes a checkpoint, `pretrained` "
        f"those of {library}",
    )
    kernels = [network.module.state_dict()["conv.weight"] for network in (first, again, other)]
    assert torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[0], kernels[2])
    trained = load_network(source, pretrained=True)
    assert torch.equal(trained.module.state_dict()["conv.weight"], torch.full((2, 3, 3, 3), 0.5))
    assert trained.notes == (f"the weights are the trained ones that {library} has by default for this network",)
    torch.save({"model": {f"module.{name}": value for name, value in other.module.state_dict().items()}}, "w.pth")
    loaded = load_network(source, tmp_path / "w.pth")
    assert (loaded.form, loaded.notes) == (form, ())
    assert torch.equal(loaded.module.state_dict()["conv.weight"], kernels[2])


@pytest.mark.parametrize(
    ("source", "pretrained", "message"),
    [
        ("torchvision:smal", False, "^no network 'smal' in torchvision; nearest: small"),
        ("timm:pixel", True, "^no network 'pixel' in timm; nearest: pixels"),
        ("timm:broken", False, "^timm:broken: the library cannot make it: no such block$"),
        (
            "torchvision:broken",
            True,
            "^torchvision:broken: its trained weights cannot be fetched: .*no network.*; fetch .* as `weights`$",
        ),
        ("torchvision:evil", True, "its trained weights cannot be fetched: Weights only load failed"),
        ("net.py:build", True, "^`pretrained`: expected a network torchvision:NAME or timm:NAME, found net.py:build$"),
    ],
)
def test_refusals(source: str, pretrained: bool, message: str) -> None:
    torch.save(Evil(), "evil.pt")
    with pytest.raises(ModelError, match=message) as caught:
        load_network(source, pretrained=pretrained)
    assert "\n" not in str(caught.value)
    assert not Path("gone").exists()


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_missing_and_broken_libraries(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=f"^{library} is not installed; it comes with: pip install {library}$"):
        load_network(f"{library}:small")
    monkeypatch.delitem(sys.modules, library)
    Path(f"{library}.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(Path.cwd())
    with pytest.raises(ModelError, match=f"^{library}: importing it failed: operator torchvision::nms does not exist$"):
        load_network(f"{library}:small")


def test_on_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = runner(monkeypatch, capsys, "export")
    code, out, err = run("torch", "timm:small", "--pretrained", "-o", "m.onnx")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "note: the weights are the trained ones that timm has by default for this network",
        "note: input shape 3,12,12, which the network's source gives",
        "parameters compared bit for bit: 2",
        "written: m.onnx",
    ]
    Path("m.onnx").unlink()
    code, out, err = run("torch", "timm:small", "--pretrained", "--weights", "w.pth", "-o", "m.onnx")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "--pretrained: expected without --weights" in err
    assert not Path("m.onnx").exists()
