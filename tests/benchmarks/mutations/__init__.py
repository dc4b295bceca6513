"""Damaged fault lists, models and datasets: each is read, or refused by an error of the library's family."""
