"""Ranking experiments end to end: accuracies, scores, built-in rankings and residual risk by hand, and user rankings."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from bitswap_onnx.campaign.options import Audit, RunOptions
from bitswap_onnx.campaign.settings import Settings, for_neurons
from bitswap_onnx.campaign.setup import Setup, prepare
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.experiments.ranking import run as rank_module
from bitswap_onnx.experiments.ranking.builtin import BUILTIN_RANKINGS
from bitswap_onnx.experiments.ranking.layer_faults import RankingSite, draw_layer_faults
from bitswap_onnx.experiments.ranking.results import Robustness, ScoredRanking
from bitswap_onnx.experiments.ranking.run import evaluate_robustness
from bitswap_onnx.faults.fault import Injection, Site
from bitswap_onnx.graph.sites import find_sites
from bitswap_onnx.stats.rankings import ALIKE
from tests.builders import build, normal, save
from tests.campaigns import run_options

INPUTS, BATCH = 22, 8
SETTINGS = Settings(batch_size=BATCH, seed=5)

#: Two layers read the same value: a fault in what one takes in must not reach the other.
NET = """net (float[N, 2, 5, 5] x) => (float[N, 4] scores) {
    a = Conv <pads = [1, 1, 1, 1]> (x, "stem.weight", "stem.bias")
    b = Relu (a)
    c = Conv <group = 2> (b, "left.weight")
    d = Conv <strides = [2, 2]> (b, "right.weight")
    e = GlobalMaxPool (d)
    f = Add (c, e)
    g = Flatten (f)
    scores = Gemm <transB = 1> (g, "fc.weight", "fc.bias")
}"""
TENSORS: dict[str, NDArray[Any]] = {
    "stem.weight": normal(4, 2, 3, 3, seed=1),
    "stem.bias": normal(4, seed=2),
    "left.weight": normal(6, 2, 3, 3, seed=3) * np.float32(3),
    "right.weight": normal(6, 4, 1, 1, seed=4) / np.float32(3),
    "fc.weight": normal(4, 54, seed=5),
    "fc.bias": normal(4, seed=6),
}
LAYERS = ["stem", "left", "right", "fc"]
#: What each layer takes in, how many elements that has, and the multiply-accumulates of its kernel by hand.
VALUES = {"stem": "x", "left": "b", "right": "b", "fc": "g"}
ELEMENTS = {"stem": 2 * 25, "left": 4 * 25, "right": 4 * 25, "fc": 54}
MACS = {"stem": 4 * 25 * 18, "left": 6 * 9 * 18, "right": 6 * 9 * 4, "fc": 4 * 54}

Array = NDArray[np.float32]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use few bootstrap draws; tests/stats/test_rankings.py tests the intervals."""
    for name in ("score_ranking", "score_difference", "rank_agreement"):
        monkeypatch.setattr(rank_module, name, partial(getattr(rank_module, name), draws=20))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The net with labelled data beside it; four of five labels are the net's predictions."""
    proto = build(NET, **{name.replace(".", "__"): tensor for name, tensor in TENSORS.items()})
    path, x = save(proto, tmp_path / "net.onnx"), normal(INPUTS, 2, 5, 5, seed=7)
    scores = run_plain(proto, "scores", x=x)
    np.savez(tmp_path / "net.npz", x=x, y=(scores.argmax(axis=1) + (np.arange(INPUTS) % 5 == 0)) % 4)
    return path


def rank(model: Path, run: Path, rankings: Any = None, **options: Any) -> Robustness:
    own = run_options(options, run=run, workers=1, audit=Audit(1))
    return evaluate_robustness(model, rankings=rankings, options=own, **{"settings": SETTINGS, **options})


def run_plain(proto: onnx.ModelProto, name: str, **feeds: Array) -> Array:
    """Return one value of a model, computed by plain ONNX Runtime."""
    options = {"disabled_optimizers": ["ConvBNFusion", "NchwcTransformer"]}
    value: Array = ort.InferenceSession(proto.SerializeToString(), **options).run([name], feeds)[0]
    return value


def clean_value(model: Path, name: str) -> Array:
    """Return a value of the clean model on all inputs, read as an additional output."""
    proto, x = onnx.load(model), np.load(model.with_suffix(".npz"))["x"]
    if name not in ("x", "scores"):
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    return np.asarray(x) if name == "x" else run_plain(proto, name, x=x)


