"""Groups that cut through strata: sizes from a design, hand calculations, simulations, unknown sizes."""

import csv
import math
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from bitswap_onnx.campaign.options import Audit, RunOptions
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.estimates.groups import faults_by_stratum
from bitswap_onnx.estimates.names import HARMFUL, SCOPES
from bitswap_onnx.estimates.question import Question
from bitswap_onnx.estimates.rates import Rates, estimate_rates
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.sampling.choices import SamplingScheme
from bitswap_onnx.sampling.design import read_design
from bitswap_onnx.sampling.generate import generate_faults
from bitswap_onnx.sampling.request import SamplingRequest
from bitswap_onnx.sampling.strata import StratumPart, parts_of
from bitswap_onnx.stats.stratified import Bounded, Strata, estimate_mean, frame_of, weigh
from bitswap_onnx.until.drawn_list import Until
from bitswap_onnx.until.goal import parse_goal
from bitswap_onnx.until.run import run_until
from tests.builders import cnn, normal, save

#: Weights of the model: conv 3 x 1 x 3 x 3 and fc 4 x 48.
WEIGHTS = {"conv": 27, "fc": 192}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = save(cnn(), tmp_path_factory.mktemp("groups") / "cnn.onnx")
    np.savez(path.with_suffix(".npz"), x=normal(20, 1, 6, 6, seed=3), y=np.arange(20) % 4)
    return path


