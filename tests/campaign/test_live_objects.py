"""Modules, models, arrays, datasets and faults of Python callers: the same results and the same run as with files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bitswap_onnx as bo
from bitswap_onnx.campaign.keywords import Keywords
from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.settings import Settings
from tests.builders import cnn, normal, save
from tests.command_line import Run, runner

X = normal(20, 1, 6, 6, seed=3)
Y = np.random.default_rng(1).integers(0, 4, 20)
FAULTS = [bo.Fault("conv", (bit % 3, 0, 1, 1), bit) for bit in range(0, 32, 3)] + [bo.Fault("fc", (0, 2), 30)]


def torch_net() -> Any:
    """A convolutional network in training mode, with the names of `tests.builders.cnn`."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 4)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Any) -> Any:
            return self.fc(self.drop(self.bn(self.conv(x)).relu()).mean((2, 3)))

    torch.manual_seed(0)
    return Net().train()


def keras_net() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Conv2D(3, 3, name="conv"),
        keras.layers.BatchNormalization(name="bn", epsilon=1e-5),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(4, name="fc"),
    ]
    return keras.Sequential([keras.Input((6, 6, 1)), *layers], name="net")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def results(folder: str) -> bytes:
    return Path(folder, "results.csv").read_bytes()


def on_the_command_line(command: Run, model: str, x: Any = X, faults: list[bo.Fault] = FAULTS) -> bytes:
    """Run the faults on a file with the arrays beside it, and return results.csv."""
    np.savez(Path(model).with_suffix(".npz"), x=x, y=Y)
    bo.write_fault_list("faults.csv", [bo.Injection(str(i), (fault,)) for i, fault in enumerate(faults)])
    code, _, err = command("inject", model, "faults.csv", "--out", "cli", "--workers", "0")
    assert code == 0, err
    return results("cli")


def test_files_arrays_and_protobufs_are_one_campaign(here: Path, command: Run) -> None:
    """Whatever gives the same model, list and data continues the run, and nothing runs again."""
    save(cnn(), here / "cnn.onnx")
    expected = on_the_command_line(command, "cnn.onnx")
    model = bo.load_model("cnn.onnx")
    models = ["cnn.onnx", Path("cnn.onnx"), model, onnx.load("cnn.onnx"), bo.load_model(model.proto)]
    with np.load("cnn.npz") as archive:
        bo.run_campaign(model, "faults.csv", archive, run="cli", resume=True, workers=0)
    data = [(X, Y), {"x": X, "y": Y}, {"images": X, "label": Y}, (X, np.eye(4)[Y]), "cnn.npz", [X, Y]]
    listed = bo.read_fault_list("faults.csv")
    faults = ["faults.csv", FAULTS, listed, list(listed), iter(FAULTS), tuple(FAULTS)]
    for model_given, faults_given, data_given in zip([*models, models[0]], faults, data, strict=True):
        campaign = bo.run_campaign(model_given, faults_given, data_given, run="cli", resume=True, workers=0)
        assert results("cli") == expected
    assert campaign.golden["data"].endswith("cnn.npz, with labels")  # as it began
    bo.run_campaign(onnx.load("cnn.onnx"), FAULTS, (X, Y), run="memory", workers=0)
    assert results("memory") == expected
    with pytest.raises(bo.BitswapError, match="holds another campaign, with other data"):
        bo.run_campaign("cnn.onnx", FAULTS, (X + 1, Y), run="cli", resume=True, workers=0)