def scores_of(model: Path, injection: Injection) -> Array:
    """Flip bits with numpy, in an initializer or in a value that one node reads, and run plain ONNX Runtime."""
    proto = onnx.load(model)
    feeds = {"x": clean_value(model, "x")}
    (layer,) = {fault.layer for fault in injection.faults}
    (kernel,) = (tensor for tensor in proto.graph.initializer if tensor.name == f"{layer}.weight")
    if injection.faults[0].site is None:
        values = numpy_helper.to_array(kernel).copy()
        for fault in injection.faults:
            values.view(np.uint32)[fault.index] ^= np.uint32(1 << (fault.bit or 0))
        kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
    else:
        hit = clean_value(model, VALUES[layer])
        for fault in injection.faults:
            assert fault.site is Site.INPUT
            hit.view(np.uint32)[(fault.input, *fault.index)] ^= np.uint32(1 << (fault.bit or 0))
        (node,) = (node for node in proto.graph.node if kernel.name in node.input)
        node.input[0] = "hit"
        proto.graph.input.append(onnx.helper.make_tensor_value_info("hit", onnx.TensorProto.FLOAT, hit.shape))
        feeds["hit"] = hit
    return run_plain(proto, "scores", **feeds)


def by_hand(model: Path, where: RankingSite, trials: int) -> NDArray[np.float64]:
    """Return correct, critical and nonfinite, (3, layers, trials, inputs), of the injections that the ranking draws."""
    setup = prepare(model, for_neurons(SETTINGS) if where == "neurons" else SETTINGS)
    data = np.load(model.with_suffix(".npz"))
    golden = clean_value(model, "scores").argmax(axis=1)
    labels = data.get("y", golden)
    found = []
    sites = [site for site in find_sites(setup.slicer) if site.role == "kernel" and site.site is Site.INPUT]
    for injection in draw_layer_faults(setup, sites, where, trials, SETTINGS.seed):
        classes = (scores := scores_of(model, injection)).argmax(axis=1)
        found.append([classes == labels, classes != golden, ~np.isfinite(scores).all(axis=1)])
    return np.moveaxis(np.array(found, np.float64).reshape(len(LAYERS), trials, 3, INPUTS), 2, 0)


def mean_of_curve(accuracies: NDArray[np.float64]) -> float:
    """Return BitSwapDetection's score: the mean over k of the mean of the first k."""
    return float(100 * np.mean([np.mean(accuracies[:k]) for k in range(1, len(accuracies) + 1)]))


def named(found: Robustness) -> dict[str, ScoredRanking]:
    return {ranked.name: ranked for ranked in found.rankings}


def in_words(order: NDArray[np.intp]) -> list[str]:
    return [LAYERS[number] for number in order]


@pytest.mark.parametrize(
    ("where", "trials", "labelled"), [("neurons", 6, True), ("neurons", 2, False), ("weights", 40, True)]
)
def test_recomputed_by_hand(model: Path, tmp_path: Path, where: RankingSite, trials: int, labelled: bool) -> None:
    """Recompute every share from the drawn faults, and from the shares the scores, orders from data and residual risk."""
    if not labelled:
        np.savez(model.with_suffix(".npz"), x=np.load(model.with_suffix(".npz"))["x"])
    found = rank(model, tmp_path / "run", where=where, trials=trials)
    table = by_hand(model, where, 2 * trials)
    own, apart = table[:, :, :trials].mean(axis=(2, 3)), table[0, :, trials:].mean(axis=(1, 2))
    assert [layer.name for layer in found.layers] == LAYERS
    for name, shares in zip(("correct", "critical", "nonfinite"), own, strict=True):
        assert [getattr(layer, name) for layer in found.layers] == pytest.approx(shares), name
    assert own[1].max() > 0
    assert found.golden == pytest.approx(17 / 22 if labelled else 1)
    assert (found.inputs, found.trials, found.where) == (INPUTS, trials, where)
    orders = {name: ranked.order for name, ranked in named(found).items()}
    assert list(orders) == list(BUILTIN_RANKINGS)
    for name, accuracies in (("oracle", own[0]), ("sensitivity", apart)):
        assert orders[name].tolist() == np.argsort(accuracies.round(12), kind="stable").tolist()
    check_scores(found, own[0])
    check_risk(found, own[1], where)


