"""One network: build it, run its faults with the engines and the oracle, and say where their scores differ."""

import json
import re
import shutil
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from bitswap_onnx.audit import Audit
from bitswap_onnx.campaign import run_campaign
from bitswap_onnx.errors import BitswapError, ControlFailedError
from bitswap_onnx.prepare import Settings
from bitswap_onnx.preprocessing import Preprocessing
from tests.benchmarks.fuzz.builder import Array
from tests.benchmarks.fuzz.faults import Injection, draw_faults, write_faults
from tests.benchmarks.fuzz.networks import Network, make_network
from tests.benchmarks.fuzz.oracle import PLAIN, Oracle, disabled_optimizers, open_session
from tests.benchmarks.fuzz.specification import agrees, specified_scores

Engine = Literal["incremental", "reference"]

#: Injections of a network that are held against the specification, besides its clean scores.
_SPECIFIED = 2


@dataclass(frozen=True)
class Finding:
    """Something that should not be: what, in which injection, on which lane."""

    seed: int
    number: int
    kind: str
    injection: str
    lane: str
    detail: str

    def __str__(self) -> str:
        where = f" injection {self.injection}" if self.injection else ""
        lane = f" ({self.lane})" if self.lane else ""
        return f"seed {self.seed} network {self.number}{where}{lane}: {self.kind}: {self.detail}"


@dataclass(eq=False)
class Outcome:
    """What became of some networks: ``findings``, and how often what was met, as (topic, name)."""

    findings: list[Finding] = field(default_factory=list)
    met: Counter[tuple[str, str]] = field(default_factory=Counter)

    def count(self, topic: str, name: object, times: int = 1) -> None:
        self.met[topic, str(name)] += times

    def total(self, topic: str) -> int:
        return sum(times for (kind, _), times in self.met.items() if kind == topic)

    def add(self, other: "Outcome") -> None:
        self.findings += other.findings
        self.met += other.met


def same_bits(one: Array, other: Array) -> bool:
    """Whether scores are equal bit by bit, a NaN to every other."""
    return bool(unequal(one, other).sum() == 0) if one.shape == other.shape else False


def unequal(one: Array, other: Array) -> Array:
    """Return which inputs (n,) have other bits."""
    differs = one.view(np.uint32) != other.view(np.uint32)
    return np.asarray((differs & ~(np.isnan(one) & np.isnan(other))).any(axis=1))


def usable(network: Network) -> bool:
    """Whether the runtime takes a network, and its clean scores are finite; raises what the checker says."""
    onnx.checker.check_model(network.model, full_check=True)
    try:
        session = open_session(network.model, PLAIN)
        scores = [session.run(None, {"x": rows})[0] for rows in _batches(network)]
    except Exception:  # the runtime lacks kernels for some types
        return False
    return bool(np.isfinite(np.concatenate(scores)).all())


