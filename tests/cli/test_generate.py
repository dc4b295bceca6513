"""``faults generate``: lists that can be read and resolved, their designs, and one line on stderr for wrong input."""

import json
from collections import Counter
from pathlib import Path

import pytest

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.fault import Injection, Kind
from bitswap_onnx.faults.fault_list import list_fingerprint, read_fault_list
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.sampling.design import ListDesign, design_path, read_design
from bitswap_onnx.sampling.generate import generate_faults
from bitswap_onnx.sampling.population import bit_distances, find_population
from bitswap_onnx.sampling.request import SamplingRequest
from bitswap_onnx.sampling.sizes import proportions_of, sample_size
from tests.builders import build, cnn, normal, save
from tests.command_line import Run, runner

#: Weights of the model: conv 3 x 1 x 3 x 3 and fc 4 x 48.
SIZES = {"conv": 27, "fc": 192}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``faults ...`` in a folder with cnn.onnx; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    save(cnn(), tmp_path / "cnn.onnx")

    return runner(monkeypatch, capsys, "faults")


def generate(run: Run, *options: object) -> tuple[list[Injection], ListDesign, str]:
    code, out, err = run("generate", "cnn.onnx", "-o", "f.csv", *options)
    assert (code, err) == (0, "")
    injections, design = list(read_fault_list("f.csv")), read_design("f.design.json")
    assert run("validate", "f.csv", "--model", "cnn.onnx")[0] == 0
    *_, (_, digest) = list_fingerprint(injections)
    assert (design.list_sha256, design.size) == (digest, len(injections))
    assert [injection.id for injection in injections] == [str(number) for number in range(design.size)]
    for stratum in design.strata:
        own = injections[stratum.first : stratum.first + stratum.size]
        assert len({injection.faults for injection in own}) == stratum.size
        assert {injection.faults[0].bit for injection in own} <= set(stratum.bits)
        assert stratum.layer is None or {fault.layer for i in own for fault in i.faults} == {stratum.layer}
    return injections, design, out


@pytest.mark.parametrize(
    ("scheme", "populations"),
    [
        ("network", {"network": 219 * 32}),
        ("layer", {name: size * 32 for name, size in SIZES.items()}),
        ("bit-layer", {f"{name} bit {bit}": size for name, size in SIZES.items() for bit in range(32)}),
        ("data-aware", {f"{name} bit {bit}": size for name, size in SIZES.items() for bit in range(32)}),
        ("exhaustive", {name: size * 32 for name, size in SIZES.items()}),
    ],
)
def test_schemes(run: Run, scheme: str, populations: dict[str, int]) -> None:
    margin = () if scheme == "exhaustive" else ("--margin", 0.1)
    injections, design, out = generate(run, "--scheme", scheme, *margin, "--seed", 7)
    assert {entry.name: entry.population for entry in design.strata} == populations
    assert design.population == sum(populations.values())
    assert f"scheme {scheme}, seed 7: {len(injections):,} of {design.population:,} in cnn" in out
    assert "written: f.csv, f.design.json" in out
    assert ("64 strata, from" in out) == (len(populations) == 64)
    model = load_model("cnn.onnx")
    assert (design.model, design.model_sha256, design.request.seed) == ("cnn", model.sha256, 7)
    if scheme == "exhaustive":
        assert design.size == design.population
    elif scheme == "data-aware":
        weights = find_population(model)
        p = proportions_of(bit_distances(model, weights)["float32"].tolist())
        assert [entry.p for entry in design.strata] == [*p, *p]
        assert p[30] == 0.5
        assert p[0] < 1e-3
        expected = [sample_size(entry.population, 0.1, design.t, p[entry.bits[0]]) for entry in design.strata]
        assert [entry.size for entry in design.strata] == expected
    else:
        assert all(e.size == sample_size(e.population, 0.1, 2.5758293035489, 0.5) for e in design.strata)


def test_per_target(run: Run) -> None:
    """A target with fewer faults than wanted is taken completely, and the table shows it."""
    options = ("--scheme", "per-target", "--number", 100, "--parameters", "weight,bias")
    injections, design, out = generate(run, *options)
    sizes = {"conv.weight": 100, "conv.bias": 96, "fc.weight": 100, "fc.bias": 100}
    assert {entry.name: entry.size for entry in design.strata} == sizes
    assert Counter((i.faults[0].layer, i.faults[0].parameter or "weight") for i in injections) == {
        tuple(name.split(".")): size for name, size in sizes.items()
    }
    assert "100.00 %" in out


