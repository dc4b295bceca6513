"""The command line: one line on stderr for wrong input, and nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.builders import build, cnn, normal, save
from tests.command_line import HEADER, ROWS, Run, begin_folder, everything, runner


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a folder with a model, its data and a list; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    begin_folder(tmp_path)
    return runner(monkeypatch, capsys)


def faults(row: str, text: str = HEADER + ROWS) -> None:
    Path("faults.csv").write_text(text + row)


def data(**arrays: NDArray[Any]) -> None:
    np.savez("cnn.npz", allow_pickle=False, **arrays)


def model(text: str, **tensors: NDArray[Any]) -> None:
    save(build(text, **tensors), Path("cnn.onnx"))


def external(location: str) -> None:
    proto = build("net (float[N, 2] x) => (float[N, 2] y) { y = MatMul (x, W) }", W=normal(2, 2))
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], location)
    proto.graph.initializer[0].ClearField("raw_data")
    save(proto, Path("cnn.onnx"))


def square_root_of_scores() -> None:
    proto = cnn()
    proto.graph.node[2].op_type = "Sqrt"
    save(proto, Path("cnn.onnx"))


def two_inputs_a_batch() -> None:
    proto = cnn()
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    save(proto, Path("cnn.onnx"))


def model_and_data(text: str, x: NDArray[Any] | None) -> None:
    model(text)
    Path("cnn.npz").unlink()
    if x is not None:
        data(x=x)


def nothing() -> None:
    pass


OPEN = "net (float[N, 3, H, W] x) => (float[N, 3] y) { a = GlobalAveragePool (x)\n y = Flatten (a) }"
OPEN_IN_ALL = OPEN.replace("[N, 3, H, W]", "[N, C, H, W]")
SEVERAL = OPEN.replace("(float[N, 3] y)", "(float[N, 3] y, float[N, 3] z)").replace(" }", "\n z = Neg (y) }")
NO_SCORES = "net (float[N, 1, 6, 6] x) => (float[N, 1, 6, 6] y) { y = Relu (x) }"
INJECT = "inject cnn.onnx faults.csv --out run --workers 1"
NO_DATA = (
    "cnn.onnx: expected data to run it on, found no cnn.npz beside it; give --data FILE, or --data synthetic[:N] for N "
    "inputs of noise"
)
#: Every command that runs a model.
WITH_DATA = (
    INJECT,
    "inject cnn.onnx --until critical±1%@95% --out run",
    "evaluate cnn.onnx",
    "neurons cnn.onnx --out run",
    "sweep cnn.onnx --rates 1e-3 --out run",
    "rank cnn.onnx --out run",
    "compare --models cnn.onnx cnn.onnx --faults faults.csv --out run",
    "crosscheck cnn.onnx faults.csv --native tf --out run",
)

#: What is made wrong, the command line, what the one line says.
WRONG: list[tuple[Callable[[], None], str, str]] = [
    (nothing, INJECT.replace("cnn.onnx", "gone.onnx"), "gone.onnx: cannot read the model: No such file or directory"),
    (nothing, INJECT.replace("cnn.onnx", "faults.csv"), "faults.csv: not an ONNX model"),
    (nothing, INJECT.replace("faults.csv", "gone.csv"), "gone.csv: cannot read the fault list: No such file"),
    (
        lambda: faults("", "layer;bit\n1;2\n"),
        INJECT,
        "faults.csv:1: expected a header with Injection,Layer,TensorIndex,Bit",
    ),
    (lambda: faults("", HEADER), INJECT, "faults.csv: the fault list has a header but no rows"),
    (lambda: faults('3,fc,"(1, 2)",x\n'), INJECT, "faults.csv:5: Bit 'x' is no bit number"),
    (lambda: faults('3,convv,"(1, 2)",3\n'), INJECT, "faults.csv:5: unknown layer 'convv'; the nearest are conv"),
    (
        lambda: faults('3,fc,"(4, 0)",3\n'),
        INJECT,
        "faults.csv:5: index (4, 0) is outside fc.weight, whose shape is (4, 48)",
    ),
    (lambda: faults('3,fc,"(1, 2)",32\n'), INJECT, "faults.csv:5: bit 32 is outside float32 (0-31) for fc.weight"),
    (lambda: external("gone.bin"), INJECT, "the external data of tensor W is missing: expected gone.bin beside it"),
    (lambda: external("../outside.bin"), INJECT, "tensor W points outside the model's folder (../outside.bin)"),
    (
        lambda: model(OPEN),
        f"{INJECT} --data synthetic",
        "leaves more than the batch open; give its sizes with --input-sh",
    ),
    (
        lambda: model_and_data(SEVERAL, np.zeros((5, 3, 4, 4), np.uint8)),
        INJECT,
        "error: 2 things are missing or wrong: cnn: several outputs fit (y, z); choose one with --scores; and cnn.npz: "
        "uint8 for a model that takes float32; say how to scale it: --preset (cifar10",
    ),
    (
        lambda: model_and_data(SEVERAL, None),
        INJECT,
        "2 things are missing or wrong: cnn: several outputs fit (y, z); choose one with --scores; and cnn.onnx: "
        "expected data",
    ),
    (
        lambda: model_and_data(OPEN_IN_ALL, np.zeros((5, 3, 4, 4), np.uint8)),
        INJECT,
        "2 things are missing or wrong: cnn.npz: inputs of shape (3, 4, 4) fit the model's (?, ?, ?) as 3,4,4 or 4,4,3; "
        "give one as --input-shape; and cnn.npz: uint8 for",
    ),
    (
        lambda: model_and_data(OPEN, normal(5, 2, 4, 4)),
        INJECT,
        "inputs of shape (2, 4, 4) do not fit the model's (3, ?, ?); store x in that shape, or give --input-shape",
    ),
    (lambda: data(x=normal(5, 1, 7, 6)), INJECT, "inputs of shape (1, 7, 6), the model takes (1, 6, 6)"),
    (lambda: data(x=np.zeros((5, 1, 6, 6), np.complex64)), INJECT, "dtype complex64, expected integers or floats"),
    (
        lambda: data(x=np.zeros((5, 1, 6, 6), np.uint8)),
        INJECT,
        "uint8 for a model that takes float32; say how to scale",
    ),
    (lambda: data(x=normal(5, 1, 6, 6), y=np.arange(4)), INJECT, "4 labels for 5 inputs"),
    (
        lambda: data(x=normal(3, 1, 6, 6), y=np.array([0, 4, 2])),
        INJECT,
        "input 1 has label 4, the model's classes are 0-3",
    ),
    (lambda: model(NO_SCORES), INJECT, "expected an output of shape (batch, classes >= 2), found y"),
    (square_root_of_scores, INJECT, "the clean model gives NaN for 20 of 20 inputs (first: 0, 1, 2, 3, 4)"),
    (lambda: Path("run").touch(), INJECT, "run: expected a run directory, found a file"),
    (nothing, f"{INJECT} --mean a,b", "--mean: expected numbers separated by commas, found 'a,b'"),
    (nothing, f"{INJECT} --criterion tolerance=x", "--criterion: expected top-1 or tolerance=REL"),
    (nothing, f"{INJECT} --scores nothing", "no output 'nothing'; the outputs are scores"),
    (nothing, f"{INJECT} --data synthetic --preset cifar10", "--preset: --data synthetic is noise and needs none of"),
    (nothing, f"{INJECT} --data synthetic --limit 5 --first 3", "--limit 5 and --first 3: give one of them"),
    (nothing, f"{INJECT} --limit 5 --first 3", "--limit 5 and --first 3: give one of them"),
    (nothing, f"{INJECT} --data synthetic:0", "--data: expected synthetic, or synthetic:N with N from 1 on, found"),
    (nothing, f"{INJECT} --data ./synthetic", "synthetic: no such file or folder"),
    *((lambda: Path("cnn.npz").unlink(), command, NO_DATA) for command in WITH_DATA),
    (nothing, "inject cnn.onnx faults.csv --resume", "--resume needs --out: the run directory to continue"),
    (nothing, f"{INJECT} --data gone.npz", "gone.npz: no such file or folder"),
    (nothing, f"{INJECT} --preset imagenet", "--preset: expected one of cifar10"),
    (two_inputs_a_batch, f"{INJECT} --batch-size 4", "--batch-size 4: the model's batch dimension is fixed at 2"),
    (nothing, "rewrite cnn.onnx faults.csv --injection 77 -o f.onnx", "faults.csv: no injection '77' in the list"),
    (
        nothing,
        "rewrite cnn.onnx faults.csv --injection 0 -o ./cnn.onnx",
        "cnn.onnx: would overwrite what it is made from",
    ),
    (
        nothing,
        "rewrite cnn.onnx faults.csv --injection 0 -o faults.csv",
        "faults.csv: would overwrite what it is made from",
    ),
    (nothing, "rewrite cnn.onnx faults.csv --injection 0 -o .", "expected the name of a file to write, found a folder"),
    (
        lambda: faults('0,fc,"(1, 2)",5\n'),
        "rewrite cnn.onnx faults.csv --injection 0 -o f.onnx",
        "injection 0 stood at line 2",
    ),
    (nothing, "evaluate cnn.onnx -o cnn.onnx", "cnn.onnx: would overwrite what it is made from"),
    (lambda: faults("", HEADER.replace("Bit", "bit,BIT")), INJECT, "faults.csv:1: column Bit stands twice"),
    (
        nothing,
        INJECT.replace("--out run", "--out runs --resume"),
        "runs: --resume: expected a run directory, found none; leave --resume out",
    ),
    (nothing, "inject faults.csv cnn.onnx", "it looks like a fault list: the model comes first, then the list"),
    (nothing, "results export nowhere --dialect tf_injector", "nowhere: expected a run directory"),
    (
        nothing,
        "results export nowhere --dialect excel",
        "--dialect: expected dnn-benchmarks or tf_injector, found 'excel'",
    ),
    (nothing, "inspect cnn.onnx --layers zzz", "no layer or parameter matches 'zzz'; the nearest are"),
]


@pytest.mark.parametrize(("make_wrong", "command", "message"), WRONG, ids=[message[:40] for *_, message in WRONG])
def test_wrong_input_gets_one_line_and_writes_nothing(
    run: Run, tmp_path: Path, make_wrong: Callable[[], None], command: str, message: str
) -> None:
    make_wrong()
    before = everything(tmp_path)
    code, _, err = run(*command.split())
    (line,) = err.splitlines()
    assert code == 1
    assert line.startswith("error: ")
    assert message in line
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("inject",),
        ("inject", "cnn.onnx", "faults.csv", "--workers", "-1"),
        ("inject", "cnn.onnx", "faults.csv", "--fusion", "none"),
        ("unknown",),
        ("rewrite", "cnn.onnx", "faults.csv"),
    ],
)
def test_usage_errors(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == 2
