"""The rankings that need no file."""

#: In order, they put first: the earliest layers; the latest; random ones; those with the most parameters; the most
#: multiply-accumulates; the largest weights (norm, mean exponent); the widest range of activations; the most sensitive to
#: other faults on the same inputs; the most sensitive to the faults that score it.
BUILTIN_RANKINGS = (
    *("index", "reverse", "random", "parameters", "macs", "weight-norm", "weight-exponent", "activation-range"),
    *("sensitivity", "oracle"),
)
