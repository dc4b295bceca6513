"""Statistical fault lists: what they are drawn from, how many faults, which ones."""
