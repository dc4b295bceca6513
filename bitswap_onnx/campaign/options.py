"""Options of a run: its directory, its processes, its audit, its records, its observers."""

import math
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from bitswap_onnx.campaign.stored_settings import EXPERIMENTS
from bitswap_onnx.errors import BitswapError, RunError, check_choice, check_flag, check_path, check_whole
from bitswap_onnx.faults.fault import BitOrder
from bitswap_onnx.faults.numerals import parse_size
from bitswap_onnx.runtime.processes import WorkerProcess, end_workers, workers_ahead
from bitswap_onnx.sampling.input_blocks import PerInjection, parse_per_injection

#: What a store can keep of every inference.
Record = Literal["scores", "per_input"]
EngineName = Literal["auto", "incremental", "reference"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is: ``done`` of ``total`` steps of a ``stage``; ``inferences`` and ``critical``: numbers so far.

    In the stage ``injections``, ``exactly`` is the finished part of the work, counted in injections (a half-finished one
    counts one half), and ``done`` is that rounded down.
    """

    stage: str
    done: int
    total: int
    inferences: int = 0
    critical: int = 0
    exactly: float | None = None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Audit:
    """How many injections to run again: ``number`` of them, or that ``share`` of all, each over one chunk of inputs.

    ``time``: a limit, as a fraction of the time that the workers spent on all else. The first four injections then run
    over one batch each, whatever they take. Further ones, up to ``number``, run while the limit is likely to hold: over a
    chunk, or if that takes too long, over a batch.
    """

    number: int = 10
    share: float | None = None
    time: float | None = None

    def size(self, injections: int) -> int:
        """Return how many of ``injections`` to run again, at most."""
        return min(injections, self.number if self.share is None else math.ceil(self.share * injections))

    def is_met_by(self, checked: int, injections: int) -> bool:
        """Whether an earlier audit, which ``checked`` so many of ``injections``, is enough."""
        wanted = self.size(injections)
        return checked >= (wanted if self.time is None else min(wanted, 1))


#: Up to ten injections, in a twentieth of the time.
DEFAULT_AUDIT = Audit(time=0.05)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a campaign runs and what it keeps. ``workers``, ``engine``, ``memory`` and ``audit`` never change a result.

    ``run``: the run directory (default: ``reports/<dataset>/<model>/<yymmdd_HHMMSS>``). ``resume``: continue what is there.
    ``workers``: processes of one thread each; 0: everything in this process; default: one per core, as far as the memory
    goes, one on a GPU. ``memory``: bytes, also as text (``4G``), that the campaign may take, this process and its workers
    together, as far as they can be estimated (`bitswap_onnx.campaign.memory`); default: half of what is free. ``audit``:
    injections to run again, each over a chunk of inputs, also as text (``5%``); default: four over a batch each, then up to
    ten in all, over a chunk or else a batch, while the audit is likely to take no more than a twentieth of all other time
    of the workers.
    ``bit_order``: how the list counts bits; ``lsb``: 0 is the least significant; ``msb``: 0 is the sign. ``save_outputs``
    and ``per_input`` write files of every inference; ``records`` keeps the same in the store without a file.
    ``inputs_per_injection``: the number of inputs drawn for each injection with the settings' seed, rounded up to whole
    batches (``"auto"``: one batch); None: all inputs. ``on_progress`` and ``on_notes`` are called from the thread that runs
    the campaign. ``stop``: set it from another thread or a signal handler to end the campaign after the units at hand.
    ``waiting``: workers that have been started already; see `starting_workers`. ``experiment``: the command that drew the
    faults (`EXPERIMENTS`), so that nothing takes them for a list whose rates can be estimated.

    Raises BitswapError for a value that its parameter does not allow, RunError for ``resume`` without ``run``.
    """

    run: str | Path | None = None
    resume: bool = False
    workers: int | None = None
    engine: EngineName = "auto"
    memory: int | str | None = None
    audit: Audit | int | str = DEFAULT_AUDIT
    bit_order: BitOrder = "lsb"
    save_outputs: bool = False
    per_input: bool = False
    records: Collection[Record] = ()
    inputs_per_injection: PerInjection = None
    on_progress: OnProgress | None = None
    on_notes: Callable[[Iterable[str]], None] | None = None
    stop: threading.Event | None = None
    waiting: list[WorkerProcess] = field(default_factory=list, repr=False, compare=False)
    experiment: str | None = None

    def __post_init__(self) -> None:
        for name in ("resume", "save_outputs", "per_input"):
            check_flag(name, getattr(self, name))
        if self.run is not None:
            self._set("run", check_path("run", self.run))
        elif self.resume:
            raise RunError("`resume` needs `run`: the run directory to continue")
        if self.workers is not None:
            self._set("workers", check_whole("workers", self.workers, 0))
        if isinstance(self.memory, str):
            self._set("memory", parse_size(self.memory))
        if self.memory is not None:
            self._set("memory", check_whole("memory", self.memory, 1))
        check_choice("engine", self.engine, ("auto", "incremental", "reference"))
        check_choice("bit_order", self.bit_order, ("lsb", "msb"))
        if isinstance(self.records, str):
            raise BitswapError(f"`records`: expected a list of names, found {self.records!r}")
        for record in self.records:
            check_choice("records", record, ("scores", "per_input"))
        if self.experiment is not None:
            check_choice("experiment", self.experiment, EXPERIMENTS)
        if not isinstance(self.audit, Audit):
            self._set("audit", parse_audit(str(self.audit)))
        if isinstance(self.inputs_per_injection, str):
            self._set("inputs_per_injection", parse_per_injection(self.inputs_per_injection))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def folder(self) -> Path | None:
        """The run directory, None for the default one."""
        return None if self.run is None else Path(self.run)

    @property
    def audit_size(self) -> Audit:
        """What the audit runs again."""
        assert isinstance(self.audit, Audit)
        return self.audit

    @property
    def kept_records(self) -> tuple[Record, ...]:
        """What the store keeps of every inference, in the order in which identities have it."""
        kept: set[Record] = set(self.records)
        kept |= {"scores"} if self.save_outputs else set()
        kept |= {"per_input"} if self.per_input else set()
        return tuple(sorted(kept, reverse=True))

    def worker_count(self, provider: str) -> int:
        """Return the number of worker processes where the model runs on ``provider``."""
        if self.workers is not None:
            return self.workers
        return cores() if provider == "cpu" else 1

    def end_waiting(self, count: int) -> None:
        """End the workers that were started ahead beyond ``count``, for which there is no memory."""
        end_workers(self.waiting[count:])
        del self.waiting[count:]

    @property
    def memory_bytes(self) -> int:
        """The bytes that the campaign may take."""
        assert not isinstance(self.memory, str)
        return self.memory or free_memory() // 2


def parse_audit(text: str) -> Audit:
    """Return the audit that ``10``, ``5%`` or ``0`` asks for; raises BitswapError for anything else."""
    match = re.fullmatch(r"([0-9]{1,9})|([0-9]{1,3}(?:\.[0-9]+)?)%", text)
    if match is None or (match[2] and float(match[2]) > 100):
        raise BitswapError(f"`audit`: expected a number of injections (10), a share (5%) or 0, found {text!r}")
    return Audit(int(match[1])) if match[1] else Audit(share=float(match[2]) / 100)


@contextmanager
def starting_workers(options: RunOptions, provider: str) -> Iterator[RunOptions]:
    """Give ``options`` with workers that start now, and load while a campaign is prepared; end those that it has left.

    None are started where some are waiting already, and none for a resumed run, which may be finished. For the
    ``provider`` auto, one is: it may turn out to be a GPU.
    """
    if options.resume or options.waiting:
        yield options
        return
    with workers_ahead(options.worker_count(provider)) as waiting:
        yield replace(options, waiting=waiting)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Return the bytes of free memory; 4 GiB on a system that does not tell."""
    info = Path("/proc/meminfo")
    match = re.search(r"MemAvailable:\s*(\d+) kB", info.read_text()) if info.is_file() else None
    return int(match[1]) * 1024 if match else 1 << 32
