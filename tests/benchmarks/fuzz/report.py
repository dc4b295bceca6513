"""What a run of the fuzzer prints."""

from collections import Counter

from tests.benchmarks.fuzz.outcome import Outcome

_TOPICS = (
    *("operator", "fault", "injection", "lane", "layout", "fusion", "batch size", "dtype", "opset", "mixing"),
    *("specification", "uncut", "place", "refused"),
)


def summary(outcome: Outcome, seconds: float) -> str:
    """Return the report of all networks."""
    met = outcome.met
    networks, inferences = met["network", "run"], met["compared", "inferences"]
    lines = [
        f"{networks} networks ({met['network', 'not usable']} of {met['network', 'drawn']} drawn were not usable), "
        f"{outcome.total('injection'):,} injections, {inferences:,} inferences compared, {seconds:.0f} s, "
        f"{networks / max(seconds, 1e-9):.2f} networks per second"
    ]
    lines += [_topic(met, topic) for topic in _TOPICS if any(kind == topic for kind, _ in met)]
    kinds = Counter(finding.kind for finding in outcome.findings)
    hit = len({finding.number for finding in outcome.findings})
    lines.append(f"findings: {len(outcome.findings)} in {hit} networks: {dict(kinds)}" if kinds else "no differences")
    return "\n".join(lines)


def _topic(met: Counter[tuple[str, str]], topic: str) -> str:
    names = {name: times for (kind, name), times in met.items() if kind == topic}
    ordered = sorted(names.items(), key=lambda entry: (-entry[1], entry[0]))
    return f"{topic}: " + ", ".join(f"{name} {times}" for name, times in ordered)