def check_scores(found: Robustness, accuracies: NDArray[np.float64]) -> None:
    best, worst = (mean_of_curve(np.sort(accuracies)[::step]) for step in (1, -1))
    for name, ranked in named(found).items():
        expected = accuracies[ranked.order]
        assert ranked.score.score.value == pytest.approx(mean_of_curve(expected)), name
        assert ranked.curve == pytest.approx([100 * expected[: k + 1].mean() for k in range(len(expected))])
        extremes = ranked.score.in_sample
        assert (extremes.oracle, extremes.worst) == pytest.approx((best, worst))
        assert named(found)["oracle"].score.score.value <= ranked.score.score.value <= extremes.worst
        assert extremes.random == pytest.approx(100 * accuracies.mean())


def check_risk(found: Robustness, critical: NDArray[np.float64], where: RankingSite) -> None:
    """Check residual risk: a layer counts its critical share times its bits, as faults hit layers in proportion to bits."""
    kernels = {layer: TENSORS[f"{layer}.weight"].size for layer in LAYERS}
    bits = np.array([32 * (ELEMENTS if where == "neurons" else kernels)[layer] for layer in LAYERS])
    assert [layer.bits for layer in found.layers] == bits.tolist()
    macs = np.array([MACS[layer] for layer in LAYERS])
    for ranked in found.rankings:
        for k in range(len(LAYERS) + 1):
            watched, left = ranked.order[:k], np.delete(np.arange(len(LAYERS)), ranked.order[:k])
            risk = (critical * bits)[left].sum() / (critical * bits).sum()
            expected = risk, macs[watched].sum() / macs.sum(), bits[watched].sum() / bits.sum()
            assert (ranked.risk.unmonitored[k], ranked.risk.macs[k], ranked.risk.bits[k]) == pytest.approx(expected)


def test_builtin_orders(model: Path, tmp_path: Path) -> None:
    """The built-in rankings without faults, from numpy on stored tensors and plain ONNX Runtime on inputs."""
    builtin = [name for name in BUILTIN_RANKINGS if name not in ("sensitivity", "oracle")]
    found = rank(model, tmp_path / "run", builtin=builtin)
    kernels = {layer: TENSORS[f"{layer}.weight"].astype(np.float64) for layer in LAYERS}
    largest = {layer: float(np.abs(clean_value(model, VALUES[layer])).max()) for layer in LAYERS}
    parameters = {layer: sum(t.size for name, t in TENSORS.items() if name.split(".")[0] == layer) for layer in LAYERS}
    norms = {layer: float(np.sqrt((kernel**2).sum())) for layer, kernel in kernels.items()}
    exponents = {layer: float(np.floor(np.log2(np.abs(kernel))).mean()) for layer, kernel in kernels.items()}
    for number, layer in enumerate(found.layers):
        cost, name = layer.cost, layer.name
        assert (layer.number, cost.parameters, cost.macs) == (number, parameters[name], MACS[name])
        assert (cost.weight_norm, cost.weight_exponent) == pytest.approx((norms[name], exponents[name]))
        assert layer.largest == pytest.approx(largest[name], rel=1e-6)
    orders = {name: in_words(ranked.order) for name, ranked in named(found).items()}
    assert orders["index"] == LAYERS == orders["reverse"][::-1]
    assert sorted(orders["random"]) == sorted(LAYERS)
    tables: dict[str, Any] = {"parameters": parameters, "macs": MACS, "weight-norm": norms}
    tables |= {"weight-exponent": exponents, "activation-range": largest}
    for name, values in tables.items():  # the largest first, equal ones as the model has them
        assert orders[name] == sorted(LAYERS, key=lambda layer: (-values[layer], LAYERS.index(layer))), name
    assert len({tuple(order) for order in orders.values()}) > 4


