"""Figures of experiments, for papers and pages."""
