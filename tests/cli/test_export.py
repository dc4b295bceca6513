"""``export``: output and files, sources of networks, and one line on stderr for wrong input."""

import io
import json
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from bitswap_onnx.converters.torch_to_onnx import ExportedModel
from tests.builders import cnn, normal, save
from tests.command_line import Run, runner

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.never = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.second(self.first(x)))

class Home:
    net = Net()

def number(): return 3
def needy(size): return Net()
def broken(): raise RuntimeError("no\\nweights")
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command line in a folder with a network's code; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    Path("export_net.py").write_text(NET)

    yield runner(monkeypatch, capsys, "export")
    sys.modules.pop("export_net", None)


@pytest.fixture
def net(run: Run, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """The network in export_net.py, made as a script in its folder would make it."""
    monkeypatch.syspath_prepend(Path.cwd())
    import export_net  # type: ignore[import-not-found]

    network = export_net.Net().eval()
    assert isinstance(network, torch.nn.Module)
    return network


def program(network: torch.nn.Module, path: str, dynamic: bool = True) -> None:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    torch.export.save(torch.export.export(network, (torch.zeros(2, 4),), dynamic_shapes=shapes), path)


def stored(path: str) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def check_same(network: torch.nn.Module, path: str) -> None:
    found = stored(path)
    for name in ("first.weight", "first.bias", "second.bias", "norm.weight", "norm.running_var"):
        assert found[name].tobytes() == network.state_dict()[name].numpy().tobytes()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    scores = ort.InferenceSession(path).run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(scores, network(x).detach().numpy(), atol=1e-5)


def one_line(result: tuple[int, str, str], *words: str, code: int = 1) -> None:
    assert result[0] == code
    assert result[1] == ""
    assert result[2].startswith("error: ")
    assert result[2].count("\n") == 1
    for word in words:
        assert word in result[2]
    assert not Path("m.onnx").exists()


@pytest.mark.parametrize("source", ["export_net.py:Net", "export_net:Net", "export_net.py:Home.net"])
def test_networks_from_code(run: Run, source: str) -> None:
    before = list(sys.path)
    code, out, err = run("torch", source, "--input-shape", "4", "-o", "m.onnx")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"note: the weights are those that {source} makes: random (seed 0) unless its code loads or sets others; "
        "--weights takes a checkpoint",
        "parameters compared bit for bit: 7",
        "tied: second.weight = first.weight",
        "unused at inference: 3 (never.weight, never.bias, norm.num_batches_tracked)",
        "written: m.onnx",
    ]
    assert sys.path == before