def test_a_torch_module_is_its_exported_file(here: Path, command: Run) -> None:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    net = torch_net()
    bo.export_torch(net, X, "net.onnx")
    expected = on_the_command_line(command, "net.onnx")
    tensors = torch.from_numpy(X), torch.from_numpy(Y)
    dataset = TensorDataset(*tensors)

    class Dicts(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(X)

        def __getitem__(self, row: int) -> dict[str, Any]:
            return {"image": tensors[0][row], "label": int(Y[row])}

    data = [tensors, dataset, DataLoader(dataset, batch_size=7), DataLoader(dataset, batch_size=None), Dicts()]
    model = bo.export_torch(net, tensors[0])
    for given in data:
        bo.run_campaign(model, FAULTS, given, run="cli", resume=True, workers=0)
    assert results("cli") == expected
    bo.run_campaign(net, FAULTS, (tensors[0].requires_grad_(), Y.tolist()), run="live", workers=0)
    assert results("live") == expected
    assert net.training
    shuffled = DataLoader(dataset, shuffle=True)
    with pytest.raises(bo.BitswapError, match="`data`: expected a DataLoader that keeps an order, found shuffle=True"):
        bo.run_campaign(net, FAULTS, shuffled, run="other")
    with pytest.raises(
        bo.BitswapError, match="`data`: expected inputs, since a torch module is exported for one like them"
    ):
        bo.run_campaign(net, FAULTS, run="other")
    verdicts = bo.crosscheck(net, FAULTS, dataset, workers=0)
    verdicts[0].check()
    assert net.training
    assert not Path("other").exists()


def test_a_keras_model_is_its_exported_file(here: Path, command: Run) -> None:
    import tensorflow as tf

    net, x = keras_net(), np.moveaxis(X, 1, 3)
    bo.export_keras(net, "net.onnx")
    faults = [bo.Fault("conv", (1, 1, 0, bit % 3), bit) for bit in range(0, 32, 3)] + [bo.Fault("fc", (2, 0), 30)]
    expected = on_the_command_line(command, "net.onnx", x, faults)
    pairs = tf.data.Dataset.from_tensor_slices((x, Y))
    for given in (
        pairs,
        pairs.batch(7),
        pairs.batch(5, drop_remainder=True),
        {"x": tf.constant(x), "y": tf.constant(Y)},
    ):
        bo.run_campaign("net.onnx", faults, given, run="cli", resume=True, workers=0)
    assert results("cli") == expected
    bo.run_campaign(net, faults, (x, Y), run="live", workers=0)
    assert results("live") == expected
    with pytest.raises(bo.BitswapError, match=r"`data`: expected a dataset that ends, found one that repeats; .*take"):
        bo.run_campaign(net, faults, pairs.repeat(), run="other")
    unlabelled = tf.data.Dataset.from_tensor_slices(x).batch(6)
    assert len(bo.prepare(net, bo.Settings(data=unlabelled)).dataset) == 20
    bo.crosscheck(net, faults, (x, Y), workers=0)[0].check()


@pytest.mark.torch
def test_the_other_functions_take_live_objects(here: Path) -> None:
    """Each gives what it gives on the exported file and the data beside it."""
    net = torch_net()
    bo.export_torch(net, X, "net.onnx")
    np.savez("net.npz", x=X, y=Y)
    stored = bo.load_model(onnx.load("net.onnx"))
    for folder, models, data in (("file", ["net.onnx"] * 4, None), ("live", [net, stored, stored, net], (X, Y))):
        bo.run_neurons(models[0], data, run=f"{folder}_neurons", workers=0, numbers="0,1")
        bo.sweep_errors(models[1], "1e-3:1e-2", data, run=f"{folder}_sweep", workers=0, repeats=2)
        bo.evaluate_robustness(models[2], data, run=f"{folder}_rank", workers=0, builtin=["index"])
        bo.run_until(models[3], "critical±20%@80%", data, run=f"{folder}_until", workers=0)
    for kind in ("neurons", "sweep", "rank", "until"):
        assert results(f"file_{kind}") == results(f"live_{kind}")


@pytest.mark.torch
@pytest.mark.keras
def test_both_frameworks_side_by_side(here: Path) -> None:
    """The same weights in PyTorch and in Keras: the list is converted, and the runs agree."""
    a, b = torch_net().eval(), keras_net()
    state = {name: tensor.numpy() for name, tensor in a.state_dict().items()}
    b.get_layer("conv").set_weights([state["conv.weight"].transpose(2, 3, 1, 0), state["conv.bias"]])
    b.get_layer("bn").set_weights([state[f"bn.{n}"] for n in ("weight", "bias", "running_mean", "running_var")])
    b.get_layer("fc").set_weights([state["fc.weight"].T, state["fc.bias"]])
    converted = bo.convert(FAULTS, a, b, X, out="keras.csv")
    assert [injection.id for injection in converted] == [str(number) for number in range(len(FAULTS))]
    assert repr(converted) == f"<ConvertedFaults: {len(FAULTS)} injections>"
    assert next(iter(converted)).faults[0].index == (1, 1, 0, 0)
    comparison = bo.compare(a, b, FAULTS, (X, Y), run="compared", workers=0)
    critical = next(row for row in comparison.rows if row.quantity == "critical")
    assert (critical.injections, critical.differing) == (len(FAULTS), 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "`data`: expected a path, 'synthetic:N', an array x, a pair .*, found 3"),
        ("none.npz", "none.npz: no such file or folder"),
        ({"a": X}, "`data`: expected inputs x, a pair .* found the names a"),
        ((X, Y, Y), r"`data`: expected inputs x, a pair .* found \("),
        ((X, Y[:3]), "`data`: 3 labels for 20 inputs"),
        ((X, Y - 1), "`data`: the label of input .* is -1"),
        ((X.astype(str), Y), "`data`: expected numbers as x, found <U"),
        (X[:, 0, 0, 0], r"`data`: x has shape \(20,\), expected at least one input"),
        (X[:, :, :5], r"`data`: inputs of shape \(1, 5, 6\), the model takes \(1, 6, 6\)"),
        ((X * 10).astype(np.uint8), "`data`: uint8 for a model that takes float32; say how to scale it: `preset`"),
        (np.full_like(X, np.nan), "`data`: input 0 .* has a NaN or Inf"),
        (object(), "`data`: expected a path, .* found an object of type object"),
    ],
)
def test_wrong_data(data: object, message: str, here: Path) -> None:
    with pytest.raises(bo.BitswapError, match=message) as caught:
        bo.run_campaign(cnn(), FAULTS, data, run="run", workers=0)
    assert "\n" not in str(caught.value)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, FAULTS, X), "`model`: expected the path of an ONNX file, a Model, an onnx.ModelProto, .* found 5"),
        ((Keywords, FAULTS, X), r"found the class Keywords; give an object: Keywords\(\)"),
        (({"fc.weight": X}, FAULTS, X), "found a dictionary; load a state dict into its module"),
        ((onnx.ModelProto(), FAULTS, X), "`model`: expected an ONNX model, found a protobuf without a graph"),
        ((cnn(), FAULTS, None), "main_graph|net: expected data to run it on, found none; give data="),
        ((cnn(), [], X), "the fault list has no injections"),
        ((cnn(), {"a": 1}, X), "`faults`: expected the path of a fault list, Fault or Injection objects"),
        ((cnn(), [bo.Fault("conv", (9, 0, 0, 0), 3)], X), "conv"),
    ],
)
def test_wrong_models_and_faults(arguments: tuple[Any, Any, Any], message: str, here: Path) -> None:
    with pytest.raises(bo.BitswapError, match=message):
        bo.run_campaign(*arguments, run="run", workers=0)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"batchsize": 3},
            "batchsize: expected a field of Settings or RunOptions, found no such name; the nearest are batch_size",
        ),
        ({"data": X, "settings": Settings(data="x.npz")}, "`data`: expected once, found in `settings` too"),
        ({"data": RunOptions()}, "`data`: expected inputs, found RunOptions; give options="),
        ({"memory": "4X"}, "`memory`: expected a size like 500M or 4G, found '4X'"),
        ({"input_shape": "3,a"}, "`input_shape`: expected numbers separated by commas, found '3,a'"),
        ({"mean": "0.4;0.5"}, "`mean`: expected numbers separated by commas, found '0.4;0.5'"),
        ({"preset": "cifar"}, "`preset`: expected one of"),
    ],
)
def test_wrong_keywords(given: dict[str, Any], message: str) -> None:
    with pytest.raises(bo.BitswapError, match=message):
        bo.run_campaign(cnn(), FAULTS, **given)


