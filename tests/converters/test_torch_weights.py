"""Checkpoints as people have them, loaded into a network: every form gives the bits of the plain state dict."""

import argparse
import collections
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file, save_model
from torch import nn

from bitswap_onnx.converters.torch_source import load_network
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.converters.torch_weights import load_weights
from bitswap_onnx.errors import ModelError

State = dict[str, torch.Tensor]


def build(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


STATE: State = build().state_dict()
HALF: State = {name: value.half() if value.is_floating_point() else value for name, value in STATE.items()}
EMA: State = {name: value * 0.5 if value.is_floating_point() else value for name, value in STATE.items()}


def prefixed(prefix: str) -> State:
    return {prefix + name: value for name, value in STATE.items()}


def optimizer_state() -> dict[str, Any]:
    module = build()
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


class Opaque:
    """An object of a class that only the file's maker has; to make or fill one would show in ``made``."""

    made: list[str] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.made.append("init")

    def __setstate__(self, state: Any) -> None:
        self.made.append("state")

    def __reduce__(self) -> tuple[Any, ...]:
        return Opaque, (), {"lr": 0.1}


class AttributeDict(dict[str, Any]):
    """A dictionary of a class that only the file's maker has, like Lightning's; to make or fill one would show."""

    def __init__(self, **entries: Any) -> None:
        Opaque.made.append("init")
        super().__init__(entries)

    def __setitem__(self, key: str, value: Any) -> None:
        Opaque.made.append("item")
        super().__setitem__(key, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return AttributeDict, (), {"frozen": True}, None, iter(self.items())


class OrderedState(collections.OrderedDict[str, Any]):
    """A state dict of an own class, with an attribute as PyTorch's have."""

    def __init__(self, *entries: Any) -> None:
        super().__init__(*entries)
        self._metadata = {"": {"version": 1}}


class Names(list[str]):
    """A list of a class that only the file's maker has."""


LEFT = "left out of the checkpoint: 1 tensor without 'model.' (loss_fn.weight)"
HALVED = "the checkpoint has float16 weights: the network is converted to float16"


@pytest.mark.parametrize(
    ("content", "expected", "notes"),
    [
        (STATE, STATE, ()),
        (
            {"state_dict": prefixed("model."), "epoch": 3, "pytorch-lightning_version": "2.4", "hyper_parameters": {}},
            STATE,
            (),
        ),
        ({"state_dict": prefixed("model._orig_mod.")}, STATE, ()),
        (prefixed("_orig_mod."), STATE, ()),
        ({"model": prefixed("module."), "args": argparse.Namespace(lr=1)}, STATE, ()),
        ({"net": STATE, "acc": 91.2}, STATE, ()),
        ({"state_dict": STATE, "best_acc": np.float64(3.5)}, STATE, ()),
        ({"model_state_dict": {**prefixed("model."), "loss_fn.weight": torch.ones(3)}}, STATE, (LEFT,)),
        ({"model": STATE, "model_ema": EMA}, STATE, ()),
        (HALF, HALF, (HALVED,)),
        ({"checkpoint": {"weights": prefixed("module.net.model.")}, "step": torch.tensor(3)}, STATE, ()),
        ({"model": STATE, "optimizer": optimizer_state(), "history": np.arange(3)}, STATE, ()),
        ({"model": STATE, "state_dict": {name: value.clone() for name, value in STATE.items()}}, STATE, ()),
        ({"model": STATE, "config": Opaque(), "extra": {"backbone": {"0.weight": STATE["0.weight"] + 1}}}, STATE, ()),
        (OrderedState(STATE), STATE, ()),
        ({"state_dict": OrderedState(prefixed("model.")), "callbacks": OrderedState({"a": 1})}, STATE, ()),
        (AttributeDict(state_dict=STATE, epoch=3), STATE, ()),
        ({"state_dict": STATE, "hyper_parameters": AttributeDict(lr=0.1, net=AttributeDict(depth=2))}, STATE, ()),
        ({"state_dict": STATE, "seen": collections.defaultdict(int, a=1)}, STATE, ()),
        ({name: value.double() if value.is_floating_point() else value for name, value in STATE.items()}, None, None),
    ],
    ids=[
        "plain",
        "lightning",
        "lightning_compiled",
        "compiled",
        "ddp_namespace",
        "net_key",
        "numpy_scalar",
        "extra_tensor",
        "ema",
        "half",
        "deep",
        "optimizer",
        "twice",
        "opaque",
        "ordered_class",
        "ordered_classes_inside",
        "dict_class",
        "hyper_parameters",
        "defaultdict",
        "double",
    ],
)
def test_forms(content: Any, expected: State | None, notes: tuple[str, ...] | None, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    Opaque.made.clear()
    module = build(1)
    found = load_weights(module, tmp_path / "w.pth")
    assert not Opaque.made
    assert notes is None or found == notes
    for name, value in (content if expected is None else expected).items():
        loaded = module.state_dict()[name]
        assert (loaded.dtype, loaded.numpy().tobytes()) == (value.dtype, value.numpy().tobytes())


def test_another_pickle_protocol(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pth", pickle_protocol=4)
    with pytest.raises(ModelError, match=r"not with the pickle protocol of torch\.save"):
        load_weights(build(), tmp_path / "w.pth")


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "m.safetensors")
    module = build(1)
    assert load_weights(module, tmp_path / "m.safetensors") == ()
    assert all(torch.equal(module.state_dict()[name], value) for name, value in STATE.items())
    (tmp_path / "m.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_weights(module, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="cannot read the checkpoint: No such file"):
        load_weights(module, tmp_path / "none.safetensors")


def test_safetensors_of_tied_parameters_hold_one_name(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        module[1].weight = module[0].weight
        return module

    saved, module = tied(), tied()
    save_model(saved, str(tmp_path / "m.safetensors"))
    load_weights(module, tmp_path / "m.safetensors")
    assert all(torch.equal(module.state_dict()[name], value) for name, value in saved.state_dict().items())


def test_half_weights_reach_the_file(tmp_path: Path) -> None:
    torch.save(HALF, tmp_path / "half.pth")
    module = build(1)
    load_weights(module, tmp_path / "half.pth")
    export_torch(module, (1, 8, 8), tmp_path / "m.onnx")
    stored = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "m.onnx").graph.initializer}
    for name in ("0.weight", "1.running_var", "4.weight"):
        assert stored[name].dtype == np.float16
        assert stored[name].tobytes() == HALF[name].numpy().tobytes()


@pytest.mark.parametrize(
    ("content", "key", "expected"),
    [
        ({"model": STATE, "model_ema": EMA}, "model_ema", EMA),
        ({"model": STATE, "ema": {"decay": 0.9, "state_dict": EMA}}, "ema", EMA),
        ({"last": {"net": STATE}, "best": {"net": EMA}}, "best.net", EMA),
    ],
    ids=["ema", "under", "path"],
)
def test_key(content: Any, key: str, expected: State, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    module = build(1)
    load_weights(module, tmp_path / "w.pth", key)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in expected.items())


def without(name: str) -> State:
    return {each: value for each, value in STATE.items() if each != name}


def nested_in_itself() -> dict[str, Any]:
    content: dict[str, Any] = {"epoch": 1}
    content["self"] = content
    return content


@pytest.mark.parametrize(
    ("make", "key", "message"),
    [
        (build, None, r"pickled objects, which could run code.*torch\.save\(model\.state_dict\(\)"),
        (lambda: {"model": build(), "epoch": 1}, None, "pickled objects, which could run code"),
        (lambda: {"best": STATE, "last": EMA}, None, "several different state dicts fit .*'best', 'last'.*`key`"),
        (lambda: {"model_ema": EMA}, None, "only averaged weights are in it .'model_ema'.*`key`"),
        (lambda: {"model": STATE, "model_ema": EMA}, "emma", "under `key` 'emma'; .* 'model', 'model_ema'"),
        (
            lambda: {"net": without("4.weight"), "b": {"x": torch.ones(1)}},
            None,
            "1 missing .4.weight.; .*'net' of 'net', 'b'",
        ),
        (lambda: {**STATE, "9.bias": torch.ones(2)}, None, r"1 unexpected \(9.bias\)"),
        (
            lambda: {**STATE, "4.bias": torch.ones(2)},
            None,
            r"1 different \(4.bias float32\[2\] instead of float32\[3\]\)",
        ),
        (lambda: {**HALF, "4.bias": STATE["4.bias"]}, None, r"different \(0.weight float16"),
        (lambda: {**STATE, "4.bias": torch.ones(3).int()}, None, r"1 different \(4.bias int32"),
        (nested_in_itself, None, "expected a state dict .* found int under 'epoch', dict under 'self'"),
        (
            lambda: {"state_dict": STATE, "names": Names("ab")},
            None,
            "pickled objects.*in the file: objects of .*Names$",
        ),
        (
            lambda: {"epoch": 3, "config": AttributeDict(lr=0.1)},
            None,
            "in the file: int under 'epoch', AttributeDict under 'config'$",
        ),
    ],
    ids=[
        "module",
        "module_under_key",
        "rivals",
        "only_ema",
        "wrong_key",
        "missing",
        "unexpected",
        "shape",
        "mixed",
        "kind",
        "itself",
        "filled_list_class",
        "keys",
    ],
)
def test_refusals(make: Callable[[], Any], key: str | None, message: str, tmp_path: Path) -> None:
    torch.save(make(), tmp_path / "w.pth")
    module = build(1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(module, tmp_path / "w.pth", key)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("call", [(os.system, "touch gone"), (Path, "gone"), (eval, "open('gone', 'w')")])
def test_calls_in_a_checkpoint_do_not_run(
    call: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return call[0], (call[1],)

    monkeypatch.chdir(tmp_path)
    torch.save({"model": STATE, "extra": Evil()}, "w.pth")
    module = build(1)
    if call[0] is os.system:  # PyTorch refuses whatever is in the modules of the operating system
        with pytest.raises(ModelError, match="pickled objects"):
            load_weights(module, "w.pth")
    else:
        load_weights(module, "w.pth")
        assert torch.equal(module.state_dict()["0.weight"], STATE["0.weight"])
    assert not Path("gone").exists()


def test_code_runs_from_the_source_alone(tmp_path: Path) -> None:
    """A network from code takes a checkpoint that its own file wrote."""
    (tmp_path / "weights_net.py").write_text("from torch import nn\ndef build(): return nn.Linear(2, 2)\n")
    saved = nn.Linear(2, 2)
    torch.save({"model": saved.state_dict(), "args": argparse.Namespace()}, tmp_path / "w.pth")
    network = load_network(f"{tmp_path / 'weights_net.py'}:build", tmp_path / "w.pth")
    assert network.notes == ()
    assert torch.equal(network.module.state_dict()["weight"], saved.weight)
