"""Statistics on arrays: intervals, variances, allocation. Reads no files and no models."""
