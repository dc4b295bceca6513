"""Random bit errors at a range of error rates."""