def test_given_rankings(model: Path, tmp_path: Path) -> None:
    """An order, the same order as rank values and as names; a partial order is scored over its own layers."""
    mine = ["fc", "stem", "left", "right"]
    rankings: dict[str, Any] = {"order": tmp_path / "order.json", "values": tmp_path / "values.csv"}
    rankings["order"].write_text(json.dumps(mine))
    rankings["values"].write_text("layer,rank\nleft,3\nfc,1\nright,4\nstem,2\n")
    rankings |= {"names": mine, "part": ["right", "fc"]}
    found = rank(model, tmp_path / "run", rankings, trials=3)
    accuracies = np.array([layer.correct for layer in found.layers])
    ranked = named(found)
    assert list(ranked) == [*rankings, *BUILTIN_RANKINGS]
    for name in ("order", "values", "names"):
        assert in_words(ranked[name].order) == mine
        assert repr(ranked[name].score) == repr(ranked["order"].score)
        assert ranked[name].score.score.value == pytest.approx(mean_of_curve(accuracies[[3, 0, 1, 2]]))
    assert ((part := ranked["part"].score).layers, part.all_layers) == (2, 4)
    assert part.score.value == pytest.approx(mean_of_curve(accuracies[[2, 3]]))
    assert part.in_sample.oracle == pytest.approx(mean_of_curve(np.sort(accuracies[[2, 3]])))
    same = next(pair for pair in found.pairs if (pair.first, pair.second) == ("order", "values"))
    assert same.difference is not None
    assert (same.agreement.tau.value, same.difference.score.value, same.difference.verdict) == (1, 0, ALIKE)
    for form, content in (("order", [3, 0, 1, 2]), ("rank-values", [2, 3, 4, 1])):
        rankings["order"].write_text(json.dumps(content))
        again = rank(model, tmp_path / "run", {"order": rankings["order"]}, form=form, trials=3, resume=True)
        assert in_words(named(again)["order"].order) == mine


def test_rankings_of_a_layer_each(model: Path, tmp_path: Path) -> None:
    found = rank(model, tmp_path / "run", {"one": ["stem"], "other": ["left"]}, builtin=("index",))
    assert [ranked.score.layers for ranked in found.rankings] == [1, 1, 4]


@pytest.mark.parametrize(
    ("steps", "size", "chosen", "inputs"),
    [(2, 8, {}, 16), (3, 8, {}, INPUTS), (2, 4, {"first": 20}, 8), (1, 4, {"limit": 7}, 4)],
)
def test_evaluation_steps(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, size: int, chosen: Any, inputs: int
) -> None:
    """Batches of `batch_size` inputs: the first ones, or a random subset's."""
    settings = Settings(batch_size=size, seed=5, **chosen)

    def stop(setup: Setup, injections: list[Injection], options: RunOptions) -> None:
        assert len(setup.dataset) == inputs
        assert {len(injection.faults) for injection in injections} == {inputs}
        x: Array = np.load(model.with_suffix(".npz"))["x"]
        taken = [int(np.flatnonzero((x == row).all(axis=(1, 2, 3)))[0]) for row in setup.dataset.batch(0, inputs)]
        assert len(set(taken)) == inputs
        assert settings.limit or taken == list(range(inputs))
        raise BitswapError("seen")

    monkeypatch.setattr(rank_module, "run_campaign", stop)
    with pytest.raises(BitswapError, match="seen"):
        rank(model, tmp_path / "run", settings=settings, evaluation_steps=steps)


def test_choice_of_layers(model: Path, tmp_path: Path) -> None:
    """The chosen layers in the model's order; by default the layers with kernels."""
    cases: dict[tuple[str | None, str | None], list[str]] = {
        ("fc,stem", None): ["stem", "fc"],
        ("?e*t,right", None): ["left", "right"],
        (None, "Conv2d"): ["stem", "left", "right"],
        ("fc,left", "Dense,Conv"): ["left", "fc"],
    }
    for number, ((names, layer_type), layers) in enumerate(cases.items()):
        options: dict[str, Any] = {
            "layers": names,
            "layer_type": layer_type,
            "builtin": ("index",),
            "evaluation_steps": 1,
        }
        found = rank(model, tmp_path / str(number), **options)
        assert [layer.name for layer in found.layers] == layers


def test_wrong_rankings(model: Path, tmp_path: Path) -> None:
    """Wrong input that only the library can get; tests/cli tests the rest."""
    for given, message in (
        (["stem", "lft"], "ranking mine: unknown layer 'lft'; the nearest are left"),
        (["stem", "fc", "stem"], "ranking mine: expected each layer once, found stem, fc, stem"),
        ([], "ranking mine: expected each layer once, found none"),
    ):
        with pytest.raises(BitswapError, match="^" + re.escape(message)):
            rank(model, tmp_path / "run", {"mine": given})
        assert not (tmp_path / "run").exists()
