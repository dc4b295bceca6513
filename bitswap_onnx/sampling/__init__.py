"""Statistical fault lists: the population that faults are drawn from, their number, the draws, designs and files."""
