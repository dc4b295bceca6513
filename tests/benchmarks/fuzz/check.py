"""One network: build it, run its faults with the engines and the oracle, and say where their scores differ."""

import csv
import json
import re
import shutil
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import onnx

from bitswap_onnx.campaign.options import Audit, RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.data import chunks
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.errors import BitswapError, ControlFailedError, RunError
from bitswap_onnx.graph import stages
from tests.benchmarks.fuzz.builder import Array
from tests.benchmarks.fuzz.faults import Injection, write_faults
from tests.benchmarks.fuzz.networks import Network
from tests.benchmarks.fuzz.oracle import Oracle, at_flip_opset, disabled_optimizers, edited_model
from tests.benchmarks.fuzz.outcome import Finding, Outcome, same_bits, unequal
from tests.benchmarks.fuzz.specification import agrees, specified_scores

Engine = Literal["incremental", "reference"]

#: Injections of a network that are held against the specification, besides its clean scores.
_SPECIFIED = 2

#: Bits whose flips change a parameter little, so that rounding stays what it is: the lower half of the mantissa.
_LOW_BITS = {"float32": range(12), "float16": range(5)}


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
        drawn = self.network.model
        model = at_flip_opset(drawn) if any(injection.neurons for injection in self.injections) else drawn
        oracle = Oracle(model, drawn, self.network.inputs, size, disabled, self.seed)
        engines: list[Engine] = ["incremental"]
        if self.reference and self.campaign("reference") is not None:
            engines.append("reference")
        clean = oracle.clean()
        for engine in engines:
            self.compare(engine, clean, "clean", None)
            self.compare_counts(engine)
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
        options = RunOptions(
            run=run, workers=0, engine=engine, memory=network.memory, save_outputs=True, audit=Audit(0)
        )
        try:
            with _divided(network.number):
                run_campaign(prepare(self.folder / "net.onnx", settings), self.folder / "net.csv", options=options)
        except (ControlFailedError, RunError) as error:
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

    def compare(self, engine: Engine, expected: Array, name: str, injection: Injection | None, hint: str = "") -> bool:
        """Hold an engine's scores against what is expected; return whether they are the same."""
        found = np.load(self.folder / engine / "outputs" / f"{name}.npy")
        if found.shape != expected.shape:
            self.find(engine, f"{len(found)} rows of scores, expected {len(expected)}", injection)
            return False
        differs = np.flatnonzero(unequal(found, expected))
        if not len(differs):
            return True
        row = int(differs[0])
        detail = (
            f"{len(differs)} of {len(found)} inputs differ, input {row}: {found[row]} and not {expected[row]}{hint}"
        )
        self.find(f"{engine} {'clean' if injection is None else injection.site}", detail, injection)
        return False

    def compare_counts(self, engine: Engine) -> None:
        """Hold the counts of results.csv against the scores that the same run saved."""
        outputs = self.folder / engine / "outputs"
        golden = np.load(outputs / "clean.npy")
        inputs = {injection.id: injection.inputs for injection in self.injections}
        with (self.folder / engine / "results.csv").open(newline="") as file:
            counted = {row["Injection"]: row for row in csv.DictReader(file) if row["n_injections"]}
        for identifier, row in counted.items():
            faulty, chosen = np.load(outputs / f"inj_{identifier}.npy"), inputs[identifier]
            clean = golden if chosen is None else golden[chosen]
            masked = (faulty == clean).all(axis=1)
            critical = faulty.argmax(axis=1) != clean.argmax(axis=1)
            nonfinite = ~np.isfinite(faulty).all(axis=1)
            expected = [len(faulty), masked.sum(), (critical & ~masked).sum(), nonfinite.sum()]
            names = ("n_injections", "masked", "critical", "nonfinite")
            if [int(row[name]) for name in names] != expected:
                self.find(f"{engine} counts", f"{identifier}: {[row[name] for name in names]} and not {expected}")

    def check_stored(self, oracle: Oracle, injection: Injection, engines: list[Engine]) -> None:
        expected, mixed = oracle.stored(injection)
        hint = ""
        if not same_bits(expected, mixed):
            placed = ", ".join(sorted(operators(self.network.model) & PLACED)) or "no known operator"
            self.outcome.count("place", placed)
            hint = f"; so do plain batches in another order ({placed})"
        for engine in engines:
            self.compare(engine, expected, f"inj_{injection.id}", injection, hint)
        self.outcome.count("compared", "inferences", len(expected))

    def check_neurons(self, oracle: Oracle, injection: Injection, clean: Array, engines: list[Engine]) -> None:
        if injection.stored and self.network.dtype == "float16":  # which halves are rounded depends on the whole graph
            self.outcome.count("uncut", "mixed, half precision")
            return
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
        low = _LOW_BITS[self.network.dtype]
        small = [i for i in self.injections if not i.neurons and all(row.bit in low for row in i.rows)][:_SPECIFIED]
        cases: list[tuple[Injection | None, Array]] = [(None, clean), *((i, oracle.stored(i)[0]) for i in small)]
        for injection, scores in cases:
            model = edited_model(self.network.model, injection.stored) if injection else self.network.model
            specified = specified_scores(model, self.network.inputs, oracle.batch_size)
            self.outcome.count("specification", "has no answer" if specified is None else "compared")
            if specified is None:
                return
            if not agrees(scores[: len(specified)], specified, self.network.dtype == "float16"):
                self.find("specification", f"{scores[0]} and not about {specified[0]}", injection)

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
    """Whether an error names the neurons of an injection: ``the output of NAME``."""
    named = re.findall(r"the (output|input) of (\w+)", refusal)
    return any((p.site, p.layer) in named for p in (row.place for row in injection.rows) if p)


#: Operators whose kernels may round otherwise in the last few elements of an array, or by where rows lie in memory.
PLACED = frozenset(
    (
        *("Elu", "Selu", "Celu", "Softplus", "Mish", "Log", "Sin", "Cos", "Exp", "Erf", "Gelu", "Tanh", "Sigmoid"),
        *("Softmax", "InstanceNormalization", "ReduceMean", "ReduceSum"),
    )
)


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@contextmanager
def _divided(number: int) -> Iterator[None]:
    """Divide networks, and their inputs, which are too few to be divided for speed.

    Two of three networks have as many stages as there are, one of two has chunks of at most two batches.
    """
    with ExitStack() as stack:
        for name in ("_PER_RUN", "_PER_BYTE") if number % 3 else ():
            stack.enter_context(mock.patch.object(stages, name, 0))
        if number % 2 == 0:
            stack.enter_context(mock.patch.object(chunks, "BATCHES_PER_CHUNK", 2))
        yield
