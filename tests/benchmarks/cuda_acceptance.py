"""Does a campaign on a GPU hold what the README promises, and how fast is it? One JSON file and one table in Markdown.

``python -m tests.benchmarks.cuda_acceptance --pack FOLDER [--reference FOLDER]``, where PyTorch is installed, writes
ResNet20.onnx (trained weights), its published list and 846 CIFAR-10 images into FOLDER: 5 MB. On the machine with the GPU,
which needs this project and onnxruntime-gpu alone, ``python -m tests.benchmarks.cuda_acceptance --data FOLDER`` writes
acceptance.json and acceptance.md, in less than 8 minutes. Without ``--data`` it runs the shipped digits model. CUDA's
libraries are found where pip has installed them (``nvidia-...``), or where ``LD_LIBRARY_PATH`` says.

Every step is a process of its own with its own time budget; one that fails is recorded as text, and the others still run.
Campaigns whose time runs out are compared on what both have finished. The exit status is 1 unless all
checks hold: nodes ran on the provider; two golden runs have equal bits; every null control is masked, so that no lane was
given up; and both engines count alike, for faults in weights and in neurons. ``--provider cpu`` puts the CPU in the GPU's
place.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from functools import partial
from importlib import metadata
from pathlib import Path

from bitswap_onnx.campaign.options import cores
from bitswap_onnx.runtime.session import machine_name, versions
from tests.benchmarks import subjects
from tests.benchmarks.acceptance_report import checks, table
from tests.benchmarks.acceptance_steps import DIGITS, RESNET20, Machine, Packed, Sizes
from tests.benchmarks.gpu_use import gpu
from tests.benchmarks.timed_steps import Found, Step, run_step


def pack(reference: Path, folder: Path) -> None:
    """Write what the machine with the GPU needs."""
    folder.mkdir(parents=True, exist_ok=True)
    subject = subjects.make_subject("ResNet20", reference, folder)
    assert subject.trained, "the trained weights are needed"
    shutil.copyfile(subject.faults, folder / RESNET20.faults)
    shutil.copyfile(reference / subjects.IMAGES, subject.model.with_suffix(".npz"))


def make_steps(machine: Machine, packed: Packed, with_digits: bool) -> list[Step]:
    """Return the steps in their order; the later ones read what the earlier ones have left."""
    steps = [
        Step("provider", 25, partial(machine.run_plainly, packed)),
        Step("golden", 30, partial(machine.run_golden_twice, packed)),
        Step("fast", 55, partial(machine.run_fast, packed, 40)),
        Step("slow", 120, partial(machine.run_slow, packed, 90)),
        Step("neurons", 60, partial(machine.run_neurons, packed, 22)),
        Step("tf32", 20, partial(machine.compare_tf32, packed)),
        Step("whole_list", 110, partial(machine.run_part_of_list, packed, 80)),
    ]
    digits = Step("digits", 40, partial(machine.run_both, DIGITS, 15))
    return [*steps[:2], digits, *steps[2:]] if with_digits else steps


def describe_machine() -> Found:
    packages = {found.name: found.version for found in metadata.distributions()}
    cuda = {name: version for name, version in sorted(packages.items()) if name.startswith("nvidia-")}
    return {
        "gpu": gpu(),
        "processor": machine_name("cpu"),
        "cores": cores(),
        "versions": {"python": platform.python_version(), **versions()},
        "cuda_packages": cuda,
    }


def find_cuda_libraries() -> None:
    """Start again with the folders of installed CUDA packages in LD_LIBRARY_PATH, which is read when a process starts."""
    installed = {str(path) for folder in sys.path for path in Path(folder, "nvidia").glob("**/lib") if path.is_dir()}
    known = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    if not installed <= set(known):
        os.environ["LD_LIBRARY_PATH"] = ":".join([*sorted(installed), *filter(None, known)])
        os.execv(sys.executable, sys.orig_argv)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects.add_reference(parser, required=False)
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="write the data for --data, and do nothing else")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="as --pack writes it; default: the digits model")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for acceptance.json and acceptance.md; default: here"
    )
    parser.add_argument("--provider", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--workers", type=int, help="of every campaign; default: its own")
    parser.add_argument("--faults", type=int, default=300, help="that both engines run")
    parser.add_argument("--inputs", type=int, default=256, help="that both engines run them on")
    parser.add_argument("--neurons", type=int, default=60, help="neuron faults in 4 sites, on 128 inputs")
    parser.add_argument("--list-share", type=float, default=0.1, help="of the whole list; its time is extrapolated")
    parser.add_argument("--list-inputs", type=int, default=10_000, help="of the whole list, the images repeated")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    if options.pack:
        pack(options.reference, options.pack)
        return
    if options.provider == "cuda":
        find_cuda_libraries()
    packed = RESNET20.within(options.data) if options.data else DIGITS
    sizes = Sizes(options.faults, options.inputs, options.neurons, options.list_share, options.list_inputs)
    report: Found = {"provider": options.provider, "network": packed.name, "machine": describe_machine(), "steps": {}}
    with tempfile.TemporaryDirectory() as work:
        machine = Machine(options.provider, options.workers, sizes, Path(work))
        for step in make_steps(machine, packed, with_digits=bool(options.data)):
            report["steps"][step.name] = run_step(step, [Machine.__module__])
            print(step.name, report["steps"][step.name], flush=True)
    report["checks"] = checks(report)
    out = options.out or Path.cwd()
    out.mkdir(parents=True, exist_ok=True)
    (out / "acceptance.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "acceptance.md").write_text(table(report))
    print(table(report))
    sys.exit(not all(report["checks"].values()))


if __name__ == "__main__":
    main()
