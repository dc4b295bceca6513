"""The parent's side of the workers."""

import threading
from concurrent import futures
from typing import Any

import pytest

from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.runtime import pool
from bitswap_onnx.runtime.messages import Result, Unit, Work


def test_results_of_a_worker_come_in_the_order_of_its_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a worker is faster than its parent, which then finds two units done at once, in any order."""

    def both_done(running: Any, **_: Any) -> Any:
        futures.wait(running)
        return [*running][::-1], []

    monkeypatch.setattr(pool, "wait", both_done)
    monkeypatch.setattr(pool.Pool, "_send", lambda *_: Result([], [], [], [], 0.0, []))
    units = [Unit(Work(Chunk(i, i + 1), ()), str(i), [], "incremental", Chunk(0, 1)) for i in range(5)]
    to_take = iter(units)
    settings: Any = None  # none is read: no worker starts
    with pool.Pool(settings, 1) as workers:
        results = workers.run(lambda _: next(to_take, None), threading.Event())
        assert [unit.label for unit, _ in results] == ["0", "1", "2", "3", "4"]
