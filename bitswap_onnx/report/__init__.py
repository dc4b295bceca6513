"""Figures of numbers, for papers and notebooks; knows no experiment."""
