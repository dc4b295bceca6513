"""What results show: DataFrames with the numbers of the files, one line at a prompt, HTML in a notebook, figures."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bitswap_onnx as bo
from bitswap_onnx.campaign.run import Campaign
from bitswap_onnx.errors import MissingExtraError
from bitswap_onnx.experiments.crosscheck.agreement import Agreement
from bitswap_onnx.experiments.crosscheck.run import Verdict
from bitswap_onnx.tables import Tabular
from tests.builders import build, normal, save

X, Y = normal(20, 1, 6, 6, seed=3), np.arange(20) % 4
WEIGHT = "conv<script>"
BODY = """
net (float[N, 1, 6, 6] x) => (float[N, 4] scores) {
    a = Conv <kernel_shape = [3, 3]> (x, "first.weight")
    b = Relu (a)
    c = Flatten (b)
    scores = Gemm <transB = 1> (c, "fc.weight")
}
"""


def network() -> Any:
    """A small classifier whose convolution has a name of HTML."""
    proto = build(BODY, first__weight=normal(3, 1, 3, 3), fc__weight=normal(4, 48, seed=1))
    for entry in (*proto.graph.initializer, *proto.graph.node):
        entry.name = entry.name.replace("first.weight", f"{WEIGHT}/kernel")
    proto.graph.node[0].input[1] = f"{WEIGHT}/kernel"
    return proto


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def campaign(folder: Path) -> Campaign:
    pair = bo.Injection("pair", (bo.Fault("fc", (0, 0), 30), bo.Fault("fc", (0, 1), None, bo.Kind.SET, "nan")))
    neuron = bo.Injection("neuron", (bo.Fault("fc", (1,), 31, site=bo.Site.OUTPUT, input=3),))
    faults = [bo.Fault(WEIGHT, (0, 0, 0, bit % 3), bit) for bit in range(32)]
    save(network(), folder / "net.onnx")
    injections = [bo.Injection(f"f{i}", (fault,)) for i, fault in enumerate(faults)]
    return bo.run_campaign(folder / "net.onnx", [*injections, pair, neuron], (X, Y), run=folder / "run", workers=0)


@pytest.fixture(scope="module")
def results(campaign: Campaign, folder: Path) -> dict[str, Any]:
    """One result of each kind."""
    options: dict[str, Any] = {"workers": 0, "settings": bo.Settings(data=(X, Y))}
    model = folder / "net.onnx"
    agreement = Agreement("0", 3, 0.1, 0.1, 0, 0, 0, 0, {"masked": 1, "critical": 0}, {"masked": 0, "critical": 0})
    bo.run_campaign(model, campaign.frame().iloc[:8], run=folder / "other", **options)
    bo.run_campaign(model, campaign.frame().iloc[:8], run=folder / "another", **options)
    return {
        "campaign": campaign,
        "rates": bo.estimate_rates(campaign, by="layer,bit"),
        "neurons": bo.run_neurons(model, run=folder / "neurons", **options),
        "sweep": bo.sweep_errors(model, [1e-3, 1e-2], run=folder / "sweep", repeats=3, **options),
        "rank": bo.evaluate_robustness(model, run=folder / "rank", builtin=["index", "reverse"], **options),
        "until": bo.run_until(model, "critical±20%@80%", run=folder / "until", **options),
        "compare": bo.compare(folder / "other", folder / "another"),
        "crosscheck": Verdict("torch", agreement, (agreement,), 0.01, False),
    }


NAMES = ("campaign", "rates", "neurons", "sweep", "rank", "until", "compare", "crosscheck")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_campaign_is_a_frame_of_its_results(campaign: Campaign) -> None:
    frame, rows = campaign.frame(), read(campaign.run / "results.csv")
    assert list(frame.columns) == list(rows[0])
    assert len(frame) == len(rows) == 35
    counts = ["Bit", "n_injections", "masked", "critical", "nonfinite", "top_1_correct"]
    assert {str(frame[name].dtype) for name in counts} == {"Int64"}
    assert {str(frame[name].dtype) for name in ("clean_value", "faulty_value")} == {"float64"}
    for name in frame.columns:
        for cell, text in zip(frame[name], (row[name] for row in rows), strict=True):
            assert (text in ("", "nan")) if pd.isna(cell) else (str(cell) == text or float(cell) == float(text))
    critical = frame.groupby("Layer", sort=False).critical.sum()
    assert critical.sum() == campaign.summary.totals["critical"]


def test_a_frame_is_a_fault_list(campaign: Campaign, folder: Path) -> None:
    """All of it continues the list that results.csv is; a part gives the same rows."""
    bo.run_campaign(folder / "net.onnx", campaign.run / "results.csv", (X, Y), run=folder / "file", workers=0)
    bo.run_campaign(folder / "net.onnx", campaign.frame(), (X, Y), run=folder / "file", resume=True, workers=0)
    assert read(folder / "file" / "results.csv") == read(campaign.run / "results.csv")
    frame = campaign.frame()
    worst = frame[
        frame.Injection.isin(frame[frame.critical > 0].Injection)
    ]  # both rows of an injection with two faults
    assert 0 < len(worst) < len(frame)
    part = bo.run_campaign(folder / "net.onnx", worst, (X, Y), run=folder / "part", workers=0).frame()
    assert part.critical.dropna().tolist() == worst.critical.dropna().tolist()
    made = pd.DataFrame({"injection": [1], "layer": ["fc"], "index": [(np.int64(0), 0)], "bit": [30.0]})
    assert bo.run_campaign(folder / "net.onnx", made, (X, Y), run=folder / "made", workers=0).summary.injections == 1
    with pytest.raises(bo.BitswapError, match="`faults`:1: expected a header with Injection,Layer"):
        bo.run_campaign(folder / "net.onnx", pd.DataFrame({"a": [1]}), (X, Y), run=folder / "none")
    with pytest.raises(bo.BitswapError, match="`faults`:2: Bit 'x' is no bit number"):
        bo.run_campaign(folder / "net.onnx", made.assign(bit="x"), (X, Y), run=folder / "none")


@pytest.mark.parametrize(
    ("name", "file"),
    [("neurons", "net_data_0.csv"), ("sweep", "net.csv"), ("rank", "net_layers.csv"), ("until", "until.csv")],
)
def test_frames_are_the_files(name: str, file: str, results: dict[str, Any], folder: Path) -> None:
    if name == "rank":
        from bitswap_onnx.experiments.ranking.report import write_robustness

        write_robustness(results[name])
    frame, rows = results[name].frame(), read(folder / name / file)
    assert [list(frame.columns), len(frame)] == [list(rows[0]), len(rows)]
    for column in frame.columns:
        for cell, text in zip(frame[column], (row[column] for row in rows), strict=True):
            assert (text == "") if pd.isna(cell) else (str(cell) == text or float(cell) == float(text))


def test_the_frame_of_rates(results: dict[str, Any], campaign: Campaign) -> None:
    frame = results["rates"].frame()
    network = frame[(frame.scope == "network") & (frame["quantity"] == "critical")].iloc[0]
    rows = campaign.frame().dropna(subset=["critical"])
    assert network["mean"] == pytest.approx((rows.critical / rows.n_injections).mean())
    assert frame.low.dtype == frame["mean"].dtype == np.float64
    assert set(frame.scope) == {"network", "layer", "bit", "curve"}
    assert bo.estimate_rates(campaign.run).frame().equals(bo.estimate_rates(campaign).frame())
    assert bo.estimate_rates(results["until"]).headline().startswith(str(results["until"].run))


@pytest.mark.parametrize("name", NAMES)
def test_prompt_and_notebook_show_a_result(name: str, results: dict[str, Any]) -> None:
    result = results[name]
    assert isinstance(result, Tabular)
    assert repr(result).startswith(f"<{type(result).__name__} ")
    assert len(repr(result)) < 300
    assert "\n" not in repr(result)
    html = result._repr_html_()
    assert "<script>" not in html
    assert len(html) < 20_000
    assert html.count("<tr>") <= 13
    assert len(result.frame()) >= 1


def test_names_are_text_in_a_notebook(results: dict[str, Any]) -> None:
    for name in ("rates", "neurons", "rank"):
        assert "conv&lt;script&gt;" in results[name]._repr_html_(), name


@pytest.mark.parametrize("name", ["rates", "neurons", "sweep", "rank", "until"])
def test_plots_are_figures(name: str, results: dict[str, Any], tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = results[name].plot()
    assert isinstance(figure, Figure)
    assert figure.axes
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000


def test_without_pandas_or_matplotlib(results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in NAMES:
        with pytest.raises(MissingExtraError, match=r"pip install 'bitswap-onnx\[pandas\]'"):
            results[name].frame()
    with pytest.raises(MissingExtraError, match=r"pip install 'bitswap-onnx\[report\]'"):
        results["sweep"].plot()


def test_a_model_shows_itself_in_one_line(campaign: Campaign, folder: Path) -> None:
    model = bo.load_model(folder / "net.onnx")
    assert repr(model) == f"<Model net, {folder}/net.onnx: 4 nodes, sha256 {model.sha256[:12]}>"
    assert repr(bo.load_model(network())).startswith("<Model net, in memory: 4 nodes")
    assert len(repr(bo.Settings(data=(X, Y)))) < 500
    assert campaign.golden["model_file"] == "net.onnx"
    setup = bo.prepare(model, bo.Settings(data=(X, Y)))
    assert repr(setup) == "<Setup net on data: all 20 inputs in memory, with labels>"
    assert repr(setup.dataset) == "<Dataset data: all 20 inputs in memory, with labels; each (1, 6, 6), float32>"


def test_runs_without_data_or_models_with_faults_are_compared(tmp_path: Path) -> None:
    message = "expected faults for two models; without them, two run directories"
    for wrong in ((tmp_path, tmp_path, None, X), ("a.onnx", "b.onnx")):
        with pytest.raises(bo.BitswapError, match=message):
            bo.compare(*wrong)
    for beside in ({"workers": 1}, {"settings": bo.Settings(first=3)}, {"options": bo.RunOptions(workers=1)}):
        with pytest.raises(bo.BitswapError, match=message):
            bo.compare(tmp_path, tmp_path, **beside)
    with pytest.raises(bo.BitswapError, match="`allow_unpaired`: expected with two finished runs"):
        bo.compare("a.onnx", "b.onnx", "f.csv", allow_unpaired=True)