def test_the_seed_makes_random_weights(run: Run, net: torch.nn.Module) -> None:
    code, out, _ = run("torch", "export_net:Net", "--input-shape", 4, "--seed", 1, "-o", "m.onnx")
    assert (code, "random (seed 1) unless" in out) == (0, True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = type(net)().get_parameter("first.weight").detach().numpy()
    assert stored("m.onnx")["first.weight"].tobytes() == made.tobytes()


def test_weights_replace_the_initial_ones(run: Run, net: torch.nn.Module) -> None:
    torch.save({"state_dict": net.state_dict()}, "w.pt")
    code, out, _ = run("torch", "export_net:Net", "--weights", "w.pt", "--input-shape", 4, "-o", "m.onnx")
    assert (code, out.splitlines()[0]) == (0, "parameters compared bit for bit: 7")
    check_same(net, "m.onnx")


def test_key_chooses_a_state_dict(run: Run, net: torch.nn.Module) -> None:
    average = {name: value * 2 for name, value in net.state_dict().items()}
    prefixed = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save({"best": {**prefixed, "loss": torch.ones(1)}, "last": average}, "two.pt")
    common = ("torch", "export_net:Net", "--input-shape", 4, "-o", "m.onnx")
    one_line(run(*common, "--weights", "two.pt"), "'best', 'last'", "--key")
    one_line(run(*common, "--key", "best"), "--key: expected --weights")
    code, out, _ = run(*common, "--weights", "two.pt", "--key", "best")
    assert (code, out.splitlines()[0]) == (
        0,
        "note: left out of the checkpoint: 1 tensor without 'module.' (loss)",
    )
    check_same(net, "m.onnx")


def test_exported_program(run: Run, net: torch.nn.Module) -> None:
    program(net, "net.pt2")
    code, out, _ = run("torch", "net.pt2", "--input-shape", 4, "-o", "m.onnx")
    assert (code, out.splitlines()[0]) == (0, "parameters compared bit for bit: 7")
    check_same(net, "m.onnx")
    result = run("torch", "net.pt2", "--input-shape", 5, "-o", "n.onnx")
    assert (result[0], "--input-shape: expected" in result[2]) == (1, True)
    code, out, _ = run("torch", "net.pt2", "-o", "n.onnx")
    assert (code, out.splitlines()[0]) == (0, "note: input shape 4, which the network's source gives")
    assert Path("n.onnx").read_bytes() == Path("m.onnx").read_bytes()


def test_pickled_module_only_if_trusted(run: Run, net: torch.nn.Module) -> None:
    torch.save(net, "whole.pt")
    one_line(run("torch", "whole.pt", "--input-shape", 4, "-o", "m.onnx"), "state_dict", "--weights", "--trust-pickle")
    code, out, _ = run("torch", "whole.pt", "--trust-pickle", "--input-shape", 4, "-o", "m.onnx")
    assert (code, out.splitlines()[0]) == (0, "parameters compared bit for bit: 7")
    check_same(net, "m.onnx")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("export_net.py", ["expected MODULE:CALLABLE"]),
        ("none.py:Net", ["none.py: no such file"]),
        ("no_such_module:Net", ["importing it failed", "No module named 'no_such_module'"]),
        ("export_net.py:net", ["no 'net' in it; nearest: ", "Net"]),
        ("export_net.py:number", ["found int"]),
        ("export_net.py:needy", ["without arguments", "size"]),
        ("export_net.py:broken", ["failed at export_net.py:21: RuntimeError: no weights"]),
        ("none.pt2", ["none.pt2"]),
        ("none.pt", ["none.pt: cannot read the file: No such file"]),
        ("weights.pt", ["expected a whole module, found dict", "--weights"]),
        ("export_net.py:Net --weights other.pt", ["other.pt", "missing", "first.weight"]),
        ("export_net.py:Net --weights none.pt", ["none.pt"]),
    ],
)
def test_wrong_sources(run: Run, source: str, words: list[str]) -> None:
    torch.save({"a": torch.zeros(1)}, "weights.pt")
    torch.save({"a": torch.zeros(1)}, "other.pt")
    one_line(run("torch", *source.split(), "--input-shape", "4", "-o", "m.onnx"), *words)


def test_code_that_cannot_be_imported(run: Run) -> None:
    Path("torn.py").write_text("x = 1\ny = x / 0\n")
    one_line(run("torch", "torn.py:x", "--input-shape", 4, "-o", "m.onnx"), "torn.py:2: ZeroDivisionError")


@pytest.mark.parametrize("shape", ["", "3,x", "3,0,4", "-1"])
def test_wrong_input_shape(run: Run, shape: str) -> None:
    one_line(run("torch", "export_net.py:Net", "-o", "m.onnx"), "--input-shape", "like 3,32,32")
    one_line(run("torch", "export_net.py:Net", f"--input-shape={shape}", "-o", "m.onnx"), "--input-shape", "3,32,32")


def test_the_batch_in_the_input_shape(run: Run) -> None:
    code, _, _ = run("torch", "export_net.py:Net", "--input-shape", "N,4", "--input-dtype", "float", "-o", "m.onnx")
    shape = onnx.load("m.onnx").graph.input[0].type.tensor_type.shape.dim
    assert (code, shape[0].dim_param, shape[1].dim_value, len(shape)) == (0, "batch", 4, 2)
    Path("m.onnx").unlink()
    words = ("--input-dtype: expected float32", "'complex64'")
    one_line(run("torch", "export_net.py:Net", "--input-shape=4", "--input-dtype=complex64", "-o", "m.onnx"), *words)