def test_text_where_the_command_line_takes_text() -> None:
    settings = bo.Settings(
        input_shape="3,32,32", preprocessing=bo.Preprocessing(mean="0.4,0.5,0.6", std=2, resize="8,9")
    )
    assert settings == bo.Settings(
        input_shape=(3, 32, 32), preprocessing=bo.Preprocessing(mean=(0.4, 0.5, 0.6), std=(2,), resize=(8, 9))
    )
    assert bo.RunOptions(memory="4G", audit="5%") == bo.RunOptions(memory=4 << 30, audit="5%")
    until = bo.Until(goal="critical±0.1%@99%", kinds="flip,stuck_at")
    assert (until.goal, until.kinds) == (bo.parse_goal("critical+-0.1%@99%"), tuple(bo.Kind)[:3])
    assert bo.SamplingRequest(kinds="stuck_at").kinds == tuple(bo.Kind)[1:3]


def test_keywords_are_the_fields_of_settings_and_options() -> None:
    fields = {*Settings.__dataclass_fields__, *RunOptions.__dataclass_fields__, *bo.Preprocessing.__dataclass_fields__}
    derived = {"data", "neurons", "apart", "from_clock", "waiting", "experiment"}
    assert set(Keywords.__annotations__) == fields - derived


def test_pixels_are_prepared_by_a_preset(here: Path) -> None:
    """Bytes with mean and std are the same data as the values that numpy computes from them."""
    pixels = np.random.default_rng(5).integers(0, 256, (20, 6, 6, 1), np.uint8)
    prepared = (np.moveaxis(pixels, 3, 1).astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    bo.run_campaign(cnn(), FAULTS, (pixels, Y), mean=0.5, std="0.25", run="run", workers=0)
    bo.run_campaign(cnn(), FAULTS, (prepared, Y), run="run", resume=True, workers=0)


@pytest.mark.parametrize("make", [lambda: iter(FAULTS), lambda: FAULTS[0], lambda: bo.Injection("a", (FAULTS[0],))])
def test_faults_one_by_one(make: Callable[[], Any], here: Path) -> None:
    campaign = bo.run_campaign(cnn(), make(), X, run="run", workers=0)
    assert campaign.summary.injections in (1, len(FAULTS))
