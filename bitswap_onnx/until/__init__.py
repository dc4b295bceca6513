"""Campaigns that stop when a share is known well enough."""