def test_programs_that_cannot_be_used(run: Run, net: torch.nn.Module) -> None:
    program(net, "fixed.pt2", dynamic=False)
    one_line(run("torch", "fixed.pt2", "--input-shape", 4, "-o", "m.onnx"), "one batch size", "dynamic_shapes")
    program(net.train(), "training.pt2")
    one_line(run("torch", "training.pt2", "--input-shape", 4, "-o", "m.onnx"), "model.eval()")
    Path("torn.pt2").write_bytes(Path("fixed.pt2").read_bytes()[:1000])
    one_line(run("torch", "torn.pt2", "--input-shape", 4, "-o", "m.onnx"), "not a program saved with torch.export.save")


def test_programs_that_bring_code(run: Run, net: torch.nn.Module) -> None:
    program(net, "net.pt2")

    def changed(name: str, change: Callable[[bytes], bytes], add: str = "") -> str:
        with zipfile.ZipFile("net.pt2") as old, zipfile.ZipFile(name, "w") as new:
            for entry in old.namelist():
                content = old.read(entry)
                new.writestr(entry, change(content) if entry.endswith("model.json") else content)
            if add:
                new.writestr(add, b"")
        return name

    evil = b"__import__('os').system('touch gone')"
    sizes = changed("a.pt2", lambda text: text.replace(b"Symbol(", evil + b"+Symbol("))
    one_line(run("torch", sizes, "--input-shape", 4, "-o", "m.onnx"), "expr_str", "--trust-pickle")
    names = changed("b.pt2", lambda text: text.replace(b'"name": "x"', b'"name": "x=print()"'))
    one_line(run("torch", names, "--input-shape", 4, "-o", "m.onnx"), "name 'x=print()'")
    library = changed("c.pt2", lambda text: text, add="net/data/aotinductor/model/lib.so")
    one_line(run("torch", library, "--input-shape", 4, "-o", "m.onnx"), "compiled code")
    assert not Path("gone").exists()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("gone"),)


