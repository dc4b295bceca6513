"""Architectures, each written once, and the small trained model that ships with the project."""
