"""What the engine benchmarks share: networks with their published fault lists, and campaigns that tell how they ran."""

import argparse
import csv
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bitswap_onnx.campaign.options import DEFAULT_AUDIT, Audit, RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import read_fault_list, write_fault_list
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.models import zoo
from bitswap_onnx.runtime.session import machine_name, versions

if TYPE_CHECKING:  # machines that run packed subjects have no PyTorch
    import torch

#: Networks of torchvision, which lies in an environment of its own, their images, and the length of their lists.
LARGE = {"ResNet50": "resnet50", "ViT-B/16": "vit_b_16"}
LARGE_IMAGE, LARGE_LIST = (3, 224, 224), 200

IMAGES = "cifar10/test_846.npz"
PRESET = "cifar10"


def add_reference(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the option that names the folder with the published weights, lists and images."""
    folder = os.environ.get("BITSWAP_REFERENCE")
    told = "the published weights, fault lists and images; default: what BITSWAP_REFERENCE names"
    parser.add_argument("--reference", type=Path, default=folder, required=required and folder is None, help=told)


def cores() -> int:
    """How many cores this process may use: as many workers a campaign has by default."""
    return len(os.sched_getaffinity(0))


def machine() -> str:
    """The processor, its cores that may be used, what it is busy with already, and the versions."""
    found = ", ".join(
        f"{name} {version}" for name, version in {**versions(), "torch": metadata.version("torch")}.items()
    )
    return f"{machine_name('cpu')}, {cores()} cores, load {os.getloadavg()[0]:.1f}; {found}"


@dataclass(frozen=True, eq=False)
class Subject:
    """A CIFAR-10 network of the zoo, in torch and exported, and its published fault list."""

    name: str
    network: "torch.nn.Module"
    model: Path
    faults: Path
    trained: bool

    @property
    def weights(self) -> str:
        return "trained" if self.trained else "random"


def make_subject(name: str, reference: Path, folder: Path) -> Subject:
    """Build a network, with its trained weights where ``reference`` has them, and export it into ``folder``."""
    checkout = reference / "dnn-benchmarks"
    trained = (checkout / zoo.find(name, "CIFAR10").weights).is_file()
    network = zoo.build(name, "CIFAR10", checkout if trained else None)
    model = folder / f"{name}.onnx"
    export_torch(network, (3, 32, 32), model)
    return Subject(name, network, model, published_list(name, reference), trained)


def make_large_subject(name: str, folder: Path) -> Subject:
    """Build a network of torchvision for images of 224 × 224 with seeded random weights, export it, and draw its list."""
    import torch
    import torchvision

    torch.manual_seed(0)
    network = getattr(torchvision.models, LARGE[name])(weights=None).eval()
    model, faults = folder / "large.onnx", folder / "large_list.csv"
    export_torch(network, LARGE_IMAGE, model)
    kernels = {n: m.weight.shape for n, m in network.named_modules() if type(m) in (torch.nn.Conv2d, torch.nn.Linear)}
    layers, sizes = [*kernels], np.array([shape.numel() for shape in kernels.values()], float)
    draw, found = np.random.default_rng(0), []
    for number in range(LARGE_LIST):
        layer = layers[int(draw.choice(len(layers), p=sizes / sizes.sum()))]
        index = tuple(int(draw.integers(size)) for size in kernels[layer])
        found.append(Injection(str(number), (Fault(layer, index, int(draw.integers(32))),)))
    write_fault_list(faults, found)
    return Subject(name, network, model, faults, trained=False)


def published_list(name: str, reference: Path) -> Path:
    """Return the published CIFAR-10 fault list of a network; their files' names spell networks in other cases."""
    folder = reference / "dnn-benchmarks/torch/gpu/image_classification/CIFAR10/fp32"
    (file,) = (path for path in folder.rglob("*_FL.csv") if path.name.lower() == f"{name}_FL.csv".lower())
    return file


def image_settings(reference: Path, inputs: int) -> Settings:
    """The first ``inputs`` CIFAR-10 images."""
    return Settings(data=reference / IMAGES, preprocessing=Preprocessing(preset=PRESET), first=inputs)


def draw(faults: Path | Iterable[Injection], count: int, seed: int) -> list[Injection]:
    """Return ``count`` random injections of a list, in its order; all of them if it has no more."""
    everything = list(read_fault_list(faults) if isinstance(faults, Path) else faults)
    chosen = random.Random(seed).sample(range(len(everything)), min(count, len(everything)))
    return [everything[number] for number in sorted(chosen)]


def draw_neurons(
    sites: Sequence[NeuronSite], count: int, inputs: int, seed: int = 0, *, all_of: int = 6
) -> list[Injection]:
    """Random single flips, every bit as likely as any other; one in ``all_of`` is of all inputs, the others of one."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        site = sites[int(draw.integers(len(sites)))]
        index = tuple(int(draw.integers(size)) for size in site.shape)
        which = None if number % all_of == 0 else int(draw.integers(inputs))
        bit = int(draw.integers(site.format.width))
        found.append(Injection(f"n{number}", (Fault(site.layer, index, bit, site=site.site, input=which),)))
    return found


@dataclass(frozen=True, eq=False)
class Measured:
    """A finished campaign: its wall time, everything included, and its files."""

    run: Path
    seconds: float

    @property
    def layout(self) -> str:
        """The layout that it ran with."""
        return str(self.golden["identity"]["numerics"]["layout"])

    @property
    def lanes(self) -> str:
        """How many of its faulty paths ran which way."""
        kinds = Counter((self.golden["lanes"] or {}).values())
        return ", ".join(f"{kind} {number}" for kind, number in kinds.most_common())

    @property
    def golden(self) -> dict[str, Any]:
        """What golden.json says."""
        golden: dict[str, Any] = json.loads((self.run / "golden.json").read_text())
        return golden

    def critical(self) -> dict[str, int]:
        """Critical inferences of each injection."""
        with (self.run / "results.csv").open(newline="") as file:
            return {row["Injection"]: int(row["critical"]) for row in csv.DictReader(file) if row["critical"]}


def campaign(
    model: Path,
    faults: Path | Sequence[Injection],
    run: Path,
    settings: Settings,
    *,
    engine: Literal["auto", "incremental", "reference"] = "auto",
    workers: int | None = None,
    memory: int | None = None,
    audit: Audit = DEFAULT_AUDIT,
    save_outputs: bool = False,
) -> Measured:
    """Run a campaign in this process and workers of its own."""
    options = RunOptions(run=run, engine=engine, workers=workers, memory=memory, audit=audit, save_outputs=save_outputs)
    start = time.perf_counter()
    run_campaign(prepare(model, settings), faults, options=options)
    return Measured(run, time.perf_counter() - start)