def test_programs_that_bring_pickles(run: Run, net: torch.nn.Module) -> None:
    program(net, "net.pt2")
    pickled = io.BytesIO()
    torch.save(Evil(), pickled)
    with zipfile.ZipFile("net.pt2") as old, zipfile.ZipFile("evil.pt2", "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            if entry.endswith("weights_config.json"):
                config = json.loads(content)
                for payload in config["config"].values():
                    payload["use_pickle"] = True
                content = json.dumps(config).encode()
            elif "/weights/" in entry:
                content = pickled.getvalue()
            new.writestr(entry, content)
    one_line(run("torch", "evil.pt2", "--input-shape", 4, "-o", "m.onnx"), "cannot read the exported program")
    assert not Path("gone").exists()


def test_a_failed_export_leaves_the_file_as_it_was(run: Run) -> None:
    Path("there.onnx").write_text("precious")
    assert run("torch", "export_net:Net", "--input-shape", 5, "-o", "there.onnx")[0] == 1
    assert Path("there.onnx").read_text() == "precious"
    assert run("torch", "export_net:Net", "--input-shape", 4, "-o", "there.onnx")[0] == 0
    assert stored("there.onnx")
    one_line(run("torch", "export_net.py:Net", "--input-shape", 4, "-o", "."), "found a folder")


def test_zoo_with_random_weights(run: Run) -> None:
    for output, seed in (("a.onnx", 1), ("b.onnx", 1), ("c.onnx", 2)):
        code, out, err = run("zoo", "resnet20", "--dataset", "cifar10", "--seed", seed, "-o", output)
        assert (code, err) == (0, "")
        assert out.splitlines()[:2] == [
            f"ResNet20 for CIFAR10, weights: random, seed {seed}",
            "parameters compared bit for bit: 97",
        ]
        assert "unused at inference: 19 (bn1.num_batches_tracked, " in out
    weights = [stored(name)["conv1.weight"].tobytes() for name in ("a.onnx", "b.onnx", "c.onnx")]
    assert weights[0] == weights[1] != weights[2]


def test_zoo_with_weights(run: Run) -> None:
    from bitswap_onnx.models import zoo

    module = zoo.build("ResNet20", "GTSRB", seed=9)
    file = Path("checkout") / zoo.find("ResNet20", "GTSRB").weights
    file.parent.mkdir(parents=True)
    torch.save(module.state_dict(), file)
    code, out, _ = run("zoo", "ResNet20", "--dataset", "GTSRB", "--weights", "checkout", "-o", "m.onnx")
    assert (code, out.splitlines()[0]) == (0, f"ResNet20 for GTSRB, weights: real, from {file}")
    assert stored("m.onnx")["linear.bias"].tobytes() == module.state_dict()["linear.bias"].numpy().tobytes()


def test_wrong_zoo_arguments(run: Run) -> None:
    one_line(run("zoo", "resnet21", "--dataset", "cifar10", "-o", "m.onnx"), "no network 'resnet21'", "ResNet20")
    one_line(run("zoo", "resnet20", "--dataset", "mnist", "-o", "m.onnx"), "it is there for CIFAR10, GTSRB")
    arguments = ("zoo", "resnet20", "--dataset", "cifar10", "-o", "m.onnx", "--weights")
    one_line(run(*arguments, "."), "expected a dnn-benchmarks checkout")
    one_line(run(*arguments, "none.pt"), "none.pt: no such file")
    one_line(run(*arguments, "export_net.py"), "not a PyTorch checkpoint")


def test_onnx_to_keras(run: Run) -> None:
    import keras

    save(cnn(), Path("m.onnx"))
    code, out, err = run("onnx-to-keras", "m.onnx", "-o", "m.keras")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["layers: 6", "parameters compared bit for bit: 8", "written: m.keras"]
    x = normal(5, 1, 6, 6)
    scores = ort.InferenceSession("m.onnx").run(None, {"x": x})[0]
    native = keras.models.load_model("m.keras").predict(np.moveaxis(x, 1, -1), verbose=0)
    np.testing.assert_allclose(native, scores, rtol=1e-5, atol=1e-5)
    Path("text.onnx").write_text("no model")
    Path("m.onnx").rename("n.onnx")
    one_line(run("onnx-to-keras", "n.onnx", "-o", "other.h5"), "other.h5: expected a file name that ends in .keras")
    one_line(run("onnx-to-keras", "text.onnx", "-o", "other.keras"), "text.onnx")
    one_line(run("onnx-to-keras", "n.onnx", "-o", "n.onnx"), "n.onnx")
    one_line(run("onnx-to-keras", "none.onnx", "-o", "other.keras"), "none.onnx", "No such file")
    assert sorted(file.name for file in Path().glob("*.*")) == ["export_net.py", "m.keras", "n.onnx", "text.onnx"]
    assert run("onnx-to-keras", "n.onnx")[0] == 2


def test_keras_goes_through_both_converters(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command calls converters with the right arguments; the converters are tested elsewhere."""
    calls: list[tuple[str, str, str]] = []

    def onnx_to_keras(source: Path, target: Path) -> None:
        assert stored(str(source))["conv1.weight"].shape == (16, 3, 3, 3)
        calls.append(("onnx_to_keras", source.suffix, target.suffix))

    def export_keras(source: Path, target: Path) -> ExportedModel:
        calls.append(("export_keras", source.suffix, str(target)))
        return ExportedModel(onnx.ModelProto(), "k", target.parent, "", parameters=("conv2d/kernel",))

    for name, function in (("onnx_to_keras", onnx_to_keras), ("keras_to_onnx", export_keras)):
        module = types.ModuleType(name)
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, f"bitswap_onnx.converters.{name}", module)
    code, out, _ = run("zoo", "resnet20", "--dataset", "cifar10", "--framework", "keras", "-o", "k.onnx")
    assert code == 0
    assert "parameters compared bit for bit: 1" in out
    assert run("keras", "saved.keras", "-o", "k.onnx")[0] == 0
    assert calls == [
        ("onnx_to_keras", ".onnx", ".keras"),
        ("export_keras", ".keras", "k.onnx"),
        ("export_keras", ".keras", "k.onnx"),
    ]