def results(folder: Path, rows: list[tuple[str, int, int]]) -> Path:
    """Results of faults of a layer and a bit with so many critical inputs of ten."""
    lines = [f"{i},{layer},({i}),{bit},10,{10 - hits},0,{hits}" for i, (layer, bit, hits) in enumerate(rows)]
    header = "Injection,Layer,TensorIndex,Bit,n_injections,masked,non_critical,critical"
    (folder / "r.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder / "r.csv"


# --- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", get_args(SamplingScheme))
def test_what_strata_hold_adds_up(model: Path, tmp_path: Path, scheme: SamplingScheme) -> None:
    """To each stratum's population, to what each region has, and to the same sizes in every scheme."""
    number = 5 if scheme == "per-target" else None
    margin = 0.01 if scheme in ("per-target", "exhaustive") else 0.2
    request = SamplingRequest(scheme, margin=margin, number=number, parameters="weight,bias", bits="3,22-31")
    generate_faults(load_model(model), request, tmp_path / "f.csv")
    design = read_design(tmp_path / "f.design.json")
    parts = parts_of(design.sampled, request.pattern)
    assert parts is not None
    for scope in SCOPES:
        held = faults_by_stratum(parts, scope)
        strata: Counter[int] = Counter()
        for own in held.values():
            strata.update(own)
        assert [strata[i] for i in range(len(design.strata))] == [one.population for one in design.strata]
    layers: Counter[str] = Counter()
    for region in design.regions:
        layers[region.address[0]] += region.slots
    assert {name: sum(own.values()) for name, own in faults_by_stratum(parts, "layer").items()} == layers
    elements = sum(layers.values()) // 11
    assert {name: sum(own.values()) for name, own in faults_by_stratum(parts, "bit").items()} == {
        str(bit): elements for bit in (3, *range(22, 32))
    }
    classes = {name: sum(own.values()) for name, own in faults_by_stratum(parts, "bit-class").items()}
    assert classes == {"mantissa": 2 * elements, "exponent": 8 * elements, "sign": elements}


def test_kinds_count_and_several_faults_have_no_group(model: Path, tmp_path: Path) -> None:
    kinds = (Kind.STUCK_AT_0, Kind.STUCK_AT_1)
    for request, expected in (
        (SamplingRequest(kinds=kinds, bits="30", margin=0.2), {"conv": {0: 2 * 27}, "fc": {0: 2 * 192}}),
        (SamplingRequest(multiplicity=2, margin=0.2), None),
    ):
        design = generate_faults(load_model(model), request, tmp_path / "f.csv")
        parts = parts_of(design.sampled, request.pattern)
        assert (parts and faults_by_stratum(parts, "layer")) == expected


def test_a_design_that_contradicts_itself_is_damaged(model: Path, tmp_path: Path) -> None:
    generate_faults(load_model(model), SamplingRequest("layer", margin=0.2), tmp_path / "f.csv")
    path = tmp_path / "f.design.json"
    text = path.read_text()
    for old, new in (('"shape": [4, 48]', '"shape": [4, 47]'), ('"float32"', '"float31"'), ("30, 31]", "30, 32]")):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(BitswapError, match=r"f\.design\.json: damaged"):
            read_design(path)


# --- estimates ---------------------------------------------------------------------------------------------------------


def test_known_sizes_by_hand() -> None:
    """60 + 20 faults of the group: p = 3/4 x 1/2 + 1/4 x 1/4, and d_h of N_hg for the correction."""
    values = np.array([0, 1, 9, 9, 9, 0.5, 0, 0.5, 0, 9])
    frame = frame_of("", 10, Strata(("a", "b"), (5, 5), (100, 900)))
    weights = weigh(frame, np.array([0, 1, 5, 6, 7, 8]), np.array([60.0, 20.0]))
    assert weights.shares.tolist() == [0.75, 0.25]
    assert weights.unseen.tolist() == pytest.approx([1 - 2 / 60, 1 - 4 / 20])
    found = estimate_mean(frame, weights.member, Bounded(values), 0.95, np.array([60.0, 20.0]))
    assert found.mean == pytest.approx(0.75 / 2 + 0.25 / 4)
    first, second = 0.75**2 * (1 - 2 / 60) * 0.5 / 2, 0.25**2 * (1 - 4 / 20) * (0.25 / 3) / 4
    assert found.se == pytest.approx(math.sqrt(first + second))
    assert found.low < found.mean < found.high
    whole = estimate_mean(frame, weights.member, Bounded(values), 0.95, np.array([2.0, 4.0]))
    assert (whole.census, whole.se) == (True, 0)
    assert (whole.mean, whole.low, whole.high) == pytest.approx((2 / 6, 2 / 6, 2 / 6))
    drawn = weigh(frame._replace(inputs_drawn=True), weights.member, np.array([60.0, 20.0]))
    assert (drawn.shares.tolist(), drawn.unseen.tolist()) == ([0.75, 0.25], [1, 1])


def test_strata_that_the_list_has_none_of_are_not_known() -> None:
    """40 of the group's 100 faults are in a stratum of which none was drawn: anything from all low to all high."""
    frame = frame_of("", 60, Strata(("a", "b"), (30, 30), (1000, 1000)))
    values, member = np.zeros(60), np.arange(30)
    alone = estimate_mean(frame, member, Bounded(values), 0.95, np.array([60.0, 0.0]))
    found = estimate_mean(frame, member, Bounded(values), 0.95, np.array([60.0, 40.0]))
    assert (found.mean, found.se, found.low) == (0, 0, 0)
    assert found.high == pytest.approx(0.6 * alone.high + 0.4)
    either = estimate_mean(frame, member, Bounded(values, -0.3, 0.7), 0.95, np.array([60.0, 40.0]))
    assert either.low < -0.4 * 0.3
    assert 0.4 * 0.7 < either.high < 0.7
    for held, too_few in (([60.0, 0.0], False), ([60.0, 40.0], False), ([60.0, 59.0], True), ([40.0, 60.0], True)):
        assert weigh(frame, member, np.array(held)).too_few(0.95) is too_few
    assert not weigh(frame, member, np.array([30.0, 0.0])).too_few(0.999999999)
    assert weigh(frame, member, np.array([30.0, 31.0])).too_few(0.95)
    assert weigh(frame, np.array([0, *range(30, 60)]), np.array([90.0, 10.0])).too_few(0.95)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("populations", "n", "share", "harmful"),
    [
        ((1000, 1000), 100, 1 / 4, (1, 0)),
        ((100_000, 1000), 200, 1 / 8, (0, 1)),
        ((147_456, 36_864), 500, 1 / 32, (0.1, 0.9)),
    ],
)
def test_standard_errors_and_intervals_of_a_group_in_two_strata(
    populations: tuple[int, int], n: int, share: float, harmful: tuple[float, float], known: bool
) -> None:
    """400 lists of n faults of each stratum, a part of which are the group: of these, other shares are harmful in each."""
    rng, lists, level = np.random.default_rng(5), 400, 0.99
    frame = frame_of("", 2 * n, Strata(("a", "b"), (n, n), populations))
    held = np.array([round(size * share) for size in populations])
    hits = np.array([round(size * part) for size, part in zip(held, harmful, strict=True)])
    truth, found = hits.sum() / held.sum(), []
    for _ in range(lists):
        own = [rng.hypergeometric(size, all_ - size, n) for size, all_ in zip(held, populations, strict=True)]
        seen = [rng.hypergeometric(hit, size - hit, d) for hit, size, d in zip(hits, held, own, strict=True)]
        values = np.concatenate([np.arange(n) < hit for hit in seen]).astype(float)
        member = np.concatenate([np.arange(own[0]), n + np.arange(own[1])])
        found.append(estimate_mean(frame, member, Bounded(values), level, held.astype(float) if known else None))
    means, errors = (np.array([getattr(one, name) for one in found]) for name in ("mean", "se"))
    sd = means.std()
    if known and {0, 1}.issuperset(harmful):  # strata are alike within, and how many faults are in each is known
        assert (np.abs(means - truth) < 1e-12).all()
        assert not errors.any()
    else:
        assert math.sqrt((errors**2).mean()) == pytest.approx(sd, rel=0.1)
        assert abs(means.mean() - truth) < 4 * sd / math.sqrt(lists) + (0 if known else 0.02 * truth)
    covered = np.mean([one.low <= truth + 1e-12 and truth - 1e-12 <= one.high for one in found])
    assert covered >= (level - 3 * math.sqrt(level * (1 - level) / lists) if known else 0.95)


