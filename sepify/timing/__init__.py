"""Latency of networks and layers, in turns, on this machine and on boards."""
