"""Two models, or two runs, compared fault by fault."""
