"""The default campaign against two plain loops, in one run: how many times faster is an inference, and how fast could it be?

``python -m tests.benchmarks.engine_speed [--reference FOLDER] [--only ResNet20] [--long]`` prints one row per case: of the
shipped digits model our time alone, then those of `CASES`, and a classifier as a package ships it, which has no PyTorch
network (`tests.benchmarks.real_models`). ResNet20 has its trained weights, the others random ones; faults
are drawn from the published lists, images are CIFAR-10's.

Ours is ``bitswap-onnx inject`` with default options as a process of its own, imports and all files included. The eager loop
flips the bit in the parameter of the PyTorch network, runs all images (2 threads, batch 256, no gradients) and flips the
bit back. The ORT loop (`tests.benchmarks.plain_loop`) is a process that, with numpy and ONNX Runtime alone, loads the faulty
model and runs all images (2 threads, batch 32, batch-norm apart, blocked layout, whatever layout ours chooses). Both loops
are timed fault by fault on some faults, of which each of ``--repeats`` rounds takes its part, before or behind our campaign
in turn. Their times are the median fault's times the number of faults; the ORT loop's has its process's start in addition.
Ours is the median of the rounds. ``eager / kernels`` is the factor that an engine would reach that takes the time of the
necessary kernels alone (`tests.benchmarks.kernel_floor`). ResNet50 and ViT-B/16, on random images of 224 × 224, need
torchvision, and are left out where it is not installed. Critical counts are compared with both loops', fault by fault.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch

from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import read_fault_list, write_fault_list
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.runtime.session import Numerics
from tests.benchmarks import real_models, subjects
from tests.benchmarks.eager_loop import EagerLoop
from tests.benchmarks.kernel_floor import floor_seconds

SEED = 2026
REPO = Path(__file__).parents[2]
DIGITS, DIGITS_FAULTS = "digits_cnn", 20
#: The classifier, its faults and its inputs.
SHIPPED, SHIPPED_FAULTS, SHIPPED_INPUTS = "rapidocr", 17, 12
#: Images on which the necessary kernels are timed.
FLOOR_INPUTS = 32


@dataclass(frozen=True)
class Case:
    """How many faults of a network's list (None: all) run over how many images; ``long`` ones only with ``--long``."""

    name: str
    faults: int | None
    inputs: int
    long: bool = False


CASES = (
    Case("ResNet20", 120, 256),
    Case("ResNet20", 333, 846),
    Case("ResNet20", None, 846, long=True),
    Case("Vgg11_bn", None, 64, long=True),
    Case("DenseNet121", 100, 64),
    Case("MobileNetV2", 100, 64),
    Case("GoogLeNet", 100, 64),
    Case("ResNet50", 50, 16),
    Case("ViT-B/16", 50, 16),
)

COLUMNS = (
    *(
        "network",
        "weights",
        "faults",
        "inputs",
        "layout",
        "wall s",
        "ours ms",
        "eager ms",
        "ORT loop ms",
        "eager / ours",
    ),
    *("ORT loop / ours", "kernels ms", "eager / kernels", "criticals differ: eager", "ORT"),
)


@dataclass
class Timed:
    """What the rounds of a loop gave: critical counts, the seconds of each fault, and those until each process had begun."""

    critical: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)

    def add(self, critical: dict[str, int], seconds: list[float], start: float = 0) -> None:
        self.critical |= critical
        self.seconds += seconds
        self.starts.append(start)

    def of(self, faults: int) -> float:
        """The seconds of so many faults."""
        return median(self.starts) + faults * median(self.seconds)

    def differing(self, ours: dict[str, int]) -> str:
        return f"{sum(ours[name] != count for name, count in self.critical.items())} of {len(self.critical)}"


@dataclass(frozen=True, eq=False)
class Files:
    """What processes read: the model, its prepared images (``x``), and fault lists that are written into ``folder``.

    ``tensors``: JSON with the tensor of each layer, where it is not called ``LAYER.weight``. ``shape``: of an image, where
    the model leaves it open.
    """

    folder: Path
    model: Path
    images: Path
    tensors: Path | None = None
    shape: str | None = None

    def write_list(self, name: str, faults: Sequence[Injection]) -> Path:
        path = self.folder / f"{name}.csv"
        write_fault_list(path, faults)
        return path


