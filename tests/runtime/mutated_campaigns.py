"""Models with faults in their first layer, and campaigns over them, for tests of planted bugs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bitswap_onnx.campaign.options import Audit, RunOptions
from bitswap_onnx.campaign.run import Campaign, run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault import Fault, Injection, Kind, Site
from tests.builders import build, normal, save
from tests.runtime.planted_bugs import BATCH, INPUTS

TURNED = """net (float[N, 8] x) => (float[N, 4] scores) {
    kernel = Transpose <perm = [1, 0]> ("first.weight")
    a = MatMul (x, kernel)
    b = Relu (a)
    scores = Gemm <transB = 1> (b, "fc.weight")
}"""

RESIDUAL = """net (float[N, 1, 6, 6] x) => (float[N, 4] scores) {
    side = Conv <kernel_shape = [3, 3]> (x, "second.weight")
    a = Conv <kernel_shape = [3, 3]> (x, "first.weight")
    b = Add (a, side)
    c = Relu (b)
    d = Flatten (c)
    scores = Gemm <transB = 1> (d, "fc.weight")
}"""

FORKED = """net (float[N, 1, 6, 6] x) => (float[N, 4] scores) {
    a = Conv <kernel_shape = [3, 3]> (x, "first.weight")
    b = Relu (a)
    c = Neg (a)
    d = Mul (b, c)
    e = Sub (d, a)
    f = Flatten (e)
    scores = Gemm <transB = 1> (f, "fc.weight")
}"""

TOKENS_FIRST = """net (float[N, 4, 8] x) => (float[N, 4] scores) {
    a = MatMul (x, "first.weight")
    b = Transpose <perm = [1, 0, 2]> (a)
    c = Transpose <perm = [1, 0, 2]> (x)
    d = Add (b, c)
    e = Transpose <perm = [1, 0, 2]> (d)
    f = Flatten (e)
    scores = Gemm <transB = 1> (f, "fc.weight")
}"""

SHARES = """net (float[N, 1, 6, 6] x) => (float[N, 4] scores) {
    a = Conv <kernel_shape = [3, 3]> (x, "first.weight")
    b = Softmax <axis = 1> (a)
    c = Flatten (b)
    scores = Gemm <transB = 1> (c, "fc.weight")
}"""

LESS_THE_FIRST = """net (float[N, 8] x) => (float[N, 4] scores) {
    a = Gemm <transB = 1> (x, "first.weight")
    first = Gather (a, zero)
    b = Sub (a, first)
    scores = Gemm <transB = 1> (b, "fc.weight")
}"""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with the ``shape`` of its ``first`` layer's weights, which faults hit, and of its ``x``."""

    body: str
    x: tuple[int, ...]
    shape: tuple[int, ...]
    hidden: int

    @property
    def proto(self) -> onnx.ModelProto:
        sizes: dict[str, Any] = {"first__weight": normal(*self.shape), "fc__weight": normal(4, self.hidden, seed=1)}
        if "zero" in self.body:
            sizes["zero"] = np.array([0])
        if "second" in self.body:
            sizes["second__weight"] = normal(*self.shape, seed=2)
        return build(self.body, **sizes)

    @property
    def faults(self) -> list[Injection]:
        """Flips of single bits, all over the weights."""
        cells = list(np.ndindex(*self.shape))
        chosen = [cells[i * len(cells) // 40] for i in range(40)]
        return [Injection(f"f{i}", (Fault("first", cell, 29 - i % 7),)) for i, cell in enumerate(chosen)]


IMAGE = 1, 6, 6
tokens = Subject(TOKENS_FIRST, (BATCH, 8), (8, 8), 32)
relative = Subject(LESS_THE_FIRST, (8,), (16, 8), 16)
turned = Subject(TURNED, (8,), (5, 8), 5)
residual = Subject(RESIDUAL, IMAGE, (3, 1, 3, 3), 48)
forked = Subject(FORKED, IMAGE, (3, 1, 3, 3), 48)
shares = Subject(SHARES, IMAGE, (16, 1, 3, 3), 256)
plain_body = SHARES.replace("Softmax <axis = 1>", "Relu")
three, many = (Subject(plain_body, IMAGE, (n, 1, 3, 3), 16 * n) for n in (3, 32))


def run(subject: Subject, folder: Path, injections: Sequence[Injection] | None = None, **options: Any) -> Campaign:
    folder.mkdir(exist_ok=True)
    model = save(subject.proto, folder / "model.onnx")
    np.savez(folder / "model.npz", x=normal(INPUTS, *subject.x, seed=3), y=np.arange(INPUTS) % 4)
    settings = Settings(batch_size=BATCH, layout="plain")
    injections = subject.faults if injections is None else injections
    own_options = RunOptions(**{"run": folder / "run", "workers": 0, "audit": Audit(0), **options})
    return run_campaign(prepare(model, settings), injections, options=own_options)


def results(folder: Path) -> bytes:
    return (folder / "run/results.csv").read_bytes()


def neurons_of(subject: Subject) -> list[Injection]:
    """Faults of every kind in what the first layer puts out, over all inputs and over one."""
    kinds = [Kind.STUCK_AT_0, Kind.STUCK_AT_1, Kind.FLIP]
    cells = list(np.ndindex(3, 4, 4))
    return [
        Injection(
            f"n{i}",
            (Fault("first", cell, 30 - i % 8, kinds[i % 3], site=Site.OUTPUT, input=None if i % 2 else i % INPUTS),),
        )
        for i, cell in enumerate(cells)
    ]
