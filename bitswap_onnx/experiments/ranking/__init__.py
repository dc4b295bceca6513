"""Rankings of layers by how much their faults matter."""
