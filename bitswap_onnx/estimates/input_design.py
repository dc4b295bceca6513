"""Which inputs the rates describe, and whether the intervals allow for the sampling of inputs."""

from dataclasses import dataclass

from bitswap_onnx.estimates.read import Recorded

CONDITIONAL = "Estimates are conditional on the inputs run: the intervals allow for other faults, not for other inputs"


@dataclass(frozen=True, slots=True)
class InputDesign:
    """How inputs were chosen.

    ``name``: the text of ``input_design`` in results. ``about``: one sentence that says which inputs the rates
    describe. ``notes``: warnings for the reader.
    """

    name: str
    about: str
    notes: tuple[str, ...] = ()


def input_design(recorded: Recorded, over_inputs: bool) -> InputDesign:
    """Return the input design of a source; with ``over_inputs`` its inputs count as a sample."""
    if over_inputs:
        return InputDesign(
            "two-way: faults and inputs sampled",
            "Estimates are over all inputs that those run were drawn from, taken as a random sample",
            (
                "inputs are a sample: shares of harmful faults are left out, and so are sdc_5, sdc_10 and sdc_20, which are "
                "not recorded per input",
                "the inputs' part of an interval is Student's interval of their means: where few inputs decide a rate, as "
                "with flips of low bits, it is too narrow unless many inputs ran",
            ),
        )
    if recorded.own_inputs is not None:
        number = f"{recorded.own_inputs:,}"
        shares = (
            f"a fault's share is that of the {number} inputs drawn for it: means over faults and their intervals cover that "
            "draw, so there is no population correction; shares of harmful faults are about these inputs, not about all"
        )
        lost = (
            "accuracy lost compares with the golden run over all inputs; those drawn for a fault are an unbiased sample"
        )
        return InputDesign(
            f"nested: {number} inputs of its own per fault",
            "Estimates are over all inputs of the golden run, of which each fault's own were drawn at random",
            (shares,) if recorded.accuracy is None else (shares, lost),
        )
    if recorded.named_inputs:
        return InputDesign("inputs that the faults name, conditional on them", CONDITIONAL)
    if recorded.from_file:
        return InputDesign("not known from a file, conditional on the inputs", CONDITIONAL)
    return InputDesign("all inputs of the run, conditional on them", CONDITIONAL)
