"""Neuron faults on ResNet20 with its trained weights: `inject` against forward hooks in PyTorch, prediction by prediction.

``python -m tests.benchmarks.neuron_torch [--reference FOLDER] [--injections 300] [--inputs 64]``. Each injection flips one
bit of one element of what a layer puts out or takes in: most for one image, every sixth for all of them. PyTorch flips the
same element with numpy in a forward hook or a pre-hook. It prints how many predictions were compared, how many are equal,
and each that is not, with the distance between the two classes' scores in both runtimes; it fails if one differs by more
than rounding (1e-3 of the largest score), or if the two engines differ.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings, for_neurons
from bitswap_onnx.campaign.setup import Setup, prepare
from bitswap_onnx.faults.fault import Fault, Injection, Site
from bitswap_onnx.graph.sites import NeuronSite, find_sites
from tests.benchmarks.subjects import add_reference, draw_neurons, image_settings, machine, make_subject

ROUNDING = 1e-3

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Difference:
    """A prediction that differs: the scores of both classes by PyTorch and by the campaign."""

    injection: Injection
    input: int
    native: Array
    ours: Array

    @property
    def distance(self) -> float:
        """How far apart the two classes are, in the runtime where they are nearer, against the largest score."""
        mine, theirs = int(self.ours.argmax()), int(self.native.argmax())
        near = min(abs(float(scores[mine]) - float(scores[theirs])) for scores in (self.native, self.ours))
        return near / max(float(np.abs(self.native).max()), 1e-30)


def hooked_sites(setup: Setup, network: torch.nn.Module) -> list[NeuronSite]:
    """The sites that a hook reaches too: what modules put out and take in.

    Of those that vanished in the export, the ones whose value has one reader: a hook reaches no other, a site them all.
    """
    names, readers = dict(network.named_modules()), setup.slicer.readers
    found = [
        site
        for site in find_sites(setup.slicer)
        if site.layer in names
        and (site.role == "kernel" or (site.role == "vanished" and len(readers.get(site.value, ())) == 1))
    ]
    inputs = [site for site in find_sites(setup.slicer) if site.role == "input" and site.site is Site.OUTPUT]
    return [*inputs, *found]


def flipped(tensor: torch.Tensor, fault: Fault) -> torch.Tensor:
    """A copy of a tensor in which the fault's bit of each row is flipped."""
    array = tensor.detach().numpy().copy()
    element = int(np.ravel_multi_index(fault.index, array.shape[1:]))
    array.view(np.uint32).reshape(len(array), -1)[:, element] ^= np.uint32(1 << (fault.bit or 0))
    return torch.from_numpy(array)


@contextmanager
def hook(network: torch.nn.Module, fault: Fault) -> Iterator[None]:
    """Flip the fault's bit in every row that runs through its layer."""
    module = dict(network.named_modules())[fault.layer]

    def before(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (flipped(inputs[0], fault), *inputs[1:])

    def behind(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return flipped(output, fault)

    before_it, behind_it = module.register_forward_pre_hook, module.register_forward_hook
    handle = before_it(before) if fault.site is Site.INPUT else behind_it(behind)
    with ExitStack() as stack:
        stack.callback(handle.remove)
        yield


@torch.no_grad()
def native_scores(network: torch.nn.Module, injection: Injection, inputs: Array) -> Array:
    """What PyTorch gives for the inputs that an injection of one fault runs over."""
    (fault,) = injection.faults
    x = torch.from_numpy(inputs if fault.input is None else inputs[fault.input : fault.input + 1])
    if fault.layer not in dict(network.named_modules()):  # the model's input
        return np.asarray(network(flipped(x, fault)).numpy())
    with hook(network, fault):
        return np.asarray(network(x).numpy())


def run_engine(
    model: Path, injections: list[Injection], settings: Settings, folder: Path, engine: Any
) -> dict[str, Array]:
    """The scores of each injection by one engine."""
    run_campaign(prepare(model, settings), injections, options=RunOptions(run=folder, engine=engine, save_outputs=True))
    return {injection.id: np.load(folder / f"outputs/inj_{injection.id}.npy") for injection in injections}


def compare(
    network: torch.nn.Module, injections: list[Injection], inputs: Array, ours: dict[str, Array]
) -> tuple[int, list[Difference]]:
    """How many predictions were compared, and those that differ."""
    compared, different = 0, []
    for injection in injections:
        (fault,) = injection.faults
        native, scores = native_scores(network, injection, inputs), ours[injection.id]
        assert native.shape == scores.shape
        compared += len(native)
        for row in np.flatnonzero(native.argmax(axis=1) != scores.argmax(axis=1)).tolist():
            which = row if fault.input is None else fault.input
            different.append(Difference(injection, which, native[row], scores[row]))
    return compared, different


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_reference(parser)
    parser.add_argument("--injections", type=int, default=300)
    parser.add_argument("--inputs", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subject = make_subject("ResNet20", arguments.reference, folder)
        settings = for_neurons(image_settings(arguments.reference, arguments.inputs))
        setup = prepare(subject.model, settings)
        inputs = setup.dataset.batch(0, len(setup.dataset))
        sites = hooked_sites(setup, subject.network)
        injections = draw_neurons(sites, arguments.injections, len(inputs))
        ran = partial(run_engine, subject.model, injections, settings)
        ours = {engine: ran(folder / engine, engine) for engine in ("incremental", "reference")}
        one, other = ours.values()
        same = sum(np.array_equal(one[i.id], other[i.id], equal_nan=True) for i in injections)
        compared, different = compare(subject.network, injections, inputs, ours["incremental"])
    kinds = ", ".join(f"{sum(s.site is side for s in sites)} {side}s" for side in Site)
    print(f"ResNet20, {subject.weights} weights, {len(inputs)} images; {len(sites)} sites: {kinds}; {machine()}")
    print(f"engines: {same} of {len(injections)} injections have equal scores on both")
    print(f"PyTorch: {compared - len(different)} of {compared} predictions equal, of {len(injections)} injections")
    for case in different:
        print(f"  {case.injection.faults[0]}, input {case.input}: classes within {case.distance:.1e} of each other")
        print(f"    native {case.native}\n    ours   {case.ours}")
    assert same == len(injections)
    assert all(case.distance <= ROUNDING for case in different)


if __name__ == "__main__":
    main()
