"""What the steps of `tests.benchmarks.cuda_acceptance` mean: the checks that must hold, and a table to read."""

import re
from collections.abc import Iterator
from typing import TypeGuard

from tests.benchmarks.plain_scores import PROVIDERS
from tests.benchmarks.timed_steps import Found


def checks(report: Found) -> dict[str, bool]:
    """Return which checks hold; one whose step failed does not."""
    steps = {name: step for name, step in report["steps"].items() if step["failure"] is None}
    provider = PROVIDERS[report["provider"]]
    return {
        "provider_ran": steps.get("provider", {}).get("nodes", {}).get(provider, 0) > 0,
        "golden_twice_equal": steps.get("golden", {}).get("rows_with_other_bits") == 0,
        "controls_masked": all_masked(report["steps"]),
        "fast_equals_slow": equal(steps.get("slow")),
        "neurons_fast_equals_slow": equal(steps.get("neurons")),
        **({"digits_fast_equals_slow": equal(steps.get("digits"))} if "digits" in report["steps"] else {}),
    }


def equal(step: Found | None) -> bool:
    return step is not None and step["compared"] > 0 and step["different"] == 0


def all_masked(steps: Found) -> bool:
    """Whether all campaigns ran, had null controls, and all of these were masked."""
    campaigns = [step for name, step in steps.items() if name not in ("provider", "golden", "tf32")]
    if any(step["failure"] is not None for step in campaigns):
        return False
    controls = [part["controls"] for step in campaigns for part in (step, *step.values()) if has_controls(part)]
    return all(one["run"] == one["masked"] > 0 and not one["lanes_given_up"] for one in controls)


def has_controls(part: object) -> TypeGuard[Found]:
    return isinstance(part, dict) and "controls" in part


def table(report: Found) -> str:
    """Return the report in Markdown."""
    machine = report["machine"]
    found = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gpu = " ".join((machine["gpu"] or {"name": "no GPU"}).values())
    lines = [
        f"# {report['network']} on {report['provider']}",
        "",
        f"{gpu}; {machine['processor']}, {machine['cores']} cores; {found}",
        "",
        *markdown(("check", "holds"), [(name, "yes" if holds else "NO") for name, holds in report["checks"].items()]),
        "",
        *markdown(
            ("step", "s", "found", "GPU busy %", "GPU MiB"), [row(name, step) for name, step in report["steps"].items()]
        ),
    ]
    return "\n".join(lines) + "\n"


def markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    yield from (f"| {' | '.join(cells)} |" for cells in rows)


def row(name: str, step: Found) -> tuple[str, ...]:
    use = step["gpu"] or {}
    found = one_line(step["failure"]) if step["failure"] else "; ".join(phrases(step))
    return name, f"{step['seconds']:.1f}", found, str(use.get("busy_percent", "")), str(use.get("most_memory_mib", ""))


def one_line(text: str) -> str:
    """Return a message as a cell: without the runtime's colours, line ends and bars."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split()).replace("|", "/")


def phrases(step: Found) -> Iterator[str]:
    """Yield what a step found, in words."""
    if "nodes" in step:
        yield "nodes per batch: " + ", ".join(f"{count} {provider}" for provider, count in step["nodes"].items())
    if "accuracy" in step:
        yield f"{step['rows_with_other_bits']} of {step['inputs']} rows differ, accuracy {step['accuracy']:.2%}"
    for name in ("on_against_off", "off_against_golden"):
        if name in step:
            yield f"{name.replace('_', ' ')}: {far_apart(step[name])}"
    for name, part in (("", step), ("fast: ", step.get("fast")), ("slow: ", step.get("slow"))):
        if has_controls(part):
            yield name + campaign(part)
    if "whole_list_seconds" in step:
        yield f"{step['share_of_list_done']:.2%} of the list done, all of it: {step['whole_list_seconds']:,.0f} s"
    if "compared" in step:
        where = f"on {step['inferences_compared']:,} inferences"
        yield f"{step['different']} of {step['compared']} injections count otherwise {where}"


def far_apart(found: Found) -> str:
    return (
        f"{found['rows_with_other_bits']} of {found['inputs']} rows and {found['predictions_differ']} predictions differ, "
        f"scores by up to {found['largest_difference']:.2g}"
    )


def campaign(found: Found) -> str:
    lanes = ", ".join(f"{count} {lane}" for lane, count in found["paths_by_lane"].items())
    stopped = "" if found["finished"] else ", stopped"
    return (
        f"{found['faults']:,} faults, {found['inferences']:,} inferences in {found['seconds']:.1f} s{stopped}, "
        f"{found['inferences_per_second']:,.0f}/s, paths: {lanes}"
    )