def test_estimated_sizes_by_hand() -> None:
    """N_h d_h / n_h = 40 and 225: z = y - p for the group and 0 for the others, in both strata."""
    values = np.array([0, 1, 7, 7, 7, 0.5, 7, 7, 7])
    frame = frame_of("", 9, Strata(("a", "b"), (5, 4), (100, 900)))
    found = estimate_mean(frame, np.array([0, 1, 5]), Bounded(values), 0.95)
    mean = (40 * 0.5 + 225 * 0.5) / 265
    z = [np.array([0, 1, mean, mean, mean]) - mean, np.array([0.5, mean, mean, mean]) - mean]
    parts = ((100, 5, z[0]), (900, 4, z[1]))
    variance = sum(size**2 * (1 - n / size) * np.var(own, ddof=1) / n for size, n, own in parts) / 265**2
    assert (found.mean, found.se) == pytest.approx((mean, math.sqrt(variance)))
    assert weigh(frame, np.array([0, 1, 5])).listed is not None
    assert weigh(frame, np.arange(9)).listed is None
    assert weigh(frame, np.array([0, 1])).listed is None


# --- files and runs ----------------------------------------------------------------------------------------------------


def weighted(
    rates: Rates, scope: str, group: str, sizes: dict[str, int], shares: dict[str, NDArray[np.float64]]
) -> None:
    """Hold that a row's mean and standard error are those of simple random samples of known sizes, joined."""
    row, whole = rates.find(scope, group, HARMFUL, 0.0), sum(sizes.values())
    mean = sum(size / whole * shares[name].mean() for name, size in sizes.items())
    parts = ((size / whole, 1 - len(shares[name]) / size, shares[name]) for name, size in sizes.items())
    variance = sum(weight**2 * unseen * np.var(own, ddof=1) / len(own) for weight, unseen, own in parts)
    assert (row.mean, row.se) == pytest.approx((mean, math.sqrt(variance)))