@pytest.mark.parametrize(
    ("scheme", "sizes"), [("network", [150]), ("layer", [54, 150]), ("bit-layer", [27, 27, 150, 150])]
)
def test_a_number_in_place_of_a_margin(run: Run, scheme: str, sizes: list[int]) -> None:
    """In all, of each layer, or of each bit of a layer, as far as it has so many."""
    injections, design, _ = generate(run, "--scheme", scheme, "--number", 150, "--bits", "29,30")
    assert sorted(entry.size for entry in design.strata) == sizes
    assert len({(i.faults[0].layer, i.faults[0].index, i.faults[0].bit) for i in injections}) == design.size


def test_a_list_says_what_it_tells(run: Run) -> None:
    _, _, out = generate(run, "--scheme", "layer", "--margin", 0.05, "--confidence", 0.95)
    assert "; enough to know any share of each layer within 5 points at 95 % confidence\n" in out
    _, _, out = generate(run, "--margin", 0.1, "--t", 2.58)
    assert "; enough to know any share of the network within 10 points at t = 2.58\n" in out
    for options in (
        ("--number", 9),
        ("--proportion", 0.1),
        ("--scheme", "exhaustive", "--layers", "conv", "--bits", 30),
    ):
        assert "enough to know" not in generate(run, *options)[2]


def test_every_scheme_says_how_long_a_campaign_takes(run: Run) -> None:
    for scheme in ("network", "layer", "bit-layer", "data-aware", "exhaustive"):
        assert "\ntime: about " in generate(run, "--scheme", scheme)[2]


def test_a_model_that_needs_options_gets_its_list_without_a_time(run: Run, tmp_path: Path) -> None:
    proto = build("net (float[N, K] x) => (float[N, 2] y) { y = MatMul (x, w) }", w=normal(2, 2))
    save(proto, tmp_path / "open.onnx")
    code, out, err = run("generate", "open.onnx", "-o", "o.csv", "--number", 3)
    assert (code, err) == (0, "")
    assert "\ntime: not known; open: " in out
    assert len(list(read_fault_list("o.csv"))) == 3


def test_the_bits_that_bursts_can_hit_are_covered(run: Run) -> None:
    """Each burst is drawn by its lowest bit; the bits above it are hit too."""
    _, _, alone = generate(run, "--number", 5)
    _, _, bursts = generate(run, "--number", 5, "--multiplicity", 4, "--burst")
    lines = [next(line for line in out.splitlines() if line.startswith("population: ")) for out in (alone, bursts)]
    assert lines[0] == lines[1]


def test_stuck_at_follows_kinds(run: Run) -> None:
    injections, design, _ = generate(run, "--kinds", "stuck_at", "--scheme", "layer", "--t", 2.58)
    assert [entry.population for entry in design.strata] == [size * 64 for size in SIZES.values()]
    assert {i.faults[0].kind for i in injections} == {Kind.STUCK_AT_0, Kind.STUCK_AT_1}
    assert [entry.size for entry in design.strata] == [
        round(N / (1 + 1e-4 * (N - 1) / (2.58**2 * 0.25))) for N in (27 * 64, 192 * 64)
    ]


def test_population_counts_twice_but_draws_once(run: Run) -> None:
    """Published sizes count two faults per bit, also for flips, of which there is one per bit."""
    _, design, _ = generate(run, "--population", "stuck_at", "--scheme", "bit-layer", "--bits", "30")
    conv, fc = design.strata
    assert (conv.population, conv.counted, conv.size) == (27, 54, 27)
    assert (fc.population, fc.counted, fc.size) == (192, 384, 192)


