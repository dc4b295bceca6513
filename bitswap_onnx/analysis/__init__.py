"""What finished campaigns say: estimates and comparisons. Reads stores; runs campaigns only through `campaign`."""