def test_a_list_by_layer_tells_of_bits(model: Path, tmp_path: Path) -> None:
    """The sizes are those of the design beside the file, not the numbers of each bit in the list."""
    request = SamplingRequest("layer", margin=0.1, bits="30,31")
    generate_faults(load_model(model), request, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        faults = [(row["Layer"], int(row["Bit"])) for row in csv.DictReader(file)]
    rows = (tmp_path / "r.csv").read_text().splitlines()
    hits = [5 if (layer, bit) == ("fc", 30) and i % 3 else 0 for i, (layer, bit) in enumerate(faults)]
    text = [f"{row},10,{10 - hit},0,{hit}" for row, hit in zip(rows[1:], hits, strict=True)]
    header = f"{rows[0]},n_injections,masked,non_critical,critical"
    (tmp_path / "r.csv").write_text("\n".join([header, *text]) + "\n")
    rates = estimate_rates(tmp_path / "r.csv", Question(by=("bit",)))
    shares = {
        name: np.array([hit > 0 for hit, fault in zip(hits, faults, strict=True) if fault == (name, 30)], float)
        for name in WEIGHTS
    }
    weighted(rates, "bit", "30", WEIGHTS, shares)
    assert not any("is not known (injections of several" in note for note in rates.notes)


def test_sizes_that_are_not_known_are_said_to_be(tmp_path: Path) -> None:
    """Without parts, with parts that lack a bit of the list, and with complete parts."""
    faults = [(layer, bit, 10 * (bit == 30 and i % 2)) for layer in ("a", "b") for bit in (30, 31) for i in range(20)]
    path = results(tmp_path, faults)
    part = StratumPart(0, "a", "float32", (30, 31), 300), StratumPart(1, "b", "float32", (30, 31), 900)
    for parts, approximate in ((None, True), ((part[0], part[1]._replace(bits=(30,))), True), (part, False)):
        strata = Strata(("a", "b"), (40, 40), (600, 1800), parts=parts)
        rates = estimate_rates(path, Question(by=("bit", "layer")), strata)
        assert any("some intervals are approximate" in note for note in rates.notes) is approximate
    plain = estimate_rates(path, Question(by=("layer",)), Strata(("a", "b"), (40, 40), (600, 1800)))
    assert not any("some intervals are approximate" in note for note in plain.notes)


def test_groups_of_which_too_little_was_drawn_have_no_estimate(tmp_path: Path) -> None:
    path = results(tmp_path, [("a", 30, 0)] * 40 + [("b", 31, 0)] * 40)
    parts = StratumPart(0, "a", "float32", (30, 31), 300), StratumPart(1, "b", "float32", (30, 31), 900)
    rates = estimate_rates(path, Question(by=("bit",)), Strata(("a", "b"), (40, 40), (600, 1800), parts=parts))
    few, enough = (rates.find("bit", bit, "critical") for bit in ("30", "31"))
    assert (few.mean, few.too_few, few.faults) == (None, True, 40)
    assert few.high > 0.75
    assert (enough.mean, enough.too_few) == (0, False)
    assert 0.25 < enough.high < 0.5
    assert any("from which the list drew no fault of the group" in note for note in rates.notes)


def test_runs_that_drew_their_faults_tell_of_bits(model: Path, tmp_path: Path) -> None:
    """Strata are the layers' classes of bits; bits 25 and 26 are one half each of two of them."""
    until = Until(goal=parse_goal("critical±9%@90%"), bits="25,26,30")
    settings = Settings(first=4, batch_size=4)
    run_until(model, until, settings=settings, options=RunOptions(run=tmp_path / "run", workers=1, audit=Audit(0)))
    rates = estimate_rates(tmp_path / "run", Question(by=("bit", "layer")))
    with (tmp_path / "run/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for bit in ("25", "30"):
        shares = {
            name: np.array([int(r["critical"]) > 0 for r in rows if (r["Layer"], r["Bit"]) == (name, bit)], float)
            for name in WEIGHTS
        }
        weighted(rates, "bit", bit, WEIGHTS, shares)
    assert not any("some intervals are approximate" in note for note in rates.notes)
