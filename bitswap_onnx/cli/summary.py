"""The summary of a finished campaign."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bitswap_onnx.cli.console import out, print_coverage, share, table
from bitswap_onnx.errors import amount

if TYPE_CHECKING:
    from bitswap_onnx.campaign.run import Campaign
    from bitswap_onnx.outcome import Counts

#: The words for spans of workers whose name says too little.
_SPAN_NAMES = {
    "controls": "null controls",
    "probing": "probing lanes",
    "golden": "golden values",
    "loading": "loading sessions",
}


#: The title of the table of outcomes.
OUTCOMES = "Outcomes, as shares of all inferences of a row"


def print_campaign(campaign: "Campaign", title: str = OUTCOMES) -> None:
    """Print shares per bit class, under a ``title``, the worst injections, how it ran, and the run directory."""
    golden, summary = campaign.golden, campaign.summary
    result = table(title, "Faults in", ">Injections", ">Masked", ">Non-critical", ">Critical", ">Critical with NaN/Inf")
    result.add_row("all bits", str(summary.injections), *_shares(summary.totals))
    for name, number, counts in summary.bit_classes:
        result.add_row(name, str(number), *_shares(counts))
    out.print(result)
    out.print(_rules(summary.totals))
    if summary.worst:
        worst = table("Worst injections", "Injection", "Layer", "First fault", ">Critical inputs")
        for identifier, layer, fault, critical, inputs in summary.worst:
            worst.add_row(identifier, layer, fault, f"{critical} of {inputs}")
        out.print(worst)
    if golden["coverage"]:
        from bitswap_onnx.graph.coverage import Coverage  # a campaign has loaded it already

        print_coverage(Coverage.from_stored(golden["coverage"]))
    if golden["lanes"]:
        out.print(_how(golden))
    if any(golden["seconds"].values()):
        out.print(_where_time_went(golden["seconds"]))
    out.print(f"run directory: {campaign.run}")


def print_totals(campaign: "Campaign") -> None:
    """Print what ran: network, data, number of injections, inputs and inferences, and the clean accuracy."""
    golden, summary = campaign.golden, campaign.summary
    totals = summary.totals
    accuracy = share(golden["top_1_correct"], golden["inputs"]) if golden["top_1_correct"] is not None else "unknown"
    over = "x" if totals["inputs"] == summary.injections * golden["inputs"] else "over some of"
    out.print(
        f"{golden['network']} on {golden['dataset']}: {amount(summary.injections, 'injection')} {over} "
        f"{amount(golden['inputs'], 'input')} "
        f"= {amount(totals['inputs'] or 0, 'inference', ',')}; clean top-1 accuracy {accuracy}"
    )


def _rules(totals: "Counts") -> str:
    """Return a sentence: what the outcomes in the table are."""
    critical = "the top-1 class is another"
    if totals["top_1_robust"] is None:
        critical = "an output moved by more than the tolerance"
    return (
        f"masked: all scores equal the golden ones; critical: {critical}; non-critical: the rest; "
        "critical with NaN/Inf is a part of critical"
    )


def _how(golden: dict[str, Any]) -> str:
    """Return a sentence: on which lanes the faulty paths ran, and how many injections were audited."""
    kinds = Counter(golden["lanes"].values())
    names = {
        "packed": "packed by channel",
        "neuron": "from golden neurons on",
        "stages": "one by one in their stage",
        "whole": "as whole models",
    }
    ways = ", ".join(f"{kinds[kind]} {name}" for kind, name in names.items() if kinds[kind])
    audited = len((golden["audit"] or {"checked": []})["checked"])
    given_up = len(golden["given_up"])
    return (
        f"lanes of the faulty layers and parameters: {ways}"
        + (f", {given_up} of these after a null control failed on a faster lane" if given_up else "")
        + (f"; audit: {amount(audited, 'injection')} ran again as whole models, all equal" if audited else "")
    )


def _where_time_went(seconds: Mapping[str, float]) -> str:
    """Return a sentence: the seconds of all workers, and the share of each span, the largest first."""
    total = sum(seconds.values())
    largest_first = sorted(seconds.items(), key=lambda span: -span[1])
    shares = ", ".join(f"{_SPAN_NAMES.get(name, name)} {100 * spent / total:.0f} %" for name, spent in largest_first)
    return f"time of all workers together: {total:,.1f} s: {shares}"


def _shares(counts: "Counts") -> list[str]:
    inputs = counts["inputs"]
    return [share(counts[name], inputs) for name in ("masked", "non_critical", "critical", "critical_nonfinite")]
