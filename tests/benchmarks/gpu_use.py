"""What ``nvidia-smi`` tells of the GPU: its name, and how busy it is while something runs. Nothing where it is absent."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import mean

PERIOD_MS = 200


@dataclass
class Use:
    """Samples of (share of the time in which a kernel ran, in percent; memory in MiB)."""

    samples: list[tuple[int, int]] = field(default_factory=list)

    def summary(self) -> dict[str, float] | None:
        if not self.samples:
            return None
        busy, memory = zip(*self.samples, strict=True)
        return {"busy_percent": round(mean(busy), 1), "most_memory_mib": max(memory), "samples": len(busy)}


@contextmanager
def sampled_use() -> Iterator[Use]:
    """Sample the first GPU in the background; the samples are there at the end."""
    use = Use()
    query = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", f"-lms={PERIOD_MS}", "--id=0"]
    try:
        process = subprocess.Popen(["nvidia-smi", *query], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield use
        return
    try:
        yield use
    finally:
        process.terminate()
        use.samples = parse_samples(process.communicate()[0])


def parse_samples(text: str) -> list[tuple[int, int]]:
    """Return the samples of whole lines with two numbers; others say that a number is not supported."""
    cells = [line.split(",") for line in text.splitlines()]
    return [
        (int(row[0]), int(row[1])) for row in cells if len(row) == 2 and all(cell.strip().isdigit() for cell in row)
    ]


def gpu() -> dict[str, str] | None:
    """Return the first GPU's name, driver and memory."""
    names = ("name", "driver_version", "memory.total")
    query = ["--query-gpu=" + ",".join(names), "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(names, (cell.strip() for cell in done.stdout.split(",")), strict=True))