def _batches(network: Network) -> list[Array]:
    size = network.batch_size
    count = max(len(network.inputs) // size, 1)
    return [np.resize(network.inputs[i * size :], (size, *network.inputs.shape[1:])) for i in range(count)]


@dataclass(eq=False)
class Check:
    """The check of one network in ``folder``, which is its own."""

    seed: int
    network: Network
    folder: Path
    injections: list[Injection]
    reference: bool
    outcome: Outcome = field(default_factory=Outcome)
    lanes: dict[str, str] = field(default_factory=dict)
    refusal: str = ""

    def find(self, kind: str, detail: str, injection: Injection | None = None) -> None:
        lane = self.lane(injection) if injection else ""
        identifier = injection.id if injection else ""
        self.outcome.findings.append(Finding(self.seed, self.network.number, kind, identifier, lane, detail))

    def lane(self, injection: Injection) -> str:
        """Return the lane that an injection took; many paths of several tensors run as one."""
        keys = {row.tensor.tensor for row in injection.stored if row.tensor}
        keys |= {row.place.key for row in injection.neurons if row.place}
        paths = [(names, lane) for names, lane in self._paths if all(any(n.endswith(k) for n in names) for k in keys)]
        return min(paths, key=lambda path: len(path[0]), default=((), "unknown"))[1]

    @property
    def _paths(self) -> list[tuple[list[str], str]]:
        return [(name.split(", "), lane) for name, lane in self.lanes.items()]

    def run(self) -> None:
        """Run all engines and compare."""
        golden = self.first_campaign()
        if golden is None:
            return
        self.lanes = golden["lanes"]
        self.count(golden)
        size = 1 if self.network.mixing else self.network.batch_size
        disabled = disabled_optimizers(golden)
        oracle = Oracle(self.network.model, self.network.inputs, size, disabled, self.seed)
        engines: list[Engine] = ["incremental"]
        if self.reference and self.campaign("reference") is not None:
            engines.append("reference")
        clean = oracle.clean()
        for engine in engines:
            self.compare(engine, clean, "clean", None)
        for injection in self.injections:
            if injection.neurons:
                self.check_neurons(oracle, injection, clean, engines)
            else:
                self.check_stored(oracle, injection, engines)
        self.check_specification(oracle, clean)

    def first_campaign(self) -> dict[str, Any] | None:
        """Run the incremental engine; injections that the library refuses or fails at are left out, and it runs again."""
        while True:
            self.write()
            golden = self.campaign("incremental")
            hit = [] if golden is not None else [i for i in self.injections if is_blamed(i, self.refusal)]
            if not hit or len(hit) == len(self.injections):
                return golden
            self.injections = [injection for injection in self.injections if injection not in hit]

    def write(self) -> None:
        """Write model, inputs and list."""
        self.folder.mkdir(parents=True, exist_ok=True)
        onnx.save(self.network.model, self.folder / "net.onnx")
        np.savez(self.folder / "net.npz", x=self.network.inputs)
        write_faults(self.folder / "net.csv", self.injections)

    def campaign(self, engine: Engine) -> dict[str, Any] | None:
        """Run an engine; return golden.json, or None where there is none to compare with."""
        network = self.network
        pixels = Preprocessing(data_layout="nchw" if network.inputs.ndim == 4 else None)
        settings = Settings(
            preprocessing=pixels, batch_size=network.batch_size, layout=network.layout, fusion=network.fusion
        )
        run, self.refusal = self.folder / engine, ""
        shutil.rmtree(run, ignore_errors=True)
        try:
            run_campaign(
                self.folder / "net.onnx",
                self.folder / "net.csv",
                settings=settings,
                run=run,
                workers=0,
                engine=engine,
                memory=network.memory,
                save_outputs=True,
                audit=Audit(0),
            )
        except ControlFailedError as error:
            self.refusal = str(error)
            self.find("control", f"{engine}: {error}")
            return None
        except BitswapError as error:
            self.refusal = str(error)
            self.outcome.count("refused", re.sub(r"\d+|'[^']*'", "#", str(error)).replace(str(self.folder), ""))
            return None
        except Exception:  # whatever it is, it is a finding
            self.find("exception", f"{engine}: {traceback.format_exc(limit=-4)}")
            return None
        golden: dict[str, Any] = json.loads((run / "golden.json").read_text())
        return golden

    def compare(self, engine: Engine, expected: Array, name: str, injection: Injection | None) -> bool:
        """Hold an engine's scores against what is expected; return whether they are the same."""
        found = np.load(self.folder / engine / "outputs" / f"{name}.npy")
        if found.shape != expected.shape:
            self.find(engine, f"{len(found)} rows of scores, expected {len(expected)}", injection)
            return False
        differs = np.flatnonzero(unequal(found, expected))
        if not len(differs):
            return True
        row = int(differs[0])
        detail = f"{len(differs)} of {len(found)} inputs differ, input {row}: {found[row]} and not {expected[row]}"
        self.find(f"{engine} {'clean' if injection is None else injection.site}", detail, injection)
        return False

    def check_stored(self, oracle: Oracle, injection: Injection, engines: list[Engine]) -> None:
        expected, mixed = oracle.stored(injection)
        for engine in engines:
            self.compare(engine, expected, f"inj_{injection.id}", injection)
        self.outcome.count("compared", "inferences", len(expected))
        if not same_bits(expected, mixed):
            self.outcome.count(
                "place", ", ".join(sorted(operators(self.network.model) & PLACED)) or "no known operator"
            )

    def check_neurons(self, oracle: Oracle, injection: Injection, clean: Array, engines: list[Engine]) -> None:
        cut = oracle.neurons(injection, faulty=False)
        chosen = slice(None) if injection.inputs is None else injection.inputs
        expected = oracle.neurons(injection)[chosen]
        self.outcome.count("compared", "inferences", len(expected))
        if same_bits(cut, clean):
            for engine in engines:
                self.compare(engine, expected, f"inj_{injection.id}", injection)
            return
        self.outcome.count("uncut", injection.site)
        for engine in engines:
            found = np.load(self.folder / engine / "outputs" / f"inj_{injection.id}.npy")
            if found.shape != expected.shape:
                self.find(engine, f"{len(found)} rows of scores, expected {len(expected)}", injection)
            elif not all(agrees(f, e.astype(np.float64), True) for f, e in zip(found, expected, strict=True)):
                self.find(f"{engine} uncut neurons", f"{found[0]} and not about {expected[0]}", injection)

    def check_specification(self, oracle: Oracle, clean: Array) -> None:
        """Hold the oracle itself against the specification: clean, and under some small faults."""
        size, half = oracle.batch_size, self.network.dtype == "float16"
        specified = specified_scores(self.network.model, self.network.inputs, size)
        if specified is None:
            self.outcome.count("specification", "has no answer")
            return
        self.outcome.count("specification", "compared")
        if not agrees(clean[:size], specified[: len(clean)], half):
            self.find("specification", f"{clean[0]} and not about {specified[0]}")

    def count(self, golden: dict[str, Any]) -> None:
        """Count what a network is made of and how its faults ran."""
        network, count = self.network, self.outcome.count
        for operator in operators(network.model):
            count("operator", operator)
        numerics = golden["identity"]["numerics"]
        described = {"layout": numerics["layout"], "fusion": network.fusion, "batch size": network.batch_size}
        described |= {"dtype": network.dtype, "opset": network.model.opset_import[0].version, "mixing": network.mixing}
        for topic, name in described.items():
            count(topic, name)
        for injection in self.injections:
            count("injection", injection.site)
            count("lane", f"{injection.site}: {self.lane(injection)}")
            for row in injection.rows:
                count("fault", row.kind if row.tensor else f"neuron {row.kind}")


def is_blamed(injection: Injection, refusal: str) -> bool:
    """Whether an error names the neurons of an injection: ``the output of NAME``, or the key of a faulty path."""
    named = re.search(r"the (output|input) of (\w+) lies within", refusal)
    places = [row.place for row in injection.rows if row.place]
    return any((named and named.groups() == (p.site, p.layer)) or f'"{p.key}"' in refusal for p in places)


#: Operators whose kernels may round otherwise in the last few elements of an array.
PLACED = frozenset(
    ("Elu", "Selu", "Celu", "Softplus", "Mish", "Log", "Sin", "Cos", "Exp", "Erf", "Gelu", "Tanh", "Sigmoid", "Softmax")
)


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@dataclass(frozen=True)
class Options:
    """What is run: ``count`` injections per network; every ``reference_every``-th one on the reference engine too."""

    seed: int
    count: int = 50
    mixing: bool = False
    reference_every: int = 4
    keep: Path | None = None


def check_network(number: int, options: Options, folder: Path) -> Outcome:
    """Check one network; what differs is kept where the options say."""
    network = make_network(options.seed, number, options.mixing)
    outcome = Outcome()
    outcome.count("network", "drawn")
    if not usable(network):
        outcome.count("network", "not usable")
        return outcome
    injections = draw_faults(network, options.seed, options.count)
    reference = number % options.reference_every == 0
    check = Check(options.seed, network, folder, injections, reference, outcome)
    outcome.count("network", "run")
    check.run()
    if outcome.findings and options.keep:
        kept = options.keep / f"seed{options.seed}_network{number}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept)
        (kept / "findings.txt").write_text("\n".join(map(str, outcome.findings)) + "\n")
        (kept / "settings.json").write_text(json.dumps(_settings(network)) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _settings(network: Network) -> dict[str, Any]:
    names = ("batch_size", "layout", "fusion", "memory", "mixing")
    return {name: getattr(network, name) for name in names}
