"""Statistics on arrays: intervals, variances, allocation. Knows numpy and scipy, no files and no models."""
