"""Do ``neurons`` and ``rank`` take all layers of ordinary networks, and do neuron faults do what PyTorch's hooks do?

``python -m tests.benchmarks.ordinary_networks [--only NET] [--inputs 32] [--injections 200] [--reference FOLDER]``. The
networks: residual Adds behind biased convolutions in Keras and in PyTorch, ResNet20 with trained weights whose batch-norm
is folded by hand or by PyTorch's own exporter, MobileNetV2 with random weights. Each goes through `run_neurons` and
`evaluate_robustness` over all layers; those of PyTorch through an `inject` campaign too, whose random flips, each in what
one layer puts out for one input, a forward hook repeats. It prints one table: layers that were hit, those left out,
predictions equal to PyTorch's. Below a row stand the layers left out, by name, and what failed. It ends with 1 if
something failed or a prediction differs by more than rounding (`neuron_torch.ROUNDING`).
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import nn

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import for_neurons
from bitswap_onnx.campaign.setup import Setup, prepare
from bitswap_onnx.experiments.neurons.run import run_neurons
from bitswap_onnx.experiments.ranking.run import evaluate_robustness
from bitswap_onnx.faults.fault import Injection, Site
from bitswap_onnx.graph.sites import NeuronSite, find_sites
from tests.benchmarks import neuron_torch
from tests.benchmarks.ordinary_subjects import NETS, Net
from tests.benchmarks.subjects import add_reference, draw_neurons, machine

HEADER = "| network | neurons: layers | left out | rank: layers | left out | injections | predictions equal |"


@dataclass
class Told:
    """What is said of one network: the cells of its row, and the lines below it."""

    cells: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    failed: bool = False

    def step(self, name: str, run: Callable[[], list[str]], cells: int) -> None:
        """Add the cells that ``run`` gives; if it fails, so many that say so, and its message."""
        try:
            self.cells += run()
        except Exception as error:  # a crash is a finding too; the other steps still run
            self.cells += ["failed", *(["-"] * (cells - 1))]
            self.lines.append(f"{name} failed: {type(error).__name__}: {error}")
            self.failed = True


def check(net: Net, injections: int, memory: int, folder: Path) -> Told:
    """Run everything on one network, in this process with so many bytes for golden values and loaded parts."""
    setup, told = prepare(net.model, for_neurons(net.settings)), Told()
    left_out: set[str] = set()

    def options(run: Path) -> RunOptions:
        return RunOptions(run=run, workers=0, memory=memory)

    def neurons() -> list[str]:
        found = run_neurons(net.model, layers="*", settings=net.settings, options=options(folder / "neurons"))
        hit = [row.layer.site.layer for row in found.rows if row.layer is not None]
        left_out.update(missing(setup, Site.OUTPUT, hit))
        return counted(told, "neurons", hit, left_out)

    def rank() -> list[str]:
        found = evaluate_robustness(net.model, layers="*", settings=net.settings, options=options(folder / "rank"))
        hit = [layer.name for layer in found.layers]
        return counted(told, "rank", hit, missing(setup, Site.INPUT, hit))

    told.step("neurons", neurons, 2)
    told.step("rank", rank, 2)
    if net.network is None:
        told.cells += ["-", "-"]
    else:
        told.step("inject", lambda: hooks(told, net, setup, left_out, injections, options(folder / "inject")), 2)
    return told


def missing(setup: Setup, side: Site, hit: Collection[str]) -> list[str]:
    """The layers with a site of one side that were not hit."""
    return [site.layer for site in find_sites(setup.slicer) if site.site is side and site.layer not in hit]


def counted(told: Told, name: str, hit: Collection[str], left_out: Collection[str]) -> list[str]:
    if left_out:
        told.lines.append(f"{name} left out: {', '.join(sorted(left_out))}")
    return [str(len(hit)), str(len(left_out))]


def hooks(told: Told, net: Net, setup: Setup, left_out: Collection[str], count: int, options: RunOptions) -> list[str]:
    """Compare a campaign with PyTorch's forward hooks."""
    assert net.network is not None
    inputs = setup.dataset.batch(0, len(setup.dataset))
    injections = draw(hooked_outputs(setup, net.network, left_out), count, len(inputs))
    run = run_campaign(setup, injections, options=replace(options, save_outputs=True)).run
    ours = {injection.id: np.load(run / "outputs" / f"inj_{injection.id}.npy") for injection in injections}
    compared, different = neuron_torch.compare(net.network, injections, inputs, ours)
    for case in different:
        told.lines.append(f"{case.injection.faults[0]}: classes within {case.distance:.1e} of each other")
    told.failed |= any(case.distance > neuron_torch.ROUNDING for case in different)
    return [str(len(injections)), f"{compared - len(different)} of {compared}"]


def hooked_outputs(setup: Setup, network: nn.Module, left_out: Collection[str]) -> list[NeuronSite]:
    """The outputs that a forward hook reaches: those of `neuron_torch.hooked_sites`, and of modules without a kernel."""
    names = dict(network.named_modules())
    modules = [site for site in find_sites(setup.slicer) if site.role == "module" and site.layer in names]
    sites = [*neuron_torch.hooked_sites(setup, network), *modules]
    return [site for site in sites if site.site is Site.OUTPUT and site.layer not in left_out]


def draw(sites: list[NeuronSite], count: int, inputs: int) -> list[Injection]:
    """Random flips for one input each, the inputs in turn."""
    drawn = draw_neurons(sites, count, inputs)
    return [
        replace(injection, faults=(replace(injection.faults[0], input=number % inputs),))
        for number, injection in enumerate(drawn)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_reference(parser)
    parser.add_argument("--only", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--inputs", type=int, default=32)
    parser.add_argument("--injections", type=int, default=200)
    parser.add_argument("--memory", type=int, default=1024, help="MiB that a campaign may keep")
    options = parser.parse_args()
    print(f"{machine()}\n{options.inputs} inputs\n{HEADER}\n{'|---' * HEADER.count(' | ')}|---|", flush=True)
    failed = 0
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            net = NETS[name](options, Path(folder))
            told = check(net, options.injections, options.memory << 20, Path(folder))
        print(f"| {' | '.join([net.name, *told.cells])} |", *told.lines, sep="\n    ", flush=True)
        failed += told.failed
    print(f"{failed} of {len(options.only)} networks failed" if failed else "all passed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
