"""This process and those that it starts: its state, locks, memory, children and their limits."""
