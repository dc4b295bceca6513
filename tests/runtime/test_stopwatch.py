"""The stopwatch: spans inside spans, under a clock that the tests turn."""

import threading

import pytest

from bitswap_onnx.runtime import stopwatch
from bitswap_onnx.runtime.stopwatch import Stopwatch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


def test_an_inner_span_is_taken_from_the_outer_one(clock: Clock) -> None:
    watch = Stopwatch()
    clock.now += 7
    with watch.span("faults"):
        clock.now += 1
        for _ in range(2):
            with watch.span("loading"):
                clock.now += 2
        clock.now += 0.5
        with watch.span("faults"):
            clock.now += 0.25
    clock.now += 9
    with watch.span("probing"):
        clock.now += 3
    assert watch.seconds == {"faults": 1.75, "loading": 4, "probing": 3}


def test_an_error_ends_its_spans(clock: Clock) -> None:
    watch = Stopwatch()

    @watch.span("inner")
    def fail() -> None:
        clock.now += 1
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"), watch.span("outer"):
        fail()
    clock.now += 1
    with watch.span("after"):
        clock.now += 1
    assert watch.seconds == {"inner": 1, "outer": 0, "after": 1}


def test_functions_are_measured_at_each_call(clock: Clock) -> None:
    watch = Stopwatch()

    @watch.span("called")
    def wait(seconds: float) -> float:
        clock.now += seconds
        return seconds

    assert [wait(1), wait(2)] == [1, 2]
    assert watch.seconds == {"called": 3}
    watch.restart()
    assert watch.seconds == {}


def test_threads_are_apart(clock: Clock) -> None:
    watch, found = Stopwatch(), dict[str, float]()

    def other() -> None:
        with watch.span("other"):
            clock.now += 1
        found.update(watch.seconds)

    with watch.span("own"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert (watch.seconds, found) == ({"own": 1}, {"other": 1})
