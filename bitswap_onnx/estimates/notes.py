"""Notes that stand beside rates: what an estimate assumes, approximates or leaves out."""

NO_DESIGN = (
    "no design of the list is known: injections count as a simple random sample of a far larger population, all with "
    "the same weight and without a population correction (`design` names the file that faults generate wrote beside a list)"
)

RUN_BESIDE = (
    "the file lies in its run directory, which knows which inputs ran, and how faults were drawn; estimate that instead"
)


def plain_mean(share: float) -> str:
    """Return how the mean over the faults of a list with strata differs from the estimate."""
    return (
        "strata weigh as their part of all faults; the list drew some of them more often than others, and the plain mean of "
        f"the critical share over its faults is {100 * share:.4g} %"
    )


TOO_FEW = (
    "too few faults in some groups: even if all of them had the same outcome, the interval would reach past one half, so "
    "there is no estimate; strata from which the list drew no fault of the group count as unknown"
)

APPROXIMATE = (
    "some intervals are approximate: the number of faults that a group has in each stratum is not known (injections of "
    "several faults, strata given without their parts, or a file that does not tell bit classes), so it is estimated from "
    "the list"
)

TOO_FEW_INPUTS = (
    "too few inputs for the level of some rows: even if all of them had the same outcome, the interval would reach past one "
    "half, so there is no estimate"
)

UNKNOWN_GOLDEN = (
    "accuracy lost is left out: on some input every fault was critical, so the golden run's class there is not recorded"
)
