"""The tools in whose formats results can be written."""

DIALECTS = ("dnn-benchmarks", "tf_injector")