def run_process(command: Sequence[str | Path]) -> tuple[float, str]:
    """Return the seconds of a Python process, start to exit, and what it printed; raises CalledProcessError if it fails."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *map(str, command)], cwd=REPO, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    return seconds, done.stdout


def run_ours(files: Files, listed: Path, run: Path, options: argparse.Namespace) -> subjects.Measured:
    """Run a campaign as a process."""
    given = {"--batch-size": options.batch_size, "--workers": options.workers, "--input-shape": files.shape}
    extra = [part for name, value in given.items() if value for part in (name, str(value))]
    command: list[str | Path] = [
        "bitswap_onnx",
        "inject",
        files.model,
        listed,
        "--data",
        files.images,
        "--out",
        run,
        *extra,
    ]
    return subjects.Measured(run, run_process(command)[0])


def run_ort_loop(files: Files, faults: Sequence[Injection], timed: Timed) -> None:
    """Run some faults in the ORT loop as a process."""
    listed = files.write_list("ort_loop", faults)
    names: list[str | Path] = ["--tensors", files.tensors] if files.tensors else []
    seconds, printed = run_process(["tests.benchmarks.plain_loop", files.model, listed, files.images, *names])
    found = json.loads(printed)
    timed.add(found["critical"], found["seconds"], seconds - sum(found["seconds"]))


@dataclass(frozen=True, eq=False)
class Row:
    """A measured case: our campaigns, one per round, both loops, and the floor's seconds per inference.

    ``eager`` is None where there is no PyTorch network.
    """

    weights: str
    faults: int
    inputs: int
    ours: list[subjects.Measured]
    eager: Timed | None
    ort: Timed
    floor: float | None

    def cells(self, name: str) -> tuple[str, ...]:
        inferences = self.faults * self.inputs
        wall = median(run.seconds for run in self.ours)
        ort = self.ort.of(self.faults)
        eager = self.eager.of(self.faults) if self.eager else None
        floor = ("", "")
        if self.floor is not None and eager is not None:
            floor = f"{1e3 * self.floor:.4f}", f"{eager / (self.floor * inferences):.1f}"
        found = self.ours[0].critical()
        return (
            *(name, self.weights, f"{self.faults:,}", str(self.inputs), self.ours[0].layout, f"{wall:.1f}"),
            *("" if total is None else f"{1e3 * total / inferences:.4f}" for total in (wall, eager, ort)),
            *("" if eager is None else f"{eager / wall:.1f}", f"{ort / wall:.1f}", *floor),
            *(self.eager.differing(found) if self.eager else "", self.ort.differing(found)),
        )

    def details(self) -> str:
        rounds = ", ".join(f"{run.seconds:.1f}" for run in self.ours)
        loops = {"eager": self.eager, "ORT": self.ort}
        spread = ", ".join(
            f"{name} loop {min(loop.seconds):.3f} to {max(loop.seconds):.3f} s" for name, loop in loops.items() if loop
        )
        return (
            f"ours {rounds} s; per fault, {len(self.ort.seconds)} faults: {spread}; ORT loop's start "
            f"{median(self.ort.starts):.1f} s; faulty paths by lane: {self.ours[0].lanes}"
        )


def measure(case: Case, options: argparse.Namespace, folder: Path) -> Row:
    is_large, inputs = case.name in subjects.LARGE, options.inputs or case.inputs
    if is_large:
        subject = subjects.make_large_subject(case.name, folder)
        settings = Settings(data="synthetic", input_shape=subjects.LARGE_IMAGE, first=inputs)
    else:
        subject = subjects.make_subject(case.name, options.reference, folder)
        settings = subjects.image_settings(options.reference, inputs)
    everything = list(read_fault_list(subject.faults))
    faults = subjects.draw(everything, options.faults or case.faults or len(everything), SEED)
    setup = prepare(subject.model, settings)
    images = np.asarray(setup.dataset.batch(0, len(setup.dataset)), np.float32)
    files = Files(folder, subject.model, folder / "images.npz")
    np.savez(files.images, x=images)
    listed = files.write_list("faults", faults)
    timed = subjects.draw(faults, max(options.loop_faults, options.repeats), SEED)

    eager, ort, ours = Timed(), Timed(), []
    loop = EagerLoop(subject.network, images, options.torch_batch)
    loop.run(timed[:1])

    def run_loops(part: Sequence[Injection]) -> None:
        eager.add(*loop.run(part))
        run_ort_loop(files, part, ort)

    for number in range(options.repeats):
        part = timed[number :: options.repeats]
        if number % 2 == 0:
            run_loops(part)
        ours.append(run_ours(files, listed, folder / f"ours_{number}", options))
        if number % 2:
            run_loops(part)
    numerics = Numerics(layout="blocked" if ours[0].layout == "blocked" else "plain")
    model = load_model(files.model)
    floor = None if is_large else floor_seconds(model, numerics, setup.output, images[:FLOOR_INPUTS], faults)
    return Row(subject.weights, len(faults), len(images), ours, eager, ort, floor)


def measure_digits(options: argparse.Namespace, folder: Path) -> tuple[str, ...]:
    """Return the row of the shipped model: what a campaign takes that has next to nothing to compute."""
    model = REPO / f"models/{DIGITS}.onnx"
    files = Files(folder, model, model.with_suffix(".npz"))
    faults = subjects.draw(REPO / f"fault_lists/{DIGITS}.csv", DIGITS_FAULTS, SEED)
    listed = files.write_list("faults", faults)
    runs = [run_ours(files, listed, folder / f"ours_{number}", options) for number in range(options.repeats)]
    wall, inputs = median(run.seconds for run in runs), int(runs[0].golden["inputs"])
    own = f"{1e3 * wall / (len(faults) * inputs):.4f}"
    cells = (DIGITS, "trained", str(len(faults)), str(inputs), runs[0].layout, f"{wall:.1f}", own)
    return cells + ("",) * (len(COLUMNS) - len(cells))


def measure_shipped(options: argparse.Namespace, folder: Path) -> Row:
    """Measure the classifier on random images; one fault or few fall on a layer."""
    case = real_models.CASES[SHIPPED](options.cache, folder)
    shape = ",".join(map(str, case.inputs.shape[1:]))
    files = Files(folder, case.model, folder / "images.npz", folder / "tensors.json", shape)
    np.savez(files.images, x=case.inputs[:SHIPPED_INPUTS])
    weights = [target for target in find_targets(load_model(case.model)) if target.role == "weight"]
    draw = np.random.default_rng(SEED)
    faults = []
    for number in range(SHIPPED_FAULTS):
        target = weights[int(draw.integers(len(weights)))]
        index = tuple(int(draw.integers(size)) for size in target.shape)
        faults.append(Injection(str(number), (Fault(target.layer, index, int(draw.integers(32))),)))
    assert files.tensors
    files.tensors.write_text(json.dumps({target.layer: target.tensor for target in weights}))
    listed, ort, ours = files.write_list("faults", faults), Timed(), []
    for number in range(options.repeats):
        run_ort_loop(files, faults, ort)
        ours.append(run_ours(files, listed, folder / f"ours_{number}", options))
    return Row("trained", len(faults), SHIPPED_INPUTS, ours, None, ort, None)


def show(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects.add_reference(parser)
    parser.add_argument("--only", nargs="+", choices=sorted({case.name for case in CASES} | {DIGITS, SHIPPED}))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "bitswap-onnx", help="for the wheels")
    parser.add_argument("--long", action="store_true", help="the whole lists too")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--faults", type=int, help="of each list, in place of each case's own number")
    parser.add_argument("--inputs", type=int, help="in place of each case's own number")
    parser.add_argument("--loop-faults", type=int, default=24, help="that the loops are timed on")
    parser.add_argument("--batch-size", type=int, help="of our campaigns; default: theirs")
    parser.add_argument("--workers", type=int, help="of our campaigns; default: one per core")
    parser.add_argument("--torch-batch", type=int, default=256)
    parser.add_argument("--torch-threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.torch_threads)
    print(subjects.machine())
    print(f"times per inference; eager: {options.torch_threads} threads, batch {options.torch_batch}\n")
    show(COLUMNS)
    print(f"|{'---|' * len(COLUMNS)}", flush=True)
    wanted = options.only or [DIGITS, SHIPPED, *(case.name for case in CASES)]
    if DIGITS in wanted:
        with tempfile.TemporaryDirectory() as folder:
            show(measure_digits(options, Path(folder)))
    if SHIPPED in wanted:
        with tempfile.TemporaryDirectory() as folder:
            row = measure_shipped(options, Path(folder))
            show(row.cells(SHIPPED))
            print(f"  {SHIPPED}: {row.details()}", flush=True)
    for case in CASES:
        is_there = case.name not in subjects.LARGE or find_spec("torchvision")
        if case.name in wanted and is_there and (options.long or not case.long):
            with tempfile.TemporaryDirectory() as folder:
                row = measure(case, options, Path(folder))
                show(row.cells(case.name))
                print(f"  {case.name}: {row.details()}", flush=True)


if __name__ == "__main__":
    main()
