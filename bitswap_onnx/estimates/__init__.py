"""Rates with intervals from runs and published results files, per network, layer and bit."""
