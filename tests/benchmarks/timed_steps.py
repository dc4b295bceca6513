"""Steps that each run in a process of their own, for so many seconds at most; one that fails leaves its reason as text."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from tests.benchmarks.gpu_use import sampled_use

Found = dict[str, Any]

#: Seconds that a process has to end once it has answered.
_TO_END = 10


@dataclass(frozen=True)
class Step:
    """``work`` returns what it found, as plain data, within ``budget`` seconds."""

    name: str
    budget: float
    work: Callable[[], Found]


def run_step(step: Step, preload: Sequence[str] = ()) -> Found:
    """Return what a step found, its seconds, the GPU's use meanwhile, and why it failed (None: it did not).

    ``preload``: modules that all steps need, imported once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*preload])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(step.work, sender))
    start = time.perf_counter()
    with sampled_use() as use:
        process.start()
        sender.close()
        in_time = receiver.poll(step.budget)
        found, failure = _answer(receiver) if in_time else ({}, f"not done after {step.budget:g} s")
        process.join(_TO_END if in_time else 0)
        process.kill()
        process.join()
    seconds = round(time.perf_counter() - start, 2)
    return {"seconds": seconds, "budget": step.budget, "failure": failure, "gpu": use.summary(), **found}


def _work(work: Callable[[], Found], sender: Connection) -> None:
    try:
        answer: tuple[Found, str | None] = work(), None
    except Exception as error:  # whatever it is, the steps behind it still run
        answer = {}, f"{type(error).__name__}: {error}"
    sender.send(answer)


def _answer(receiver: Connection) -> tuple[Found, str | None]:
    try:
        found, failure = receiver.recv()
    except EOFError:
        return {}, "the process ended without an answer: it crashed or was killed"
    return found, failure
