"""Held-out images, statistics, fidelity, and when a network is handed over with a warning."""
