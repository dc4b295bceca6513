"""Inputs and labels: datasets, their preprocessing, readers of files, chunks of inputs."""
