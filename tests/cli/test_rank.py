"""``rank`` on the command line: output, files, and one line on stderr for wrong input."""

import csv
import json
import math
import sys
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bitswap_onnx.errors import ControlFailedError
from bitswap_onnx.experiments.ranking import run as rank_module
from bitswap_onnx.experiments.ranking.builtin import BUILTIN_RANKINGS
from tests.builders import build, normal, save
from tests.command_line import Run, runner
from tests.documented import documented

Row = dict[str, str]

NET = """net (float[N, 6] x) => (float[N, 4] scores) {
    a = Gemm <transB = 1> (x, "first.weight", "first.bias")
    b = Relu (a)
    c = Gemm <transB = 1> (b, "second.weight", "second.bias")
    d = Relu (c)
    scores = Gemm <transB = 1> (d, "third.weight", "third.bias")
}"""
LAYERS = ["first", "second", "third"]
TABLES = ("layers", "rankings", "curves", "pairs")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``rank net.onnx`` in a folder with that model and its data; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("score_ranking", "score_difference", "rank_agreement"):
        monkeypatch.setattr(rank_module, name, partial(getattr(rank_module, name), draws=100))
    sizes = {"first": (9, 6), "second": (7, 9), "third": (4, 7)}
    tensors = {f"{name}__weight": normal(*size, seed=size[0]) for name, size in sizes.items()}
    tensors |= {f"{name}__bias": normal(size[0], seed=size[1]) for name, size in sizes.items()}
    save(build(NET, **tensors), tmp_path / "net.onnx")
    np.savez("net.npz", x=normal(20, 6, seed=3), y=np.arange(20) % 4)

    return runner(monkeypatch, capsys, "rank", "net.onnx")