@pytest.mark.parametrize("burst", [True, False])
def test_multiplicity(run: Run, burst: bool) -> None:
    options = ("--scheme", "layer", "--multiplicity", 3, "--margin", 0.2, *(["--burst"] if burst else []))
    injections, design, _ = generate(run, *options)
    assert {len(injection.faults) for injection in injections} == {3}
    for injection in injections:
        bits = [fault.bit or 0 for fault in injection.faults]
        together = len({fault.index for fault in injection.faults}) == 1 and bits == list(range(bits[0], bits[0] + 3))
        assert together or not burst
    slots = 27 * 32
    assert design.strata[0].population == (27 * 30 if burst else slots * (slots - 1) * (slots - 2) // 6)


def test_same_seed_same_file(run: Run) -> None:
    def files(*options: object) -> tuple[bytes, bytes]:
        generate(run, "--margin", 0.05, *options)
        return Path("f.csv").read_bytes(), Path("f.design.json").read_bytes()

    first = files()
    assert files() == first
    assert files("--seed", 1)[0] != first[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--margin", 0), "--margin: expected a number between 0 and 1, both excluded, found 0"),
        (("--confidence", 99), "--confidence: expected a number between 0 and 1, both excluded, found 99"),
        (("-p", "nan"), "--proportion: expected a number between 0 and 1, both excluded, found nan"),
        (("--t", -1), "--t: expected a positive number, found -1"),
        (("--number", 5, "--scheme", "data-aware"), "--number: --scheme data-aware has its own sizes; leave it out"),
        (("--number", 5, "--margin", 0.02), "--margin: with --number nothing depends on it; leave it out"),
        (("--scheme", "per-target"), "--number: expected with --scheme per-target"),
        (("--kinds", "flip,mask"), "--kinds: expected some of stuck_at, flip, stuck_at_0, stuck_at_1"),
        (
            ("--kinds", "flip,flip"),
            "--kinds: expected some of flip, stuck_at_0, stuck_at_1, each once, found flip,flip",
        ),
        (("--multiplicity", 0), "--multiplicity: expected a positive number, found 0"),
        (
            ("--multiplicity", 2, "--scheme", "data-aware"),
            "--multiplicity: expected 1 with --scheme data-aware, found 2",
        ),
        (
            ("--multiplicity", 2, "--scheme", "exhaustive"),
            "--multiplicity: expected 1 with --scheme exhaustive, found 2",
        ),
        (("--scheme", "exhaustive", "--t", 2.58), "--t: with --scheme exhaustive nothing depends on it; leave it out"),
        (("--scheme", "data-aware", "-p", 0.1), "--proportion: with --scheme data-aware nothing depends on it"),
        (("--t", 2.58, "--confidence", 0.9), "--confidence: with --t nothing depends on it; leave it out"),
        (("--burst",), "--burst: expected with --multiplicity, the number of neighbouring bits, 2 or more; found 1"),
        (
            ("--multiplicity", 40, "--burst"),
            "--multiplicity: expected at most 32 bits of one element for a burst, found 40",
        ),
        (
            ("--multiplicity", 28, "--scheme", "bit-layer"),
            "--multiplicity: expected at most 27, the bits of conv bit 0, found 28",
        ),
        (("--bits", "32"), "--bits: expected bits that the parameters have (0-31 of float32), found '32'"),
        (("-o", "cnn.onnx"), "cnn.onnx: would overwrite what it is made from"),
        (("-o", "."), "expected the name of a file to write, found a folder"),
        (("-o", "f.design.json"), "f.design.json: expected a name that is not .json"),
        (("-o", "missing/f.csv"), "cannot write"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_written(run: Run, options: tuple[object, ...], message: str) -> None:
    before = sorted(Path().rglob("*"))
    code, out, err = run("generate", "cnn.onnx", "-o", "f.csv", *options)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": 1', '"version": 2', "expected a design of version 1, found 2; generate the list again"),
        ("bitswap-onnx fault list design", "other", "not the design of a fault list"),
        ("{", "", "not the design of a fault list"),
        ('"size": 41', '"size": 40', "damaged: its strata do not add up to the list"),
        ('"first": 0', '"first": "0"', "damaged"),
        ('"kinds": ["flip"]', '"kinds": ["flap"]', "damaged"),
        ('"seed": 0', '"sead": 0', "damaged"),
        ('"regions"', '"religions"', "damaged"),
    ],
)
def test_damaged_designs(run: Run, old: str, new: str, message: str) -> None:
    generate(run, "--margin", 0.2)
    path = Path("f.design.json")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BitswapError, match=message) as raised:
        read_design(path)
    assert str(raised.value).startswith("f.design.json: ")
    assert "\n" not in str(raised.value)


def test_missing_design(tmp_path: Path) -> None:
    with pytest.raises(BitswapError, match="cannot read the design of the fault list: No such file"):
        read_design(tmp_path / "none.design.json")


def test_designs_read_back(tmp_path: Path) -> None:
    """The written design equals the returned one; the file is JSON with a line per stratum and region."""
    model = load_model(save(cnn(), tmp_path / "cnn.onnx"))
    request = SamplingRequest(
        "layer", kinds=(Kind.FLIP, Kind.STUCK_AT_1), parameters="weight,bias", bits="exponent", margin=0.1
    )
    design = generate_faults(model, request, tmp_path / "a.b.csv")
    path = tmp_path / "a.b.design.json"
    assert path == design_path(tmp_path / "a.b.csv")
    assert read_design(path) == design
    lines = path.read_text().splitlines()
    assert sum('"first":' in line for line in lines) == len(json.loads("\n".join(lines))["strata"]) == 2
