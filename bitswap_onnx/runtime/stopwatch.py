"""Where the time of a worker goes: named spans, each without the time of the spans inside it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: The names under which a campaign keeps the seconds of its workers. ``faults``, ``controls`` (null controls), ``probing``
#: (the search for lanes), ``golden`` (golden values) and ``loading`` (sessions) are spans of a worker; ``start`` is the time
#: from the start of a worker to its first answer, ``audit`` all that the audit took.
SPANS = ("faults", "controls", "probing", "golden", "loading", "start", "audit")


class Stopwatch(threading.local):
    """Seconds by the name of a span. The time in an inner span is taken from the outer one; time outside counts nowhere.

    Each thread has a measurement of its own.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        self._since = 0.0
        self.restart()

    def restart(self) -> None:
        """Forget the seconds so far."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Measure a ``with`` block, or as a decorator each call of a function (a generator is not measured)."""
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def _settle(self) -> None:
        """Give the time since the last call to the innermost open span."""
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


#: The stopwatch of this process. A worker runs one unit at a time, so what stands on it at the end of a unit is that unit's;
#: handing it down would give every session, lane and golden value a parameter that has nothing to do with its work.
STOPWATCH = Stopwatch()