def read(name: str, folder: str = "here") -> list[Row]:
    with Path(folder, f"net_{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def shown(out: str) -> dict[str, list[str]]:
    """Return the rows of the printed tables by their first two cells."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    return {row[1] if row[0].isdigit() else row[0]: row for row in cells}


def test_tables_and_files(run: Run) -> None:
    """The files follow from the shares of layers and the order of each ranking; the printed tables agree, best first."""
    Path("mine.csv").write_text("layer,rank\nthird,2\nfirst,1\n")
    options = ("--out", "here", "--workers", 1, "--audit", 1, "--trials", 6, "--seed", 2, "--ranking", "mine.csv")
    code, out, err = run(*options)
    assert code == 0
    assert err.count("data: all 20 inputs of net.npz") == 1
    assert f"written: {', '.join(f'here/net_{name}.csv' for name in TABLES)}, here/net_rank.json" in out
    layers, rankings = read("layers"), read("rankings")
    assert [row["layer"] for row in layers] == LAYERS
    assert [int(row["macs"]) for row in layers] == [54, 63, 28]
    assert [int(row["parameters"]) for row in layers] == [54 + 9, 63 + 7, 28 + 4]
    assert [int(row["bits"]) for row in layers] == [32 * size for size in (6, 9, 7)]
    table = shown(out)
    for row in layers:
        shares = [f"{100 * float(row[name]):.2f}" for name in ("accuracy", "critical", "nonfinite")]
        assert table[row["layer"]][3:6] == shares
    for row in rankings:
        check_ranking(row, {layer["layer"]: layer for layer in layers})
        assert table[row["ranking"]][1] == f"{float(row['score']):.3f}"
        assert table[row["ranking"]][-1] == f"{row['layers']} of 3"
    assert "score: accuracy in % under faults in the first k layers" in out
    assert "normalised: 0 is a random order" in out
    printed = [name for name in table if name in ("mine", *BUILTIN_RANKINGS)]
    assert printed == [
        row["ranking"] for row in sorted(rankings, key=lambda row: (-int(row["layers"]), float(row["score"])))
    ]
    assert {row["ranking"] for row in rankings} == {"mine", *BUILTIN_RANKINGS}
    orders = {row["ranking"]: row["order"] for row in rankings}
    assert (orders["mine"], orders["reverse"]) == ("first;third", "third;second;first")
    check_json()
    before = {path.name: path.read_bytes() for path in Path("here").glob("net_*")}
    for path in Path("here").glob("net_*"):
        path.write_text("old")
    assert run(*options, "--resume")[:2] == (0, out)
    assert {path.name: path.read_bytes() for path in Path("here").glob("net_*")} == before


def check_ranking(row: Row, layers: dict[str, Row]) -> None:
    """A ranking's score is the mean of its curve, and its curve the running mean of its layers' accuracies."""
    order, curve = row["order"].split(";"), [one for one in read("curves") if one["ranking"] == row["ranking"]]
    accuracies = [100 * float(layers[name]["accuracy"]) for name in order]
    expected = [float(np.mean(accuracies[:k])) for k in range(1, len(order) + 1)]
    assert [one["layer"] for one in curve] == ["", *order]
    assert (curve[0]["k"], curve[0]["s"]) == ("0", "")
    assert [float(one["s"]) for one in curve[1:]] == pytest.approx(expected)
    assert float(row["score"]) == pytest.approx(np.mean(expected))
    assert float(row["score_low"]) <= float(row["score"]) <= float(row["score_high"])
    assert float(row["in_sample_oracle"]) <= float(row["score"]) <= float(row["in_sample_worst"])
    assert float(row["coverage"]) == len(order) / len(layers)
    risk = {name: float(layer["critical"]) * int(layer["bits"]) for name, layer in layers.items()}
    for k, one in enumerate(curve):
        left = sum(risk[name] for name in layers if name not in order[:k]) / sum(risk.values())
        assert float(one["critical_unmonitored"]) == pytest.approx(left)
        for name in ("macs", "bits"):
            share = sum(int(layers[layer][name]) for layer in order[:k]) / sum(
                int(layers[layer][name]) for layer in layers
            )
            assert float(one[f"{name}_monitored"]) == pytest.approx(share)


def check_json() -> None:
    """The JSON file has the same tables, documented column by column; NaN and Inf are null there, empty cells in the CSV."""

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    content = json.loads(Path("here/net_rank.json").read_text(), parse_constant=refused)
    assert (content["network"], content["where"], content["inputs"], content["trials"]) == ("net", "neurons", 20, 6)
    assert list(content) == documented("`rank`", "Keys of `NETWORK_rank.json`")
    for name in TABLES:
        assert list(content[name][0]) == documented("`rank`", f"Columns of `NETWORK_{name}.csv`")
        for plain, text in zip(content[name], read(name), strict=True):
            assert list(plain) == list(text)
            for key, value in plain.items():
                assert text[key] == ("" if value is None else str(value))


def test_pairs(run: Run) -> None:
    """Each pair with a significant difference gets a line; the others are counted. The oracle always scores best."""
    _, out, _ = run("--out", "here", "--trials", 40, "--builtin", "index,reverse,macs,oracle", "--top", 2, "--audit", 0)
    pairs = read("pairs")
    orders = {row["ranking"]: row["order"].split(";") for row in read("rankings")}
    assert [(row["first"], row["second"]) for row in pairs] == list(combinations(orders, 2))
    for row in pairs:
        one, other = (orders[row[name]] for name in ("first", "second"))
        places = [[order.index(layer) for layer in LAYERS] for order in (one, other)]
        assert float(row["tau_b"]) == pytest.approx(stats.kendalltau(*places).statistic)
        assert float(row["overlap"]) == len({*one[:2]} & {*other[:2]}) / 2
        known = "oracle" in (row["first"], row["second"])
        assert (row["score_difference"] == row["verdict"] == "") == known
        assert row["resampled"] == ("inputs" if known else "layers")
    pairs = [row for row in pairs if row["verdict"]]
    told = [row for row in pairs if row["verdict"] != "cannot be told apart"]
    assert f"{3 - len(told)} of 3 pairs of rankings cannot be told apart" in out
    scores = {row["ranking"]: float(row["score"]) for row in read("rankings")}
    for row in told:
        better, worse = sorted((row["first"], row["second"]), key=lambda name: scores[name])
        ends = sorted(abs(float(row[f"score_difference_{end}"])) for end in ("low", "high"))
        assert f"{better} is better than {worse} by {ends[0]:.3f} to {ends[1]:.3f} points" in out
    assert out.count(" is better than ") == len(told)
    for row in pairs:
        difference = scores[row["first"]] - scores[row["second"]]
        assert float(row["score_difference"]) == pytest.approx(difference, abs=1e-9)


def test_weights_without_labels(run: Run) -> None:
    """Without labels, the golden prediction counts as right; faults in weights are the units, at least two."""
    np.savez("net.npz", x=normal(20, 6, seed=3))
    code, out, _ = run("--site", "weights", "--trials", 2, "--builtin", "oracle", "--out", "here", "--workers", 1)
    assert code == 0
    assert "net on net, 20 inputs: 2 faults per layer, in its kernel; no labels" in out
    assert "As golden %" in out
    for row, bits in zip(read("layers"), (54, 63, 28), strict=True):
        assert float(row["accuracy"]) == pytest.approx(1 - float(row["critical"]))
        assert int(row["bits"]) == 32 * bits
        assert math.isclose(40 * float(row["accuracy"]) % 1, 0, abs_tol=1e-9)


def test_default_run_directory_and_steps(run: Run) -> None:
    code, out, err = run("--evaluation-steps", 2, "--batch-size", 5, "--builtin", "none", "--layer-type", "Linear")
    (found,) = Path("reports/net/net").iterdir()
    assert (code, len(read("layers", str(found)))) == (0, 3)
    assert "net on net, 10 inputs" in out
    assert "data: the first 10 of 20 inputs of net.npz" in err
    assert not any((found / f"net_{name}.csv").exists() for name in TABLES[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ranking", "unknown.json"), 'unknown.json: entry 2: the model has no layer "thrid"; nearest: third'),
        (("--ranking", "again.csv"), 'again.csv:4: "first" is ranked a second time; name each layer once'),
        (
            ("--ranking", "ranks.json", "--as", "order"),
            "ranks.json: entry 3: expected a layer index from 0 to 2, found 3; if these are rank values, "
            "pass --as rank-values",
        ),
        (
            ("--ranking", "ranks.json"),
            "ranks.json: a plain list of numbers may be layer indices, the most critical first, or a rank value for each "
            "layer; pass --as order or --as rank-values",
        ),
        (("--ranking", "none.csv"), "none.csv: cannot read the ranking: No such file or directory"),
        (
            ("--ranking", "index.csv"),
            "--ranking: a ranking has the name of its file; expected different names, found the name of a built-in ranking "
            "(index)",
        ),
        (
            ("--ranking", "again.csv", "--ranking", "again.csv"),
            "--ranking: a ranking has the name of its file; expected different names, found two files of one name",
        ),
        (("--layers", "frist"), "no layer matches 'frist'; the nearest are first"),
        (("--layer-type", "Denze"), "--layer-type: no layer is of type 'Denze'; the nearest are "),
        (("--layer-type", "Gemm", "--layers", "first"), "net: expected at least 2 layers to rank, found first; "),
        (("--layers", "third"), "net: expected at least 2 layers to rank, found third; choose more with --layers"),
        (("--builtin", "index,oracel"), "--builtin: no ranking 'oracel'; the nearest are oracle"),
        (("--site", "weights", "--trials", 1), "--trials: expected at least 2 with --site weights, found 1"),
        (
            ("--layout", "blocked"),
            "--layout blocked: neuron faults need --layout plain and --fusion framework; leave it out",
        ),
        (("--resume",), "--resume needs --out: the run directory to continue"),
        (("--memory", "much"), "--memory: expected a size like 500M or 4G, found 'much'"),
        (("--audit", "some"), "--audit: expected a number of injections (10), a share (5%) or 0, found 'some'"),
    ],
)
def test_wrong_input(run: Run, arguments: tuple[object, ...], message: str) -> None:
    """Exit 1, one line on stderr, nothing written."""
    Path("unknown.json").write_text('["first", "thrid"]')
    Path("again.csv").write_text("layer\nfirst\nsecond\nfirst\n")
    Path("ranks.json").write_text("[1, 2, 3]")
    Path("index.csv").write_text("layer\nfirst\n")
    before = sorted(Path.cwd().rglob("*"))
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: {message}")
    assert sorted(Path.cwd().rglob("*")) == before


def test_a_run_of_something_else(run: Run) -> None:
    """A directory with another campaign, a campaign without --resume, or other files stays unchanged."""
    options = ("--builtin", "index", "--evaluation-steps", 1, "--out", "here", "--workers", 1)
    assert run(*options)[0] == 0
    before = {path: path.read_bytes() for path in Path("here").iterdir()}
    for more, message in (
        ((), "here: holds a campaign already; continue it with --resume or choose another --out"),
        (("--resume", "--trials", 2), "here: holds another campaign, with other faults; choose another --out"),
        (("--resume", "--builtin", "sensitivity"), "here: holds another campaign, with other faults; choose"),
        (("--resume", "--site", "weights"), "here: holds another campaign, with other faults; choose another"),
    ):
        code, out, err = run(*options, *more)
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {message}")
        assert {path: path.read_bytes() for path in Path("here").iterdir()} == before


def test_failed_control_leaves_no_files(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--builtin", "index", "--out", "here", "--workers", 1)
    assert run(*options)[0] == 0

    def fails(*arguments: object, **options: object) -> None:
        raise ControlFailedError("null control failed")

    monkeypatch.setattr(rank_module, "run_campaign", fails)
    assert run(*options, "--resume") == (3, "", "error: null control failed\n")
    assert not list(Path("here").glob("net_*"))


def test_plot(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One figure shows and names all rankings; a missing matplotlib is an error before anything runs."""
    pytest.importorskip("matplotlib")
    options = ("--builtin", "index,random,oracle", "--trials", 20, "--workers", 1, "--plot", "--audit", 0)
    code, out, _ = run(*options, "--out", "here")
    assert (code, Path("here/net_rank.png").read_bytes()[:4]) == (0, b"\x89PNG")
    assert "here/net_rank.svg, here/net_rank.png" in out
    drawn = Path("here/net_rank.svg").read_text()
    assert all(f">{name}<" in drawn for name in ("index", "random", "oracle", "layers monitored", "Residual risk"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = "error: plots need matplotlib: pip install 'bitswap-onnx[report]'\n"
    assert run(*options, "--out", "elsewhere") == (1, "", message)
    assert not Path("elsewhere").exists()


def test_usage(run: Run) -> None:
    for wrong in (("--trials", 0), ("--evaluation-steps", 0), ("--site", "gates"), ("--as", "list"), ("--top", 0)):
        assert run(*wrong)[0] == 2
