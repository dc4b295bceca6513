"""Whether a change of the code leaves every result as it was: the files of an earlier commit beside those of this checkout.

``python -m tests.benchmarks.same_results --before COMMIT [--reference DIR]`` runs the same commands with the code of both,
in folders of the same layout, and compares the files byte for byte. Each command has one worker: several finish their
units in any order. Not compared: the ``notes`` and ``method`` of JSON, whose wording may change, versions, machine, audit
and seconds in golden.json, stores and texts. With the reference data, ResNet20 runs as well: every 50th fault of its
published list over 846 images, and a ranking of its layers.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bitswap_onnx.faults.fault_list import read_fault_list, write_fault_list

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("bitswap_onnx", "converters", "models")
#: Keys of JSON files that are no results.
WORDS = {"notes", "method", "versions", "machine", "audit", "seconds"}


#: Command lines, in order: later ones read what earlier ones wrote. The JSON that some print is compared as well.
COMMANDS = """
inject DIGITS fault_lists/digits_cnn.csv --out run --save-outputs --workers 1
inject DIGITS fault_lists/digits_cnn.csv --out whole --engine reference --workers 1
inject DIGITS --until critical±1%@95% --seed 3 --out until --workers 1
inject DIGITS --until critical±2%@95% --scheme iterative --out iterative --workers 1
inject DIGITS --until critical±2%@95% --inputs-per-injection auto --out nested --workers 1
faults generate DIGITS --scheme bit-layer --margin 0.1 -o drawn.csv
inject DIGITS drawn.csv --first 64 --out drawn --per-input --workers 1
estimate run --by network,layer,bit,bit-class,layer-bit -o run.csv
estimate drawn --json
estimate drawn --over-inputs --json
estimate until --json
estimate run/results.csv --json
neurons DIGITS --first 128 --trials 3 --out neurons --workers 1
sweep DIGITS --rates 1e-5:1e-3 --repeats 4 --out sweep --workers 1
sweep DIGITS --rates 1e-4 --repeats 4 --site both --first 64 --out both --workers 1
rank DIGITS --first 256 --out rank --workers 1
rank DIGITS --first 128 --site weights --trials 40 --out weights --workers 1
compare run whole --out compared
results export drawn --dialect tf_injector -o tf.csv
faults describe drawn.csv --json
inspect DIGITS --json
evaluate DIGITS --json
"""

#: With the published weights, lists and images.
REFERENCE_COMMANDS = """
inject ResNet20.onnx resnet20.csv IMAGES --out resnet20 --workers 1
estimate resnet20 --by network,layer,bit --json
rank ResNet20.onnx IMAGES --first 128 --out resnet20_rank --workers 1
inject ResNet20.onnx --until critical±2%@95% IMAGES --first 128 --out resnet20_until --workers 1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", required=True, help="the commit to compare with")
    folder = os.environ.get("BITSWAP_REFERENCE")
    parser.add_argument("--reference", type=Path, default=folder, help="the published weights, fault lists and images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        before, after = lay_out(scratch / "code_before", options.before), lay_out(scratch / "code_after", None)
        commands = COMMANDS.split("\n")
        sides = [(before, scratch / "before"), (after, scratch / "after")]
        for _, side in sides:
            make_inputs(side)
        if options.reference:
            make_reference_inputs(options.reference.resolve(), [side for _, side in sides], scratch)
            images = f"--data {options.reference.resolve() / 'cifar10/test_846.npz'} --preset cifar10"
            commands += REFERENCE_COMMANDS.replace("IMAGES", images).split("\n")
        different = 0
        for command in filter(None, commands):
            printed = [run(code, side, command) for code, side in sides]
            equal = "--json" not in command or results(printed[0]) == results(printed[1])
            different += not equal
            print(f"{'same' if equal else 'DIFFERENT'} | {command}", flush=True)
        for path, equal in compare(*(side for _, side in sides)):
            different += not equal
            print(f"{'same' if equal else 'DIFFERENT'} | {path}")
        print(f"{different} differences")
        sys.exit(1 if different else 0)


def lay_out(folder: Path, commit: str | None) -> Path:
    """Make a folder from which the packages of a commit, or of this checkout, are imported; return it."""
    source = REPO
    if commit is not None:
        source = folder.with_name(f"{folder.name}_source")
        source.mkdir(parents=True)
        archive = subprocess.run(
            ["git", "archive", commit, *PACKAGES], cwd=REPO, check=True, capture_output=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
    shutil.copytree(source / "bitswap_onnx", folder / "bitswap_onnx")
    for package in PACKAGES[1:]:
        shutil.copytree(source / package, folder / "bitswap_onnx" / package)
    return folder


def make_inputs(side: Path) -> None:
    """Copy the shipped model, its data and its list."""
    for name in ("models/digits_cnn.onnx", "models/digits_cnn.npz", "fault_lists/digits_cnn.csv"):
        (side / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, side / name)


def make_reference_inputs(reference: Path, sides: Sequence[Path], scratch: Path) -> None:
    """Export ResNet20 with its trained weights, and write every 50th fault of its published list, once for both sides."""
    from tests.benchmarks.subjects import make_subject

    subject = make_subject("ResNet20", reference, scratch)
    write_fault_list(scratch / "resnet20.csv", list(islice(read_fault_list(subject.faults), 0, None, 50)))
    for side in sides:
        shutil.copy(subject.model, side)
        shutil.copy(scratch / "resnet20.csv", side)


def run(code: Path, side: Path, command: str) -> str:
    """Run a command with the code of one side in its folder; return its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "bitswap_onnx", *shlex.split(command.replace("DIGITS", "models/digits_cnn.onnx"))],
        cwd=side,
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{side.name}: {command} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def results(text: str) -> Any:
    """Return what JSON says, without words."""
    return _without_words(json.loads(text))


def _without_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_words(entry) for key, entry in value.items() if key not in WORDS}
    return [_without_words(entry) for entry in value] if isinstance(value, list) else value


def compare(before: Path, after: Path) -> Iterator[tuple[str, bool]]:
    """Yield every file but stores and texts, and whether it is the same on both sides."""
    names = sorted(
        {str(path.relative_to(side)) for side in (before, after) for path in side.rglob("*") if path.is_file()}
    )
    for name in names:
        path = Path(name)
        if path.suffix in (".sqlite", ".lock", ".onnx", ".npz", ".txt"):
            continue
        files = [side / name for side in (before, after)]
        if not all(file.is_file() for file in files):
            yield name, False
        elif path.suffix == ".json":
            yield name, len({json.dumps(results(file.read_text()), sort_keys=False) for file in files}) == 1
        else:
            yield name, files[0].read_bytes() == files[1].read_bytes()


if __name__ == "__main__":
    main()
