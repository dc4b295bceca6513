"""Random faults in neurons, layer by layer."""
